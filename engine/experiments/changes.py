"""Mild changes a picture undergoes on its way, under which marks are measured."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Levels = NDArray[np.uint8]

QUALITY: Final = 75
"""Of the JPEG compression."""


def _resize(levels: Levels, generator: np.random.Generator) -> Levels:
    """Shrink to 75-95 % and enlarge to the old size."""
    rows, columns = levels.shape[:2]
    factor = generator.uniform(0.75, 0.95)
    small = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    picture = Image.fromarray(levels).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))


def _blur(levels: Levels, generator: np.random.Generator) -> Levels:
    """Blur with a Gaussian of σ 0.5-1 pixel."""
    radius = generator.uniform(0.5, 1.0)
    return np.asarray(Image.fromarray(levels).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(levels: Levels, generator: np.random.Generator) -> Levels:
    """Compress and decompress; the generator has no say in it."""
    del generator
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="JPEG", quality=QUALITY)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _brightness(levels: Levels, generator: np.random.Generator) -> Levels:
    """Multiply by 0.85-1.15."""
    bright = np.floor(levels * generator.uniform(0.85, 1.15) + 0.5)
    clipped: Levels = np.clip(bright, 0, LEVELS).astype(np.uint8)
    return clipped


_CHANGES: Final[dict[str, Callable[[Levels, np.random.Generator], Levels]]] = {
    "resize": _resize,
    "blur": _blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
}

CHANGES: Final = tuple(_CHANGES)
"""Names of the changes, in the order of `changed`."""


def changed(levels: Levels, generator: np.random.Generator) -> list[Levels]:
    """One picture per change of `CHANGES`.

    Parameters
    ----------
    levels
        ``(rows, columns, 3)`` uint8.
    generator
        Draws the strength of each; the same state gives the same changes, so
        that all marks on an image undergo the same.

    Returns
    -------
    list of NDArray[np.uint8]
        Each of the shape of `levels`.
    """
    return [change(levels, generator) for change in _CHANGES.values()]
