"""Draws the packaged logo: ``python -m engine.watermark.draw_logo [FILE]``.

A shield with a tick beside the words MIAD / PROTECTED, on a transparent
ground, 441x245 pixels (the size of the logo in the paper). Bright and solid:
medical images are mostly dark, and such a mark misleads classifiers far more
than one with dark outlines at the same opacity (measured, see docs/engine.md).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

WIDTH: Final = 441
HEIGHT: Final = 245
_OVERSAMPLING: Final = 4
_WHITE: Final = (255, 255, 255, 255)
_TICK_COLOUR: Final = (170, 205, 220, 255)
_BAR_COLOUR: Final = (255, 240, 190, 255)

# Outline of the shield and the tick on it, in pixels of the design.
_SHIELD: Final = (
    (18, 34),
    (88, 10),
    (158, 34),
    (158, 118),
    (146, 166),
    (122, 202),
    (88, 232),
    (54, 202),
    (30, 166),
    (18, 118),
)
_TICK: Final = ((52, 116), (80, 148), (128, 76))


def _scaled(points: tuple[tuple[int, int], ...]) -> list[tuple[float, float]]:
    return [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]


def draw() -> Image.Image:
    """Draw the logo as a 441x245 RGBA picture."""
    size = (WIDTH * _OVERSAMPLING, HEIGHT * _OVERSAMPLING)
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    pen.polygon(_scaled(_SHIELD), fill=_WHITE)
    pen.line(
        [*_scaled(_SHIELD), *_scaled(_SHIELD[:2])],
        fill=_WHITE,
        width=9 * _OVERSAMPLING,
        joint="curve",
    )
    pen.line(_scaled(_TICK), fill=_TICK_COLOUR, width=13 * _OVERSAMPLING, joint="curve")
    _word(pen, "MIAD", (177, 38), 100)
    _word(pen, "PROTECTED", (177, 146), 43)
    pen.rectangle(_scaled(((177, 204), (431, 217))), fill=_BAR_COLOUR)
    tight = picture.crop(picture.getbbox())
    # Premultiplied while averaging: no dark fringe from transparent pixels.
    small = tight.convert("RGBa").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return small.convert("RGBA")


def _word(
    pen: ImageDraw.ImageDraw, text: str, at: tuple[int, int], height: int
) -> None:
    font = ImageFont.load_default(size=height * _OVERSAMPLING)
    pen.text(
        _scaled((at,))[0],
        text,
        font=font,
        fill=_WHITE,
        stroke_width=4 * _OVERSAMPLING,
        stroke_fill=_WHITE,
        anchor="lt",
    )


def main(arguments: list[str]) -> None:
    """Write the logo to the first argument, by default into the package."""
    default = Path(__file__).parent / "assets" / "logo.png"
    target = Path(arguments[0]) if arguments else default
    draw().save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
