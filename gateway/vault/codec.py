"""Lossless compression of the arrays and octets of a record.

Planes of a key are sparse or noisy: Zstandard at a high level was smaller than
JPEG-LS on every real file measured (docs/record-format.md). Original pixels
are smooth: there the smaller of the two is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
import zstandard

from gateway.errors import InvalidSeal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.store.octets import Octets

ZSTD: Final = "zstd"
JPEG_LS: Final = "jpeg-ls"
LEVEL: Final = 19
FAST_LEVEL: Final = 3
LARGE: Final = 64 << 20
"""From this many octets on the fast level is used: minutes are not worth it."""

NARROW: Final = (np.uint8, np.uint16, np.uint32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """Compressed octets and what they were.

    Attributes
    ----------
    codec
        ``zstd`` or ``jpeg-ls``.
    dtype
        numpy name of the array type, little endian; ``bytes`` for plain octets.
    stored
        numpy name of the type that was compressed.
    shape
        Shape of the array; the length for plain octets.
    origin
        Value that was compressed as 0, the others counting up from it; None
        where signed values were folded (0, -1, 1, -2 ... to 0, 1, 2, 3 ...).
    data
        The compressed octets; they may lie in a file.
    """

    codec: str
    dtype: str
    stored: str
    shape: tuple[int, ...]
    origin: int | None = None
    data: Octets = field(repr=False)


def pack_bytes(value: bytes, *, level: int = LEVEL) -> Blob:
    """Compress octets at a Zstandard level."""
    return Blob(
        codec=ZSTD,
        dtype="bytes",
        stored="uint8",
        shape=(len(value),),
        data=_zstd(value, level),
    )


def unpack_bytes(blob: Blob) -> bytes:
    """Octets of a blob.

    Raises
    ------
    InvalidSeal
        The blob is malformed.
    """
    value = unpack_zstd(blob.data[:])
    if blob.dtype != "bytes" or len(value) != blob.shape[0]:
        raise InvalidSeal("record holds a malformed blob")
    return value


def pack_array(array: NDArray[np.integer], *, level: int = LEVEL) -> Blob:
    """Compress an array: sign folded in, narrowed, channels as planes.

    Parameters
    ----------
    array
        Integers of any shape; a third axis is taken as channels.
    level
        Of Zstandard.
    """
    narrow = _narrow(_fold(array) if array.dtype.kind == "i" else array)
    return Blob(
        codec=ZSTD,
        dtype=array.dtype.name,
        stored=narrow.dtype.name,
        shape=array.shape,
        data=_zstd(_little(_by_channel(narrow)), level),
    )


def pack_image(frame: NDArray[np.int32]) -> Blob:
    """Compress original pixels: JPEG-LS where it can and is smaller.

    Parameters
    ----------
    frame
        ``(rows, columns[, 3])`` int32 stored values.
    """
    origin = int(frame.min())
    shifted = _narrow(frame.astype(np.int64) - origin)
    plain = Blob(
        codec=ZSTD,
        dtype=frame.dtype.name,
        stored=shifted.dtype.name,
        shape=frame.shape,
        origin=origin,
        data=_zstd(_little(_by_channel(shifted)), FAST_LEVEL),
    )
    streams = None if shifted.dtype == np.uint32 else _jpeg_ls(shifted)
    if streams is None or len(streams) >= len(plain.data):
        return plain
    return replace(plain, codec=JPEG_LS, data=streams)


def _jpeg_ls(image: NDArray[np.unsignedinteger]) -> bytes | None:
    """One stream per channel, each after its length; None where the codec fails."""
    planes = [image] if image.ndim == 2 else list(np.moveaxis(image, -1, 0))
    try:
        streams = [
            bytes(jpeg_ls.encode_array(np.ascontiguousarray(plane))) for plane in planes
        ]
    except (RuntimeError, ValueError):
        return None  # encoders give up on noise that does not compress
    return b"".join(len(each).to_bytes(4, "little") + each for each in streams)


def _by_channel(array: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    return np.moveaxis(array, -1, 0) if array.ndim == 3 else array


def unpack_array(blob: Blob) -> NDArray[np.int32 | np.int8 | np.uint8]:
    """Array of a blob, of the shape and type that were compressed.

    Raises
    ------
    InvalidSeal
        The blob is malformed.
    """
    try:
        stored = _read_jpeg_ls(blob) if blob.codec == JPEG_LS else _read_zstd(blob)
        values = _signed(stored, blob)
        return np.ascontiguousarray(values, dtype=np.dtype(blob.dtype))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidSeal("record holds a malformed blob") from error


def _signed(stored: NDArray[np.unsignedinteger], blob: Blob) -> NDArray[np.integer]:
    if blob.origin is not None:
        return stored.astype(np.int64) + blob.origin
    return _unfold(stored) if np.dtype(blob.dtype).kind == "i" else stored


def _read_zstd(blob: Blob) -> NDArray[np.unsignedinteger]:
    dtype = np.dtype(blob.stored).newbyteorder("<")
    flat: NDArray[np.unsignedinteger] = np.frombuffer(unpack_zstd(blob.data[:]), dtype)
    if len(blob.shape) != 3:
        return flat.reshape(blob.shape)
    rows, columns, channels = blob.shape
    return np.moveaxis(flat.reshape(channels, rows, columns), 0, -1)


def _read_jpeg_ls(blob: Blob) -> NDArray[np.unsignedinteger]:
    planes, at, data = [], 0, blob.data[:]
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        planes.append(jpeg_ls.decode(np.frombuffer(data[start:at], np.uint8)))
    whole = planes[0] if len(blob.shape) == 2 else np.stack(planes, axis=-1)
    return np.asarray(whole, dtype=np.dtype(blob.stored)).reshape(blob.shape)


def _fold(array: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """0, -1, 1, -2, 2 ... to 0, 1, 2, 3, 4 ...: small stays small."""
    wide = array.astype(np.int64)
    folded: NDArray[np.unsignedinteger] = np.where(
        wide >= 0, 2 * wide, -2 * wide - 1
    ).astype(np.uint32)
    return folded


def _unfold(array: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    wide = array.astype(np.int64)
    return np.where(wide % 2 == 0, wide // 2, -(wide + 1) // 2)


def _narrow(array: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Smallest unsigned type that holds every value."""
    top = int(array.max(initial=0))
    fitting = next(kind for kind in NARROW if top <= np.iinfo(kind).max)
    narrow: NDArray[np.unsignedinteger] = array.astype(fitting)
    return narrow


def _little(array: NDArray[np.unsignedinteger]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _zstd(value: bytes, level: int) -> bytes:
    quick = min(level, FAST_LEVEL) if len(value) > LARGE else level
    compressed = zstandard.ZstdCompressor(level=quick).compress(value)
    # The library's object keeps the room of the worst case: a copy does not.
    return memoryview(compressed).tobytes()


def unpack_zstd(value: bytes) -> bytes:
    """Decompress octets.

    Raises
    ------
    InvalidSeal
        They are no Zstandard frame.
    """
    try:
        return zstandard.ZstdDecompressor().decompress(value)
    except (zstandard.ZstdError, MemoryError) as error:  # a size beyond all memory
        raise InvalidSeal("record holds a malformed blob") from error
