"""Sealed files, version 2: the one format of everything kept at rest.

A head with two slots for the wrapped data key, a readable context, and the
content in chunks of AES-256-GCM after the STREAM construction (Hoang, Reyhanitabar,
Rogaway, Vizár: Online Authenticated-Encryption, 2015): the nonce counts the
chunks and marks the last, so none can be cut off, swapped or added. The octets
are described in docs/record-format.md.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import override

from gateway.errors import InvalidSeal
from gateway.sealing.head import (
    EMPTY,
    REFUSED,
    START,
    Head,
    make_slot,
    new_head,
    open_slots,
    read_exactly,
    read_head,
    slots_of,
)
from gateway.sealing.master import KEY_LENGTH, TAG_LENGTH, Keys
from gateway.sealing.reading import SeekableReader
from gateway.sealing.slots import rewrap, sealed_under, shred

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "EnvelopeReader",
    "EnvelopeWriter",
    "Keys",
    "open_bytes",
    "open_envelope",
    "open_sealed",
    "rewrap",
    "seal_bytes",
    "sealed_under",
    "shred",
]

CHUNK: Final = 64 << 10
"""Octets of content per chunk, if nothing else is asked for."""

Octets = bytes | bytearray | memoryview

NONCE: Final = struct.Struct(">7sIB")
"""Start of the identity, number of the chunk, 1 for the last."""


class EnvelopeWriter:
    """Seals what is written to it, piece by piece, onto a stream.

    The size need not be known before. Nothing is complete before `finish`; the
    stream stays open and is not synced.

    Parameters
    ----------
    stream
        Where the envelope goes, from its present position on.
    keys
        Gives the master key.
    context
        Readable octets the content is bound to, 1 MiB at most.
    chunk
        Octets of content per chunk.

    Attributes
    ----------
    size
        Octets of content so far.

    Raises
    ------
    ValueError
        A context or chunk size outside its bounds.
    """

    def __init__(
        self,
        stream: BinaryIO,
        keys: Keys,
        context: bytes = b"",
        *,
        chunk: int = CHUNK,
    ) -> None:
        self._head = new_head(context, chunk)
        self._stream = stream
        self._keys = keys
        self._data_key = os.urandom(KEY_LENGTH)
        self._chunks = _Chunks(self._data_key, self._head)
        self._pending = bytearray()
        self._count = 0
        self._finished = False
        self._begin = stream.tell() if stream.seekable() else None
        self._master = keys.current()
        self.size = 0
        stream.write(self._start() + context)

    @property
    def key_id(self) -> str:
        """Name of the master key that the envelope opens under."""
        return self._master.key_id

    def write(self, piece: Buffer) -> int:
        """Seal further octets; returns how many they were."""
        if self._finished:
            raise ValueError("the envelope is finished")
        view = memoryview(piece).cast("B")
        chunk = self._head.chunk
        at = 0
        if self._pending:
            at = min(chunk - len(self._pending), len(view))
            self._pending += view[:at]
        # A full chunk is held back until more comes: it may be the last one.
        if self._pending and at < len(view):
            self._emit(self._pending)
            self._pending = bytearray()
        while len(view) - at > chunk:
            self._emit(view[at : at + chunk])
            at += chunk
        self._pending += view[at:]
        self.size += len(view)
        return len(view)

    def finish(self) -> None:
        """Seal the rest; the envelope is complete.

        If the master key was changed meanwhile, the data key is wrapped under
        the new one, as far as the stream can go back.
        """
        if self._finished:
            return
        self._emit(self._pending, last=True)
        self._finished = True
        master = self._keys.current()
        if master.key_id != self._master.key_id and self._begin is not None:
            self._master = master
            end = self._stream.tell()
            self._stream.seek(self._begin)
            self._stream.write(self._start())
            self._stream.seek(end)

    def _emit(self, content: Octets, *, last: bool = False) -> None:
        self._stream.write(self._chunks.seal(self._count, content, last=last))
        self._count += 1

    def _start(self) -> bytes:
        slot = make_slot(self._data_key, self._master, self._head)
        return self._head.fixed + slot + EMPTY


class EnvelopeReader(SeekableReader):
    """Content of an envelope: a seekable stream that holds one chunk in memory.

    What it returns is authentic; `read` raises InvalidSeal where a chunk is
    not. Closing it closes the stream below.

    Attributes
    ----------
    size
        Octets of content.
    context
        The readable octets it is bound to.
    """

    def __init__(self, stream: BinaryIO, head: Head, chunks: _Chunks) -> None:
        super().__init__()
        self._opened = False
        self._stream = stream
        self._chunks = chunks
        self._chunk = head.chunk
        self.context = head.check_context(read_exactly(stream, head.context_length))
        self._body = START + head.context_length
        sealed = stream.seek(0, os.SEEK_END) - self._body
        self._count = -(-sealed // (self._chunk + TAG_LENGTH))
        self.size = sealed - self._count * TAG_LENGTH
        self._held = (-1, b"")
        last = self.size - (self._count - 1) * self._chunk
        if self._count < 1 or last < (1 if self._count > 1 else 0):
            raise InvalidSeal(REFUSED)
        self._open_chunk(self._count - 1)  # so that the size is authentic too
        self._opened = True

    @override
    def _length(self) -> int:
        return self.size

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many octets, fewer only at the end; all without a size."""
        wanted = self._wanted(size)
        piece = self._rest_of_chunk(wanted)
        if len(piece) == wanted:
            return piece
        gathered = io.BytesIO()  # gives its memory away, where a list would double it
        while True:
            gathered.write(piece)
            wanted -= len(piece)
            if not wanted:
                return gathered.getvalue()
            piece = self._rest_of_chunk(wanted)

    @override
    def close(self) -> None:
        if not self.closed and self._opened:
            self._held = (-1, b"")
            self._stream.close()
        super().close()

    def _rest_of_chunk(self, wanted: int) -> bytes:
        """Read on to the end of a chunk, or less."""
        if not wanted:
            return b""
        number, offset = divmod(self._at, self._chunk)
        piece = self._open_chunk(number)
        if offset or wanted < len(piece):
            piece = piece[offset : offset + wanted]
        self._at += len(piece)
        return piece

    def _open_chunk(self, number: int) -> bytes:
        if self._held[0] != number:
            sealed_size = self._chunk + TAG_LENGTH
            self._stream.seek(self._body + number * sealed_size)
            sealed = read_exactly(self._stream, self._sealed_length(number))
            last = number == self._count - 1
            self._held = (number, self._chunks.open(number, sealed, last=last))
        return self._held[1]

    def _sealed_length(self, number: int) -> int:
        content = min(self._chunk, self.size - number * self._chunk)
        return content + TAG_LENGTH


