"""Lays pictures and captions out on a sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE: Final = 280
"""Longest side of a picture, in pixels of the sheet."""

GAP: Final = 8
CAPTION: Final = 250
CAPTION_LETTERS: Final = 32
LINE_HEIGHT: Final = 20
HEAD: Final = 44
PAPER: Final = (250, 250, 248)
INK: Final = (20, 20, 20)
TITLE_SIZE: Final = 22
TEXT_SIZE: Final = 15


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture and what it is; levels ``(rows, columns[, 3])`` uint8."""

    caption: str
    levels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One example: its caption's lines, and its pictures from left to right."""

    caption: Sequence[str]
    tiles: Sequence[Tile]


def draw_sheet(title: str, lines: Sequence[Line]) -> Image.Image:
    """Draw examples under each other.

    Parameters
    ----------
    title
        Above them all.
    lines
        Each with the same number of pictures.
    """
    pictures = [[_fitted(tile.levels) for tile in line.tiles] for line in lines]
    heights = [
        _line_height(line, made) for line, made in zip(lines, pictures, strict=True)
    ]
    columns = max(len(line.tiles) for line in lines)
    width = CAPTION + columns * (TILE + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, HEAD + sum(heights) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, INK, ImageFont.load_default(TITLE_SIZE))
    top = HEAD
    for line, made, height in zip(lines, pictures, heights, strict=True):
        _draw_line(sheet, pen, line, made, top)
        top += height
    return sheet


def _draw_line(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    line: Line,
    pictures: Sequence[Image.Image],
    top: int,
) -> None:
    font = ImageFont.load_default(TEXT_SIZE)
    pen.line([(GAP, top), (sheet.width - GAP, top)], (205, 205, 200))
    for number, words in enumerate(_wrapped(line.caption)):
        place = GAP, top + GAP + (number + 1) * LINE_HEIGHT
        pen.text(place, words, INK, font)
    for column, (tile, picture) in enumerate(zip(line.tiles, pictures, strict=True)):
        left = CAPTION + GAP + column * (TILE + GAP)
        pen.text((left, top + GAP // 2), tile.caption, INK, font)
        sheet.paste(picture, (left, top + GAP + LINE_HEIGHT))


def _wrapped(caption: Sequence[str]) -> list[str]:
    """Break captions where their column ends; names break anywhere."""
    return [
        piece for words in caption for piece in textwrap.wrap(words, CAPTION_LETTERS)
    ]


def _line_height(line: Line, pictures: Sequence[Image.Image]) -> int:
    text = (len(_wrapped(line.caption)) + 1) * LINE_HEIGHT
    tallest = LINE_HEIGHT + max(picture.height for picture in pictures)
    return max(text, tallest) + 3 * GAP


def _fitted(levels: NDArray[np.uint8]) -> Image.Image:
    """Scale a picture into its tile; small ones are enlarged without smoothing."""
    image = Image.fromarray(levels)
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize(size, how).convert("RGB")
