"""Random marks on images: what a remover is trained on.

Marks are the project's own logo, words and plain shapes, turned and recoloured
like the logo itself (Eq. 2: position and α uniform).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engine.params import SITRanges
from engine.types import SIT
from engine.watermark import sit as transforms
from engine.watermark.logo import Logo, load_logo
from engine.watermark.patch import render_patch, scaled_size

MASK_THRESHOLD: Final = 0.1
"""Matte above which a pixel counts as marked."""

_LETTERS: Final = "ABCDEFGHKLMNPRSTUVXYZ0123456789"
_SIDE: Final = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkRanges:
    """Ranges random marks are drawn from, each (low, high).

    ``sl`` is the logo scale of Eq. 5, ``alpha`` the opacity; ``logos`` the share
    of marks made from the logo, the rest are words and shapes.
    """

    sl: tuple[float, float] = (1.4, 4.0)
    alpha: tuple[float, float] = (0.05, 0.8)
    logos: float = 0.6
    sit: SITRanges = field(default_factory=SITRanges)


class Composite(NamedTuple):
    """A batch of marked images and the truth about them.

    All float32, ``(N, 3, H, W)`` or ``(N, 1, H, W)``, in [0, 1].

    Attributes
    ----------
    marked, host
        The image with and without the mark.
    mask
        1 where there is a mark.
    alpha
        Opacity times matte.
    watermark
        Colours of the mark, zero outside it.
    """

    marked: torch.Tensor
    host: torch.Tensor
    mask: torch.Tensor
    alpha: torch.Tensor
    watermark: torch.Tensor


class Marker:
    """Draws random marks.

    Parameters
    ----------
    ranges
        What to draw.
    logo
        The logo; None for the packaged one.
    """

    def __init__(
        self, ranges: MarkRanges | None = None, logo: Logo | None = None
    ) -> None:
        self.ranges = ranges or MarkRanges()
        self.logo = _shrunk(logo or load_logo())

    def patch(
        self, side: int, rng: np.random.Generator, *, grey: bool
    ) -> NDArray[np.uint8]:
        """One random mark for a frame of `side` by `side` pixels.

        Returns
        -------
        NDArray[np.uint8]
            ``(h, w, 4)`` premultiplied RGBA, no larger than the frame.
        """
        logo = self.logo if rng.random() < self.ranges.logos else random_logo(rng)
        size = scaled_size((side, side), logo.size, rng.uniform(*self.ranges.sl))
        drawn = transforms.draw(self.ranges.sit, rng)
        patch = render_patch(logo, size, drawn, grey=grey)
        if max(patch.shape[:2]) > side:
            patch = render_patch(logo, size, SIT(value=drawn.value), grey=grey)
        return patch

    def composite(self, host: torch.Tensor, rng: np.random.Generator) -> Composite:
        """Put one random mark on each image.

        Parameters
        ----------
        host
            ``(N, 3, S, S)`` float32 in [0, 1]; gray images get gray marks.
        """
        return blend_layer(host, *self.layer(host, rng))

    def layer(
        self, host: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one random mark for each image, as a layer to blend.

        Returns
        -------
        layer, opacity
            As `blend_layer` takes them.
        """
        n, _, rows, columns = host.shape
        layer = torch.zeros(n, 4, rows, columns)
        opacity = torch.empty(n, 1, 1, 1)
        for i in range(n):
            grey = bool((host[i] == host[i, :1]).all())
            patch = self.patch(min(rows, columns), rng, grey=grey)
            h, w = patch.shape[:2]
            y, x = rng.integers(rows - h + 1), rng.integers(columns - w + 1)
            pixels = torch.from_numpy(patch).permute(2, 0, 1).float() / 255
            layer[i, :, y : y + h, x : x + w] = pixels
            opacity[i] = float(rng.uniform(*self.ranges.alpha))
        return layer, opacity


def blend_layer(
    host: torch.Tensor, layer: torch.Tensor, opacity: torch.Tensor
) -> Composite:
    """Eq. 6 with a full-size layer.

    Parameters
    ----------
    host
        ``(N, 3, H, W)`` in [0, 1].
    layer
        ``(N, 4, H, W)`` premultiplied RGBA in [0, 1].
    opacity
        ``(N, 1, 1, 1)`` in [0, 1].
    """
    colour, matte = layer[:, :3], layer[:, 3:]
    return Composite(
        marked=opacity * colour + (1 - opacity * matte) * host,
        host=host,
        mask=(matte > MASK_THRESHOLD).float(),
        alpha=opacity * matte,
        watermark=torch.where(matte > 0, colour / matte.clamp(min=1e-3), 0).clamp(0, 1),
    )


def _shrunk(logo: Logo) -> Logo:
    """Shrink the logo to a size that is quick to resample thousands of times."""
    image = Image.fromarray(logo.rgba).convert("RGBa")
    image.thumbnail((_SIDE * 2, _SIDE * 2))
    return Logo(rgba=np.asarray(image.convert("RGBA")), sha256=logo.sha256)


def random_logo(rng: np.random.Generator) -> Logo:
    """Make up a logo: a word, shapes, or both, in random colours."""
    width = int(rng.integers(_SIDE // 2, _SIDE * 2))
    image = Image.new("RGBA", (width, _SIDE), (0, 0, 0, 0))
    canvas = ImageDraw.Draw(image)
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            _draw_shape(canvas, (width, _SIDE), rng)
    if rng.random() < 0.7 or image.getbbox() is None:
        _draw_word(canvas, width, rng)
    box = image.getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 16:
        canvas.ellipse((width // 4, _SIDE // 4, width * 3 // 4, _SIDE * 3 // 4), "gray")
        box = image.getbbox()
    return Logo(rgba=np.asarray(image.crop(box)), sha256="")


def _colour(rng: np.random.Generator) -> tuple[int, int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b, int(rng.choice([255, 255, 180]))


def _draw_shape(
    canvas: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
) -> None:
    xs = sorted(int(v) for v in rng.integers(0, size[0], 2))
    ys = sorted(int(v) for v in rng.integers(0, size[1], 2))
    box = (xs[0], ys[0], xs[1], ys[1])
    stroke = int(rng.integers(4, 24))
    match int(rng.integers(5)):
        case 0:
            canvas.ellipse(box, fill=_colour(rng))
        case 1:
            canvas.ellipse(box, outline=_colour(rng), width=stroke)
        case 2:
            canvas.rounded_rectangle(box, radius=stroke, fill=_colour(rng))
        case 3:
            canvas.line(box, fill=_colour(rng), width=stroke)
        case _:
            points = [
                (int(rng.integers(size[0])), int(rng.integers(size[1])))
                for _ in range(int(rng.integers(3, 6)))
            ]
            canvas.polygon(points, fill=_colour(rng))


def _draw_word(
    canvas: ImageDraw.ImageDraw, width: int, rng: np.random.Generator
) -> None:
    letters = rng.choice(list(_LETTERS), int(rng.integers(2, 8)))
    word = "".join(str(letter) for letter in letters)
    font = ImageFont.load_default(float(min(200, 1.5 * width / len(word))))
    stroke = int(rng.integers(0, 5))
    canvas.text(
        (width // 2, _SIDE // 2),
        word,
        fill=_colour(rng),
        font=font,
        anchor="mm",
        stroke_width=stroke,
        stroke_fill=_colour(rng),
    )