class _Chunks:
    """Seals and opens the chunks of one envelope."""

    def __init__(self, data_key: bytes, head: Head) -> None:
        self._cipher = AESGCM(data_key)
        self._head = head

    def seal(self, number: int, content: Octets, *, last: bool) -> bytes:
        nonce = self._nonce(number, last)
        return self._cipher.encrypt(nonce, content, self._head.fixed)

    def open(self, number: int, sealed: bytes, *, last: bool) -> bytes:
        nonce = self._nonce(number, last)
        try:
            return self._cipher.decrypt(nonce, sealed, self._head.fixed)
        except InvalidTag as error:
            raise InvalidSeal(REFUSED) from error

    def _nonce(self, number: int, last: bool) -> bytes:
        return NONCE.pack(self._head.identity, number, last)


def open_envelope(stream: BinaryIO, keys: Keys) -> EnvelopeReader:
    """Open an envelope that a seekable stream holds from its start to its end.

    Parameters
    ----------
    stream
        Closed with the reader; left open where this raises.
    keys
        The master keys of the site.

    Raises
    ------
    InvalidSeal
        No envelope, another master key, a changed head or context, or the end
        is not where it was.
    """
    stream.seek(0)
    octets = read_exactly(stream, START)
    head = read_head(octets)
    data_key = _data_key(stream, octets, head, keys)
    stream.seek(START)
    return EnvelopeReader(stream, head, _Chunks(data_key, head))


def open_sealed(path: Path, keys: Keys) -> EnvelopeReader:
    """Open an envelope in a file; see `open_envelope`.

    Raises
    ------
    InvalidSeal
        It does not open.
    OSError
        There is no file, or it cannot be read.
    """
    stream = path.open("rb", buffering=0)
    try:
        return open_envelope(stream, keys)
    except BaseException:
        stream.close()
        raise


def seal_bytes(content: Buffer, keys: Keys, context: bytes = b"") -> bytes:
    """Envelope of octets at hand; see `EnvelopeWriter`."""
    stream = io.BytesIO()
    writer = EnvelopeWriter(stream, keys, context)
    writer.write(content)
    writer.finish()
    return stream.getvalue()


def open_bytes(sealed: bytes, keys: Keys) -> tuple[bytes, bytes]:
    """Context and content of an envelope at hand.

    Raises
    ------
    InvalidSeal
        It does not open.
    """
    with open_envelope(io.BytesIO(sealed), keys) as reader:
        return reader.context, reader.read()


def _data_key(stream: BinaryIO, octets: bytes, head: Head, keys: Keys) -> bytes:
    try:
        return open_slots(octets, head, keys).data_key
    except InvalidSeal:
        # A rotation may have moved the key to the other slot between the
        # reading of the one and of the other.
        stream.seek(0)
        again = read_exactly(stream, START)
        if slots_of(again) == slots_of(octets):
            raise
        return open_slots(again, head, keys).data_key
