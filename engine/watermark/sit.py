"""The semantic-invariant transform of the logo: rotation and HSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.types import SIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.params import SITRanges

_HUES = 256
"""Hue steps of Pillow's HSV bytes around the circle."""


def draw(ranges: SITRanges, generator: np.random.Generator) -> SIT:
    """One transform, each parameter uniform in its range.

    Parameters
    ----------
    ranges
        What a brand owner allows.
    generator
        Source of the four draws.
    """
    return SIT(
        rotation=float(generator.uniform(*ranges.rotation)),
        hue=float(generator.uniform(*ranges.hue)),
        saturation=float(generator.uniform(*ranges.saturation)),
        value=float(generator.uniform(*ranges.value)),
    )


def apply(
    rgba: NDArray[np.uint8], sit: SIT, *, grey: bool = False
) -> NDArray[np.uint8]:
    """Transform a logo that already has its final scale: HSV, then rotation.

    Parameters
    ----------
    rgba
        ``(h, w, 4)`` uint8, not premultiplied.
    sit
        The transform. Hue and saturation say nothing about a grey logo.
    grey
        Use the luma of the logo only.

    Returns
    -------
    NDArray[np.uint8]
        ``(h'', w'', 4)`` uint8, premultiplied, cut to what is not transparent.
    """
    colour = _value(rgba, sit) if grey else _hsv(rgba, sit)
    alpha = rgba[..., 3:4].astype(np.uint16)
    shade = (colour.astype(np.uint16) * alpha + 127) // 255
    planes = np.concatenate([shade, alpha], axis=2).astype(np.uint8)
    turned = _cut(_rotate(planes, sit.rotation))
    return turned if not grey else turned[..., [0, 0, 0, 1]]


def _value(rgba: NDArray[np.uint8], sit: SIT) -> NDArray[np.uint8]:
    luma = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    scaled = np.clip(np.rint(luma * sit.value), 0, 255).astype(np.uint8)
    return scaled[..., None]


def _hsv(rgba: NDArray[np.uint8], sit: SIT) -> NDArray[np.uint8]:
    if (sit.hue, sit.saturation, sit.value) == (0.0, 1.0, 1.0):
        return rgba[..., :3]
    hsv = np.array(Image.fromarray(rgba[..., :3]).convert("HSV"), dtype=np.float64)
    hsv[..., 0] = (hsv[..., 0] + sit.hue / 360 * _HUES) % _HUES
    hsv[..., 1] *= sit.saturation
    hsv[..., 2] *= sit.value
    hsv[..., 1:] = np.clip(np.rint(hsv[..., 1:]), 0, 255)
    planes = [Image.fromarray(np.uint8(hsv[..., c])) for c in range(3)]
    return np.asarray(Image.merge("HSV", planes).convert("RGB"))


def _rotate(premultiplied: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    if degrees == 0:
        return premultiplied
    # Channels one by one: Pillow would un-premultiply an RGBA picture.
    planes = [
        np.asarray(
            Image.fromarray(premultiplied[..., c]).rotate(
                degrees, Image.Resampling.BICUBIC, expand=True
            )
        )
        for c in range(premultiplied.shape[2])
    ]
    return bounded(np.stack(planes, axis=2))


def bounded(premultiplied: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """No channel above its alpha, as premultiplied colour demands.

    Resampling with negative lobes can overshoot; blending would then leave
    the range between image and logo.

    Parameters
    ----------
    premultiplied
        ``(h, w, C)`` uint8, alpha last.
    """
    return np.minimum(premultiplied, premultiplied[..., -1:])


def _cut(premultiplied: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows = np.flatnonzero(premultiplied[..., -1].any(axis=1))
    columns = np.flatnonzero(premultiplied[..., -1].any(axis=0))
    if rows.size == 0:
        return premultiplied
    cut = premultiplied[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(cut)
