"""The logo a mark is made from."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_SIDE: Final = 4096
"""Longest side of a logo, in pixels; a mark is never shown larger."""
MIN_SIDE: Final = 8
_NEAR: Final = 20
"""How far, in levels, a background may be from pure white or black."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logo:
    """A logo, valid once constructed.

    Attributes
    ----------
    rgba
        ``(h, w, 4)`` uint8, not premultiplied.
    sha256
        Hex digest of the file it was read from.
    """

    rgba: NDArray[np.uint8] = field(repr=False)
    sha256: str

    def __post_init__(self) -> None:
        shape = self.rgba.shape
        if self.rgba.dtype != np.uint8 or len(shape) != 3 or shape[2] != 4:
            raise InvalidParameter(
                f"logo of shape {shape} and type {self.rgba.dtype}: "
                "need (h, w, 4) uint8"
            )
        if min(shape[:2]) < MIN_SIDE or max(shape[:2]) > MAX_SIDE:
            raise InvalidParameter(
                f"logo of {shape[1]}x{shape[0]} pixels: each side must be "
                f"{MIN_SIDE} to {MAX_SIDE}; resize it"
            )
        if not self.rgba[..., 3].any():
            raise InvalidParameter("logo is wholly transparent: nothing to show")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgba.shape[1], self.rgba.shape[0]


def load_logo(path: Path | None = None) -> Logo:
    """Read a logo file, by default the packaged one.

    A logo without an alpha channel gets one: a near-white or near-black
    background, as found on its border, becomes transparent. Opacity never
    derives from the colours themselves, so black parts of a logo stay.

    Parameters
    ----------
    path
        PNG or another picture file Pillow reads, at most 16 MiB.

    Raises
    ------
    InvalidParameter
        The file is missing, too large, not a picture, or wholly transparent.
    """
    name, data = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            _check_side(name, picture)
            rgba = _with_alpha(picture)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as e:
        raise InvalidParameter(
            f"logo {name} is not a readable picture ({e}); give a PNG file"
        ) from e
    return Logo(rgba=rgba, sha256=hashlib.sha256(data).hexdigest())


def _check_side(name: str, picture: Image.Image) -> None:
    """Refuse a huge picture before it is decoded."""
    if max(picture.size) > MAX_SIDE:
        raise InvalidParameter(
            f"logo {name} is {picture.width}x{picture.height} pixels: "
            f"at most {MAX_SIDE} a side; resize it"
        )


def _read(path: Path | None) -> tuple[str, bytes]:
    if path is None:
        packaged = files("engine.watermark") / "assets" / "logo.png"
        return "logo.png", packaged.read_bytes()
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as e:
        raise InvalidParameter(f"logo {path} cannot be read: {e.strerror}") from e
    if size > MAX_FILE_BYTES:
        raise InvalidParameter(
            f"logo {path} has {size} bytes: at most {MAX_FILE_BYTES}; make it smaller"
        )
    return str(path), data


def _with_alpha(picture: Image.Image) -> NDArray[np.uint8]:
    rgba = np.array(picture.convert("RGBA"), dtype=np.uint8)
    if not picture.has_transparency_data:
        rgba[..., 3] = np.where(_background(rgba[..., :3]), 0, 255)
    return rgba


def _background(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the near-white or near-black ground of a logo is, if it has one."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    for near in (_near_white, _near_black):
        if near(border).mean() > 0.5:
            ground: NDArray[np.bool_] = near(rgb)
            return ground
    return np.zeros(rgb.shape[:2], dtype=np.bool_)


def _near_white(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = rgb.min(axis=-1) >= 255 - _NEAR
    return near


def _near_black(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = rgb.max(axis=-1) <= _NEAR
    return near
