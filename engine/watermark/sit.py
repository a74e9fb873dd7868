"""The semantic-invariant transform of the logo: rotation and HSV."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

import cv2
import numpy as np
from PIL import Image

from engine.types import SIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.params import SITRanges

_HUES: Final = 256
"""Hue steps of Pillow's HSV bytes around the circle."""

Level = TypeVar("Level", np.uint8, np.float32)
"""Planes are bytes, or floats on their way to the model grid."""

_BYTES: Final = np.arange(256, dtype=np.float64)


def draw(ranges: SITRanges, generator: np.random.Generator) -> SIT:
    """One transform, each parameter uniform in its range.

    Parameters
    ----------
    ranges
        What a brand owner allows; equal bounds fix a parameter.
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
    turned, _ = cut(turn(coloured(rgba, sit, grey=grey), sit.rotation))
    return turned if not grey else turned[..., [0, 0, 0, 1]]


def coloured(
    rgba: NDArray[np.uint8], sit: SIT, *, grey: bool = False
) -> NDArray[np.uint8]:
    """Change the colours of a logo and premultiply them.

    Every pixel is changed on its own, so a list of colours will do as well.

    Parameters
    ----------
    rgba
        ``(h, w, 4)`` uint8, not premultiplied.
    sit
        The transform; its rotation is not looked at.
    grey
        Use the luma of the logo only.

    Returns
    -------
    NDArray[np.uint8]
        ``(h, w, 4)``, or ``(h, w, 2)`` of luma and alpha, uint8 premultiplied.
    """
    colour = _value(rgba, sit) if grey else _hsv(rgba, sit)
    alpha = rgba[..., 3:4].astype(np.uint16)
    shade = (colour.astype(np.uint16) * alpha + 127) // 255
    return np.concatenate([shade, alpha], axis=2).astype(np.uint8)


def turned_size(size: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Width and height of the canvas that holds a turned logo, whatever its shape.

    Parameters
    ----------
    size
        Width and height before.
    degrees
        Rotation; without any the size stays.
    """
    if degrees == 0:
        return size
    (w, h), (cosine, sine) = size, _direction(degrees)
    across, down = abs(cosine), abs(sine)
    # One pixel more: but at right angles it starts and ends between pixels.
    spare = 1 if across and down else 0
    return (
        math.ceil(w * across + h * down) + spare,
        math.ceil(w * down + h * across) + spare,
    )


def turn(planes: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Rotate about the middle, counter-clockwise, onto a canvas that holds all.

    Parameters
    ----------
    planes
        ``(h, w, C)`` uint8 premultiplied, alpha last.
    degrees
        Rotation; 0 changes nothing.

    Returns
    -------
    NDArray[np.uint8]
        ``(h', w', C)`` of `turned_size`.
    """
    if degrees == 0:
        return planes
    h, w = planes.shape[:2]
    width, height = turned_size((w, h), degrees)
    to_logo = logo_from_canvas((w, h), (width, height), degrees)
    return bounded(warp(planes, to_logo, (width, height)))


def logo_from_canvas(
    logo: tuple[int, int], canvas: tuple[int, int], degrees: float
) -> NDArray[np.float64]:
    """Affine map from points of the canvas to points of the logo before.

    Parameters
    ----------
    logo, canvas
        Width and height before and after; the middles coincide.
    degrees
        Rotation, counter-clockwise as seen.

    Returns
    -------
    NDArray[np.float64]
        ``(3, 3)``; a pixel covers [i, i + 1), its middle is i + 0.5.
    """
    cosine, sine = _direction(degrees)
    turning = np.array([[cosine, -sine], [sine, cosine]])
    whole = np.eye(3)
    whole[:2, :2] = turning
    whole[:2, 2] = np.array(logo) / 2 - turning @ (np.array(canvas) / 2)
    return whole


def warp(
    planes: NDArray[Level], to_source: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[Level]:
    """Resample premultiplied planes bilinearly through an affine map.

    Parameters
    ----------
    planes
        ``(h, w, C)`` uint8 or float32 premultiplied; transparent around.
    to_source
        ``(3, 3)`` from points of the result to points of `planes`.
    size
        Width and height of the result.
    """
    inverse = to_source[:2].copy()
    # OpenCV counts from the middle of the first pixel.
    inverse[:, 2] += inverse[:, :2].sum(axis=1) / 2 - 0.5
    turned = cv2.warpAffine(
        planes, inverse, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    # OpenCV drops the axis of a single channel.
    return np.asarray(turned, dtype=planes.dtype).reshape(*size[::-1], -1)


def bounded(premultiplied: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """No channel above its alpha, as premultiplied colour demands.

    Rounding of a resampler may lift one; blending would then leave the range
    between image and logo.

    Parameters
    ----------
    premultiplied
        ``(h, w, C)`` uint8, alpha last.
    """
    return np.minimum(premultiplied, premultiplied[..., -1:])


def binary(premultiplied: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Matte of 0 and 255 only, I_m in {0, 1} as in the paper: A at least one half.

    Parameters
    ----------
    premultiplied
        ``(h, w, C)`` uint8, alpha last. Colours are freed of the alpha they
        were multiplied with, so an edge pixel does not darken.
    """
    alpha = premultiplied[..., -1:]
    kept = alpha >= 128
    full = (premultiplied.astype(np.uint16) * 255 + alpha // 2) // np.maximum(alpha, 1)
    return np.where(kept, full, 0).astype(np.uint8)


def cut(
    premultiplied: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Cut to what is not transparent.

    Parameters
    ----------
    premultiplied
        ``(h, w, C)`` uint8, alpha last.

    Returns
    -------
    tuple[NDArray[np.uint8], tuple[int, int]]
        What is left, and column and row of its corner; all of it, at (0, 0),
        where everything is transparent.
    """
    rows = np.flatnonzero(premultiplied[..., -1].any(axis=1))
    columns = np.flatnonzero(premultiplied[..., -1].any(axis=0))
    if rows.size == 0:
        return premultiplied, (0, 0)
    tight = premultiplied[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(tight), (int(columns[0]), int(rows[0]))


def _direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact at right angles."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 15), round(math.sin(angle), 15)


def _value(rgba: NDArray[np.uint8], sit: SIT) -> NDArray[np.uint8]:
    luma = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    shown: NDArray[np.uint8] = _scaled(sit.value)[luma]
    return shown[..., None]


def _hsv(rgba: NDArray[np.uint8], sit: SIT) -> NDArray[np.uint8]:
    if (sit.hue, sit.saturation, sit.value) == (0.0, 1.0, 1.0):
        return rgba[..., :3]
    turned = np.floor(_BYTES + sit.hue / 360 * _HUES).astype(np.int64) % _HUES
    tables = (turned.astype(np.uint8), _scaled(sit.saturation), _scaled(sit.value))
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV"))
    changed = np.empty_like(hsv)
    for c, table in enumerate(tables):
        changed[..., c] = table[hsv[..., c]]
    size = hsv.shape[1], hsv.shape[0]
    shown = Image.frombytes("HSV", size, changed.tobytes()).convert("RGB")
    rgb: NDArray[np.uint8] = np.asarray(shown)
    return rgb


def _scaled(factor: float) -> NDArray[np.uint8]:
    """Table of all bytes times a factor, clipped."""
    table: NDArray[np.float64] = np.rint(_BYTES * factor)
    return np.minimum(table, 255.0).astype(np.uint8)
