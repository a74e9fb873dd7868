"""One received object on its way into the store."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Self, cast

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import EnvelopeWriter, open_sealed
from gateway.store.durable import ClaimedFile
from gateway.store.names import ORIGINALS, context_of_object
from gateway.store.part10 import FileMeta, encode_head
from gateway.store.stream import Beginning, StoredStream, damaged

if TYPE_CHECKING:
    from gateway.store.files import FileStore

INCOMING = "incoming"

CHUNK: Final = 256 << 10
"""Octets sealed at once of what comes in: with four senders in one process a fourth
more than in chunks of 64 KiB, and a header is still read at the price of one chunk."""


HEAD_BYTES: Final = 64 << 10
"""Held in memory of what comes in: what the index keeps of nearly every object."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of the store.

    Attributes
    ----------
    path
        Relative to the store's root.
    sha256
        Of the data set bytes only for received objects, of the whole Part 10
        file for protected ones; never of sealed bytes.
    size_bytes
        Of the data set, or of the whole file, likewise.
    """

    path: str
    sha256: str
    size_bytes: int


class OriginalWriter:
    """One received object on its way into the store, sealed piece by piece.

    A context manager: leaving it without ``commit`` removes what was written.
    """

    def __init__(self, store: FileStore, meta: FileMeta) -> None:
        head = encode_head(meta)
        self._store = store
        self._meta = meta
        self._digest = hashlib.sha256()
        self._sha256 = ""  # once it was asked for, until more is written
        self._size_bytes = 0
        self._label = store.names.label(meta)
        self._path = store.incoming / f"{secrets.token_hex(16)}.part"
        self._head_size = len(head)
        self._head = bytearray(head)
        self._file = ClaimedFile(self._path)
        try:
            context = context_of_object(self._label)
            file = cast("BinaryIO", self._file)
            self._envelope = EnvelopeWriter(file, store.keys, context, chunk=CHUNK)
            self._envelope.write(head)
        except BaseException:
            self.discard()
            raise

    @property
    def meta(self) -> FileMeta:
        """What the file meta information says."""
        return self._meta

    @property
    def size_bytes(self) -> int:
        """How many bytes of the data set are written."""
        return self._size_bytes

    @property
    def sha256(self) -> str:
        """The digest of the data set bytes so far."""
        if not self._sha256:
            self._sha256 = self._digest.hexdigest()
        return self._sha256

    def write(self, piece: bytes | memoryview) -> None:
        """Append to the data set.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        self._store.take(len(piece))
        self._envelope.write(piece)
        self._digest.update(piece)
        self._sha256 = ""
        self._size_bytes += len(piece)
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += piece[:room]

    def open(self) -> BinaryIO:
        """Open what was written, a Part 10 file.

        Its beginning comes from memory; where more is read, from the disk, and
        then nothing more can be written.

        Raises
        ------
        StoreFull
            The disk has no room for the end.
        StoredObjectDamaged
            The disk does not give back what was written.
        """
        size = self._head_size + self._size_bytes
        return cast("BinaryIO", Beginning(bytes(self._head), size, self._open_whole))

    def _open_whole(self) -> BinaryIO:
        self._envelope.finish()
        name = f"{INCOMING}/{self._path.name}"
        try:
            sealed = open_sealed(self._path, self._store.keys)
        except (OSError, InvalidSeal) as error:
            raise damaged(name, error) from error
        return cast("BinaryIO", StoredStream(sealed, name))

    def name_as(self, kind: str) -> str:
        """Return the name of what was written so far, as an object of a kind."""
        return self._store.names.original(kind, self.sha256, self._meta, self._label)

    def commit(self) -> StoredFile:
        """Give the file its name, durably, and return it.

        The name holds a mark of the bytes and of the object, so that a file of
        that name already there has the same content.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        relative = self.name_as(ORIGINALS)
        self._envelope.finish()
        self._store.adopt(self._file, self._path, relative)
        return StoredFile(
            path=relative, sha256=self.sha256, size_bytes=self._size_bytes
        )

    def discard(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
