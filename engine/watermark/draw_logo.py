"""Draws the packaged logo: ``python -m engine.watermark.draw_logo [FILE]``.

A shield with a tick beside the words MIAD / PROTECTED, on a white plate with
round corners, 441x245 pixels (the size of the logo in the paper). The plate
matters: without it, on the same brain MR images and budget, HE-SIT misled the
ensemble half as often.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

WIDTH: Final = 441
HEIGHT: Final = 245
_OVERSAMPLING: Final = 4
_TEAL: Final = (0, 137, 150, 255)
_AMBER: Final = (250, 170, 30, 255)
_NAVY: Final = (18, 44, 92, 255)
_WHITE: Final = (255, 255, 255, 255)

# Outline of the shield and the tick on it, in pixels of the finished logo.
_PLATE: Final = ((0, 0), (WIDTH - 1, HEIGHT - 1))
_SHIELD: Final = (
    (28, 52),
    (88, 30),
    (148, 52),
    (148, 122),
    (138, 162),
    (118, 192),
    (88, 216),
    (58, 192),
    (38, 162),
    (28, 122),
)
_TICK: Final = ((58, 122), (81, 148), (120, 88))


def _scaled(points: tuple[tuple[int, int], ...]) -> list[tuple[float, float]]:
    return [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]


def draw() -> Image.Image:
    """Draw the logo as a 441x245 RGBA picture."""
    size = (WIDTH * _OVERSAMPLING, HEIGHT * _OVERSAMPLING)
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle(
        _scaled(_PLATE),
        radius=36 * _OVERSAMPLING,
        fill=_WHITE,
        outline=_NAVY,
        width=9 * _OVERSAMPLING,
    )
    pen.polygon(_scaled(_SHIELD), fill=_TEAL)
    pen.line(
        [*_scaled(_SHIELD), *_scaled(_SHIELD[:2])],
        fill=_NAVY,
        width=9 * _OVERSAMPLING,
        joint="curve",
    )
    pen.line(_scaled(_TICK), fill=_WHITE, width=19 * _OVERSAMPLING, joint="curve")
    _word(pen, "MIAD", (168, 44), 98)
    _word(pen, "PROTECTED", (168, 142), 42)
    pen.rectangle(_scaled(((168, 196), (414, 208))), fill=_AMBER)
    # Premultiplied while averaging: no dark fringe from transparent pixels.
    small = picture.convert("RGBa").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return small.convert("RGBA")


def _word(
    pen: ImageDraw.ImageDraw,
    text: str,
    at: tuple[int, int],
    height: int,
) -> None:
    font = ImageFont.load_default(size=height * _OVERSAMPLING)
    pen.text(
        _scaled((at,))[0],
        text,
        font=font,
        fill=_NAVY,
        stroke_width=3 * _OVERSAMPLING,
        stroke_fill=_NAVY,
        anchor="lt",
    )


def main(arguments: list[str]) -> None:
    """Write the logo to the first argument, by default into the package."""
    default = Path(__file__).parent / "assets" / "logo.png"
    target = Path(arguments[0]) if arguments else default
    draw().save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
