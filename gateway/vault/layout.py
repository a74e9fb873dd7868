"""How stored values lie in a native Pixel Data value (PS3.5 section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelLayout:
    """Order, width and sign of the samples of a native Pixel Data value.

    Attributes
    ----------
    rows, columns, samples, frames
        Size; ``samples`` is 1 or 3.
    bits_allocated
        8 or 16.
    signed
        Whether samples are two's complement.
    big_endian
        Byte order of 16-bit samples.
    planar
        Whether the colours of a frame follow each other as planes.
    origin
        Stored value that is written as 0. Multi-frame Secondary Capture holds
        unsigned samples only, so signed values are moved.
    mirrored
        Whether ``origin - value`` is written instead of ``value - origin``:
        Multi-frame Secondary Capture knows no MONOCHROME1.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    signed: bool
    big_endian: bool = False
    planar: bool = False
    origin: int = 0
    mirrored: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame: ``(rows, columns)`` or ``(rows, columns, 3)``."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)

    @property
    def frame_bytes(self) -> int:
        """Octets of one frame."""
        return self.rows * self.columns * self.samples * (self.bits_allocated // 8)

    @property
    def total_bytes(self) -> int:
        """Octets of all frames, without padding to even length."""
        return self.frame_bytes * self.frames

    @property
    def dtype(self) -> np.dtype[np.signedinteger] | np.dtype[np.unsignedinteger]:
        """Type of one sample as it lies in the value."""
        order = ">" if self.big_endian else "<"
        kind = "i" if self.signed else "u"
        return np.dtype(f"{order}{kind}{self.bits_allocated // 8}")


def pack(frames: Sequence[NDArray[np.int32]], layout: PixelLayout) -> bytes:
    """Octets of the frames in a layout, without padding.

    Parameters
    ----------
    frames
        int32 stored values, each of shape ``layout.shape``.
    layout
        Where they go. Values must fit its sample type.
    """
    return b"".join(_pack_frame(frame, layout) for frame in frames)


def unpack(value: bytes | memoryview, layout: PixelLayout) -> list[NDArray[np.int32]]:
    """Frames of a native Pixel Data value; what follows the frames is ignored.

    Returns
    -------
    list[NDArray[np.int32]]
        Stored values, each of shape ``layout.shape``.

    Raises
    ------
    ValueError
        The value is shorter than the layout.
    """
    if len(value) < layout.total_bytes:
        raise ValueError(
            f"pixel data of {len(value)} octets, {layout.total_bytes} expected"
        )
    step = layout.frame_bytes
    starts = range(0, layout.total_bytes, step)
    return [_unpack_frame(value[start : start + step], layout) for start in starts]


def _pack_frame(frame: NDArray[np.int32], layout: PixelLayout) -> bytes:
    samples = layout.origin - frame if layout.mirrored else frame - layout.origin
    if layout.planar and layout.samples > 1:
        samples = samples.transpose(2, 0, 1)
    return samples.astype(layout.dtype).tobytes()


def _unpack_frame(value: bytes | memoryview, layout: PixelLayout) -> NDArray[np.int32]:
    samples = np.frombuffer(value, layout.dtype).astype(np.int32)
    if layout.planar and layout.samples > 1:
        planes = samples.reshape(layout.samples, layout.rows, layout.columns)
        samples = np.ascontiguousarray(planes.transpose(1, 2, 0))
    samples = samples.reshape(layout.shape)
    frame: NDArray[np.int32] = (
        layout.origin - samples if layout.mirrored else samples + layout.origin
    )
    return frame
