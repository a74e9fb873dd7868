"""A pen for drawings with smooth edges, on Pillow alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

_FINE: Final = 2
"""Factor at which a drawing is made before it is scaled down."""

Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""

Point = tuple[float, float]
"""Column and row in pixels of the finished drawing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A rectangle of a drawing and the values its edges stand for.

    Attributes
    ----------
    left, top, right, bottom
        In pixels.
    across
        Values at the left and at the right edge.
    down
        Values at the top and at the bottom edge.
    """

    left: float
    top: float
    right: float
    bottom: float
    across: tuple[float, float]
    down: tuple[float, float]

    def at(self, x: float, y: float) -> Point:
        """Where a pair of values lies."""
        (x0, x1), (y0, y1) = self.across, self.down
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.top + (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )


class Pen:
    """Draws in pixels of the finished drawing.

    Parameters
    ----------
    size
        Width and height.
    ground
        Colour of the background.
    """

    def __init__(self, size: tuple[int, int], ground: Colour) -> None:
        self._size = size
        self._ground = ground
        self._canvas = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), ground)
        self._draw = ImageDraw.Draw(self._canvas, "RGBA")

    def text(
        self, at: Point, words: str, ink: Colour, *, size: int = 15, anchor: str = "la"
    ) -> float:
        """Write words; `anchor` is Pillow's. Gives their width in pixels."""
        font = ImageFont.load_default(size * _FINE)
        self._draw.text(_fine(at), words, fill=ink, font=font, anchor=anchor)
        return float(font.getlength(words)) / _FINE

    def line(self, points: Sequence[Point], ink: Colour, *, width: float = 1) -> None:
        """Draw a line through points."""
        stroke = max(1, round(width * _FINE))
        self._draw.line(
            [_fine(p) for p in points], fill=ink, width=stroke, joint="curve"
        )

    def dashes(self, a: Point, b: Point, ink: Colour, *, dash: float = 6) -> None:
        """Draw a broken line from a to b."""
        count = max(1, round(math.dist(a, b) / (2 * dash)))
        step = (b[0] - a[0]) / count, (b[1] - a[1]) / count
        for i in range(count):
            start = a[0] + i * step[0], a[1] + i * step[1]
            self.line([start, (start[0] + step[0] / 2, start[1] + step[1] / 2)], ink)

    def dot(self, at: Point, radius: float, ink: Colour) -> None:
        """Draw a disc with a thin dark rim, so that neighbours stay apart."""
        self._draw.ellipse(_around(at, radius), fill=ink, outline=self._ground)

    def ring(self, at: Point, radius: float, ink: Colour) -> None:
        """Draw a circle."""
        self._draw.ellipse(_around(at, radius), outline=ink, width=2 * _FINE)

    def outline(self, corners: Sequence[Point], ink: Colour, *, width: float) -> None:
        """Draw a closed polygon."""
        self.line([*corners, *corners[:2]], ink, width=width)

    def area(self, a: Point, b: Point, ink: Colour, *, opacity: int = 255) -> None:
        """Fill a rectangle; `opacity` 0..255."""
        self._draw.rectangle((*_fine(a), *_fine(b)), fill=(*ink, opacity))

    def paste(self, picture: Image.Image, panel: Panel) -> None:
        """Fill a panel with a picture."""
        (x0, y0), (x1, y1) = (
            _fine((panel.left, panel.top)),
            _fine((panel.right, panel.bottom)),
        )
        size = max(1, round(x1 - x0)), max(1, round(y1 - y0))
        shown = picture.resize(size, Image.Resampling.BICUBIC)
        self._canvas.paste(shown, (round(x0), round(y0)))

    def finished(self) -> Image.Image:
        """Scale down to the final size."""
        return self._canvas.resize(self._size, Image.Resampling.LANCZOS)


def _fine(at: Point) -> Point:
    return at[0] * _FINE, at[1] * _FINE


def _around(at: Point, radius: float) -> tuple[float, float, float, float]:
    (x, y), r = _fine(at), radius * _FINE
    return x - r, y - r, x + r, y + r


def mixed(scale: Sequence[Colour], share: float) -> Colour:
    """Pick the colour at a share 0..1 of a scale of evenly spaced colours."""
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    a, b, t = scale[low], scale[low + 1], place - low
    red, green, blue = (round(p + (q - p) * t) for p, q in zip(a, b, strict=True))
    return red, green, blue


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about `count` round numbers between low and high, low < high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]
