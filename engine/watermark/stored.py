"""Blending in stored values and its exact inverse (Eqs. 6 and 13 in integers).

Every machine gets the same integers: only integer operations and elementary
float64 + - * / and floor, each rounded on its own by IEEE 754. Without torch:
the process that answers retrievals uses this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.errors import InvalidParameter, RecoveryFailed
from engine.types import LEVELS, FrameKey, stored_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.types import SIT, Frame

OPAQUE: Final = LEVELS * LEVELS
"""Weight w = alpha * A of a mark that hides the image wholly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A mark at its place on a native frame.

    ``alpha`` is the opacity byte 1..255, ``patch`` the premultiplied RGBA logo
    ``(h, w, 4)`` uint8, ``x`` and ``y`` column and row of its corner.
    """

    x: int
    y: int
    alpha: int
    sit: SIT
    patch: NDArray[np.uint8]

    def __post_init__(self) -> None:
        patch = self.patch
        if patch.dtype != np.uint8 or patch.ndim != 3 or patch.shape[2] != 4:
            raise InvalidParameter(
                f"patch of shape {patch.shape} and type {patch.dtype}: "
                "need (h, w, 4) uint8"
            )
        if not 1 <= self.alpha <= LEVELS:
            raise InvalidParameter(f"alpha={self.alpha}: must lie in 1..255")


def apply_delta(frame: Frame, delta: NDArray[np.int8]) -> NDArray[np.int32]:
    """X = clip(S + δ): the frame with δ and without a mark.

    Parameters
    ----------
    frame
        The frame as stored.
    delta
        ``(g_rows, g_columns[, 3])`` int8 in display levels on the model grid.

    Returns
    -------
    NDArray[np.int32]
        Stored values, shape of the frame.
    """
    shift = _delta_stored(delta, frame.stored.shape, frame)
    moved = frame.stored + shift
    host: NDArray[np.int32] = np.clip(moved, frame.minimum, frame.maximum).astype(
        np.int32
    )
    return host


def add_mark(host: NDArray[np.int32], frame: Frame, mark: Mark) -> NDArray[np.int32]:
    """S': the stored values that will be sent (Eq. 6 in integers).

    Inside the mark, with w = alpha * A and L the logo in stored values,
    S' = floor((2 * ((65025 - w) * clip(X, lo, hi) + w * L) + 65025) / 130050).
    The clip keeps the logo readable over values outside the window.

    Parameters
    ----------
    host
        X from `apply_delta`.
    frame
        The frame, for its window and range.
    mark
        The mark; it must lie inside the frame.

    Raises
    ------
    InvalidParameter
        It does not.
    """
    _check_inside(mark, host.shape)
    weight, logo = _logo_stored(mark, frame)
    inside = _footprint(mark.patch, mark.x, mark.y)
    lo, hi = clip_bounds(frame)
    seen = np.clip(host[inside].astype(np.int64), lo, hi)
    mixed = (2 * ((OPAQUE - weight) * seen + weight * logo) + OPAQUE) // (2 * OPAQUE)
    marked = host.copy()
    marked[inside] = np.where(weight > 0, mixed, host[inside])
    return marked


def make_key(
    frame: Frame,
    protected: NDArray[np.int32],
    mark: Mark,
    *,
    delta: NDArray[np.int8],
    logo_sha256: str,
) -> FrameKey:
    """All that, with the protected frame, gives the original back.

    Parameters
    ----------
    frame
        The original.
    protected
        What `add_mark` made of it with this mark and δ.
    mark, delta
        As applied.
    logo_sha256
        Digest of the logo file.
    """
    estimate = _estimate(protected, frame, mark, delta)
    # Wraps where a difference leaves int32; recovery wraps back.
    residual = (frame.stored.astype(np.int64) - estimate).astype(np.int32)
    return FrameKey(
        x=mark.x,
        y=mark.y,
        alpha=mark.alpha,
        sit=mark.sit,
        logo_sha256=logo_sha256,
        patch=mark.patch,
        delta=delta,
        rendering=frame.rendering,
        minimum=frame.minimum,
        maximum=frame.maximum,
        delta_unit=frame.delta_unit,
        residual=residual,
        stored_sha256=stored_digest(frame.stored),
    )


def invert(protected: NDArray[np.int32], key: FrameKey) -> NDArray[np.int32]:
    """Original stored values: Eq. 13 in integers plus the residual.

    Parameters
    ----------
    protected
        int32 stored values as sent.
    key
        The key of this frame.

    Raises
    ------
    RecoveryFailed
        Frame and key do not fit together.
    """
    mark = _check_fit(protected, key)
    estimate = _estimate(protected, key, mark, key.delta)
    return (estimate + key.residual).astype(np.int32)


def _check_inside(mark: Mark, shape: tuple[int, ...]) -> None:
    rows, columns = shape[:2]
    h, w = mark.patch.shape[:2]
    if not (0 <= mark.x <= columns - w and 0 <= mark.y <= rows - h):
        raise InvalidParameter(
            f"mark of {w}x{h} pixels at ({mark.x}, {mark.y}) leaves the frame of "
            f"{columns}x{rows}"
        )


def _check_fit(protected: NDArray[np.int32], key: FrameKey) -> Mark:
    """Refuse a frame that the key cannot be of; the mark the key describes."""
    if protected.dtype != np.int32 or protected.shape != key.residual.shape:
        raise RecoveryFailed(
            f"protected frame of shape {protected.shape} and type "
            f"{protected.dtype} does not fit a key for {key.residual.shape} int32: "
            "another frame, or its size was changed on the way"
        )
    delta = key.delta
    if (
        delta.dtype != np.int8
        or delta.size == 0
        or not 2 <= delta.ndim <= protected.ndim
    ):
        raise RecoveryFailed(
            f"δ of shape {delta.shape} and type {delta.dtype} does not fit a frame "
            f"of shape {protected.shape}: the key is damaged or of another frame"
        )
    try:
        mark = Mark(x=key.x, y=key.y, alpha=key.alpha, sit=key.sit, patch=key.patch)
        _check_inside(mark, protected.shape)
    except InvalidParameter as error:
        raise RecoveryFailed(
            f"{error}: the key is damaged or of another frame"
        ) from error
    return mark


def _estimate(
    protected: NDArray[np.int32],
    bounds: Frame | FrameKey,
    mark: Mark,
    delta: NDArray[np.int8],
) -> NDArray[np.int64]:
    """S from S' as far as rounding and clipping let it be known."""
    weight, logo = _logo_stored(mark, bounds)
    inside = _footprint(mark.patch, mark.x, mark.y)
    lo, hi = clip_bounds(bounds)
    host = protected.astype(np.int64)
    rest = OPAQUE - weight
    # Where the mark is opaque nothing is left to invert: the residual has it.
    divisor = np.maximum(rest, 1)
    solved = (2 * (OPAQUE * host[inside] - weight * logo) + divisor) // (2 * divisor)
    host[inside] = np.where(weight > 0, np.clip(solved, lo, hi), host[inside])
    host -= _delta_stored(delta, protected.shape, bounds)
    return np.clip(host, bounds.minimum, bounds.maximum)


