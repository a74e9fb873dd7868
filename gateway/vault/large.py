"""Octets of a record that memory does not hold at once: packed and read in order.

What comes of it is what `codec` makes: a Zstandard frame that says its size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final

import zstandard
from typing_extensions import override

from gateway.errors import InvalidSeal
from gateway.store.octets import Joined, LazyOctets, pieces_of, stream_of
from gateway.vault.codec import (
    FAST_LEVEL,
    LARGE,
    ZSTD,
    Blob,
    pack_bytes,
    unpack_bytes,
)

if TYPE_CHECKING:
    from gateway.store.octets import Octets
    from gateway.store.spool import Spool

MALFORMED: Final = "record holds a malformed blob"


class PackedOctets(LazyOctets):
    """Octets of a blob, unpacked as they are read; to be read in order.

    Whoever goes back reads from the start again.

    Attributes
    ----------
    blob
        What they are packed in.
    """

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self._stream: BinaryIO | None = None
        self._at = 0

    @override
    def __len__(self) -> int:
        return self.blob.shape[0]

    @override
    def read(self, start: int, end: int) -> bytes:
        try:
            stream = self._stream_at(start)
            found = stream.read(end - start)
        except zstandard.ZstdError as error:
            raise InvalidSeal(MALFORMED) from error
        self._at += len(found)
        if len(found) < end - start:
            raise InvalidSeal(MALFORMED)
        return found

    def _stream_at(self, start: int) -> BinaryIO:
        if self._stream is None or start < self._at:
            source = stream_of(self.blob.data)
            self._stream = zstandard.ZstdDecompressor().stream_reader(source)
            self._at = 0
        if start > self._at:
            self._at = self._stream.seek(start)
        return self._stream


class Packer:
    """Packs octets piece by piece into a spool.

    Parameters
    ----------
    size
        How many will come.
    spool
        Where they are put.
    """

    def __init__(self, size: int, spool: Spool) -> None:
        self._size = size
        self._spool = spool
        compressor = zstandard.ZstdCompressor(level=FAST_LEVEL)
        self._compressor = compressor.compressobj(size=size)
        self._pieces: list[Octets] = []

    def write(self, piece: bytes) -> None:
        """Pack further octets."""
        self._keep(self._compressor.compress(piece))

    def blob(self) -> Blob:
        """Blob of all octets, after the last."""
        self._keep(self._compressor.flush())
        return Blob(
            codec=ZSTD,
            dtype="bytes",
            stored="uint8",
            shape=(self._size,),
            data=Joined(self._pieces),
        )

    def _keep(self, packed: bytes) -> None:
        if packed:
            self._pieces.append(self._spool.add(packed))


def packed(octets: Octets, spool: Spool) -> Octets:
    """Octets for a record: packed now where they are many, else as they are.

    Parameters
    ----------
    octets
        What a record is to hold.
    spool
        Where packed octets go.
    """
    if len(octets) <= LARGE:
        return octets[:]
    packer = Packer(len(octets), spool)
    for piece in pieces_of(octets):
        packer.write(piece)
    return PackedOctets(packer.blob())


def blob_of(octets: Octets, level: int) -> Blob:
    """Blob of octets of a record; that of packed ones is the one they are in."""
    if isinstance(octets, PackedOctets):
        return octets.blob
    return pack_bytes(octets[:], level=level)


def octets_of(blob: Blob) -> Octets:
    """Octets of a blob: unpacked now, or as they are read where they are many.

    Raises
    ------
    InvalidSeal
        The blob is malformed.
    """
    if blob.dtype != "bytes":
        raise InvalidSeal(MALFORMED)
    return PackedOctets(blob) if blob.shape[0] > LARGE else unpack_bytes(blob)


def put_away(blob: Blob, spool: Spool) -> Blob:
    """Blob whose compressed octets lie in a spool."""
    return replace(blob, data=spool.add(blob.data[:]))
