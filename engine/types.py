"""Values the engine works on: frames, renderings, marks and keys.

All are frozen and valid once constructed. No DICOM here: the one bridge from
data sets to frames is ``gateway.dicom.pixels``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidFrame, InvalidParameter

LEVELS: Final = 255
"""Highest display level; levels run 0..255."""

MIN_SIDE: Final = 32
"""Smallest side of a frame, in pixels, on which a mark can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """Linear map from stored values to display levels 0..255.

    Stored value ``lo`` shows as level 0 and ``hi`` as 255 (PS3.3 C.11.2.1.2,
    window and rescale already folded in); ``inverted`` mirrors the levels
    (MONOCHROME1). Colour frames use ``lo=0, hi=255``.
    """

    lo: float
    hi: float
    inverted: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lo) and np.isfinite(self.hi) and self.hi > self.lo):
            raise InvalidFrame(
                f"window from {self.lo} to {self.hi} stored units is empty; "
                "give a window of positive width"
            )

    @property
    def unit(self) -> float:
        """Stored values per display level."""
        return (self.hi - self.lo) / LEVELS


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One frame as stored, with how it is shown.

    Attributes
    ----------
    stored
        ``(rows, columns)`` or ``(rows, columns, 3)`` int32 stored values.
    rendering
        How they become display levels; the mark is blended in this window.
    minimum, maximum
        Smallest and largest value that BitsStored and the sign can hold.
    presets
        Further windows the frame is looked at with. What is judged is the mean
        over all windows, and δ is bounded by the narrowest.
    """

    stored: NDArray[np.int32]
    rendering: Rendering
    minimum: int
    maximum: int
    presets: tuple[Rendering, ...] = ()

    def __post_init__(self) -> None:
        s = self.stored
        if s.dtype != np.int32 or not (
            s.ndim == 2 or (s.ndim == 3 and s.shape[2] == 3)
        ):
            raise InvalidFrame(
                f"frame of shape {s.shape} and type {s.dtype}: "
                "need (rows, columns[, 3]) int32"
            )
        if min(s.shape[:2]) < MIN_SIDE:
            raise InvalidFrame(
                f"frame of {s.shape[1]}x{s.shape[0]} pixels is smaller than "
                f"{MIN_SIDE}x{MIN_SIDE}: no mark can be placed on it"
            )
        if s.min() < self.minimum or s.max() > self.maximum:
            raise InvalidFrame(
                f"stored values {s.min()}..{s.max()} exceed the declared range "
                f"{self.minimum}..{self.maximum}"
            )

    @property
    def colour(self) -> bool:
        """Whether the frame has three samples per pixel."""
        return self.stored.ndim == 3

    @property
    def renderings(self) -> tuple[Rendering, ...]:
        """Every window the frame is looked at with, the one of the mark first."""
        return self.rendering, *self.presets

    @property
    def delta_unit(self) -> float:
        """Stored values per level of δ: those of the narrowest window."""
        return min(window.unit for window in self.renderings)


@dataclass(frozen=True, kw_only=True, slots=True)
class SIT:
    """One draw of the semantic-invariant transform of the logo.

    ``rotation`` in degrees, counter-clockwise; ``hue`` shift in degrees;
    ``saturation`` and ``value`` factors. ``SIT()`` changes nothing.
    """

    rotation: float = 0.0
    hue: float = 0.0
    saturation: float = 1.0
    value: float = 1.0

    def __post_init__(self) -> None:
        numbers = self.rotation, self.hue, self.saturation, self.value
        if not all(map(math.isfinite, numbers)) or min(numbers[2:]) < 0:
            raise InvalidParameter(
                f"{self}: angles must be finite, factors finite and not negative"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Half-open pixel box ``[x0, x1) x [y0, y1)``; x is the column."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, kw_only=True)
class FrameKey:
    """The key of one frame: all that, with the protected frame, gives it back.

    Attributes
    ----------
    x, y
        Column and row of the upper-left corner of the transformed logo on the
        native frame.
    alpha
        Opacity gene as a byte 1..255; the paper's α is ``alpha / 255``.
    sit
        The transform the logo went through.
    logo_sha256
        Hex digest of the logo file the mark was made from.
    patch
        ``(h, w, 4)`` uint8: the logo as rendered, premultiplied RGBA.
    delta
        ``(g_rows, g_columns)`` or ``(g_rows, g_columns, 3)`` int8: δ on the
        model grid, in display levels, -8..8 at the paper's ε.
    rendering, minimum, maximum, delta_unit
        As in `Frame`.
    residual
        int32, shape of the frame: stored value minus what Eq. 13 in integers
        gives; zero almost everywhere.
    stored_sha256
        Hex digest of the original stored values (int32, little endian, C order).
    """

    x: int
    y: int
    alpha: int
    sit: SIT
    logo_sha256: str
    patch: NDArray[np.uint8] = field(repr=False)
    delta: NDArray[np.int8] = field(repr=False)
    rendering: Rendering
    minimum: int
    maximum: int
    delta_unit: float
    residual: NDArray[np.int32] = field(repr=False)
    stored_sha256: str


def stored_digest(stored: NDArray[np.int32]) -> str:
    """SHA-256 of stored values, hex.

    Parameters
    ----------
    stored
        int32 array of any shape; shape is not part of the digest.
    """
    data = np.ascontiguousarray(stored, dtype="<i4")
    return hashlib.sha256(data.data).hexdigest()