def _footprint(patch: NDArray[np.uint8], x: int, y: int) -> tuple[slice, slice]:
    h, w = patch.shape[:2]
    return slice(y, y + h), slice(x, x + w)


def clip_bounds(bounds: Frame | FrameKey) -> tuple[int, int]:
    """Smallest and largest stored value inside window and range."""
    window = bounds.rendering
    lo = max(int(np.ceil(window.lo)), bounds.minimum)
    hi = min(int(np.floor(window.hi)), bounds.maximum)
    if lo <= hi:
        return lo, hi
    # No stored value shows as grey: the mark is made around the nearest one.
    middle = int(np.floor((window.lo + window.hi) / 2 + 0.5))
    nearest = min(max(middle, bounds.minimum), bounds.maximum)
    return nearest, nearest


def _logo_stored(
    mark: Mark, bounds: Frame | FrameKey
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Weight w 0..65025 and logo L_S in stored values, shape of the footprint."""
    colour = _is_colour(bounds)
    matte = mark.patch[..., 3:].astype(np.int64)
    shown = mark.patch[..., :3].astype(np.int64) if colour else _first(mark.patch)
    window = bounds.rendering
    if window.inverted:
        shown = matte - shown
    level = shown / np.maximum(matte, 1)
    stored = np.floor(window.lo + (window.hi - window.lo) * level + 0.5)
    logo = np.clip(stored, bounds.minimum, bounds.maximum).astype(np.int64)
    weight = mark.alpha * matte
    if not colour:
        return weight[..., 0], logo[..., 0]
    return np.broadcast_to(weight, logo.shape), logo


def _first(patch: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Grey frames take a grey patch: its three colour channels are equal."""
    return patch[..., :1].astype(np.int64)


def _is_colour(bounds: Frame | FrameKey) -> bool:
    array = bounds.residual if isinstance(bounds, FrameKey) else bounds.stored
    return array.ndim == 3


def _delta_stored(
    delta: NDArray[np.int8], shape: tuple[int, ...], bounds: Frame | FrameKey
) -> NDArray[np.int64]:
    """δ in stored values at native size: nearest point of the model grid.

    Column x of W takes grid column floor(x * G / W): an integer rule, so that
    no resampling library has a say in recovery.
    """
    sign = -1.0 if bounds.rendering.inverted else 1.0
    levels = delta.astype(np.float64) * sign
    small = np.floor(levels * bounds.delta_unit + 0.5).astype(np.int64)
    rows = np.arange(shape[0]) * delta.shape[0] // shape[0]
    columns = np.arange(shape[1]) * delta.shape[1] // shape[1]
    large: NDArray[np.int64] = small[rows[:, None], columns]
    return large[..., None] if len(shape) > large.ndim else large
