"""Octets put away for a while, beyond what memory is for: encrypted, without a name.

The key is random and never leaves the process; the file has no name from its
first octet on. What a crash leaves is noise on free blocks.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import override

from gateway.errors import StoredObjectDamaged
from gateway.store.durable import refused_when_full
from gateway.store.octets import PIECE, Joined, LazyOctets, Octets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IN_MEMORY: Final = 8 << 20
"""Octets a spool keeps in memory before it makes a file."""

KEY_BITS: Final = 256
NONCE_LENGTH: Final = 12
TAG_LENGTH: Final = 16


class Spool:
    """Takes pieces and gives each back, whenever it is asked for.

    Its file is closed when nobody holds the spool or a piece of it any more.

    Parameters
    ----------
    in_memory
        Octets that are kept in memory: what fits never touches the disk.
    directory
        Of the file; None: where this process makes temporary files.
    """

    def __init__(
        self, *, in_memory: int = IN_MEMORY, directory: Path | None = None
    ) -> None:
        self._room = in_memory
        self._directory = directory
        self._file: _SealedFile | None = None

    def add(self, piece: bytes) -> Octets:
        """Put a piece away; it can be had again from what is returned.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        if self._file is None and len(piece) <= self._room:
            self._room -= len(piece)
            return piece
        if self._file is None:
            self._file = _SealedFile(self._directory)
        found = [self._file.add(each) for each in _split(piece)]
        return found[0] if len(found) == 1 else Joined(found)

    def add_all(self, pieces: Iterable[bytes]) -> Octets:
        """Put pieces away; they come back as one.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        return Joined([self.add(piece) for piece in pieces])


def _split(piece: bytes) -> Iterator[bytes]:
    if len(piece) <= PIECE:
        yield piece
        return
    for start in range(0, len(piece), PIECE):
        yield piece[start : start + PIECE]


class _SealedFile:
    """A file without a name, of pieces under AES-256-GCM, numbered as nonces."""

    def __init__(self, directory: Path | None) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(KEY_BITS))
        with refused_when_full():
            self._descriptor, name = tempfile.mkstemp(prefix="spool.", dir=directory)
        os.unlink(name)  # noqa: PTH108 - tempfile gives text
        weakref.finalize(self, os.close, self._descriptor)
        self._end = 0
        self._count = 0
        self._held = (-1, b"")

    def add(self, piece: bytes) -> _Piece:
        number, at = self._count, self._end
        sealed = self._cipher.encrypt(_nonce(number), piece, None)
        view = memoryview(sealed)
        with refused_when_full():
            while view:
                view = view[os.pwrite(self._descriptor, view, self._end) :]
                self._end = at + len(sealed) - len(view)
        self._count += 1
        return _Piece(self, number, at, piece)

    def read(self, number: int, at: int, size: int) -> bytes:
        held = self._held
        if held[0] == number:
            return held[1]
        sealed = os.pread(self._descriptor, size + TAG_LENGTH, at)
        try:
            piece = self._cipher.decrypt(_nonce(number), sealed, None)
        except InvalidTag as error:
            raise StoredObjectDamaged(
                "A temporary file does not give back what was written: check the disk"
            ) from error
        self._held = (number, piece)
        return piece


class _Piece(LazyOctets):
    def __init__(self, file: _SealedFile, number: int, at: int, piece: bytes) -> None:
        self._file = file
        self._number = number
        self._at = at
        self._size = len(piece)

    @override
    def __len__(self) -> int:
        return self._size

    @override
    def read(self, start: int, end: int) -> bytes:
        whole = self._file.read(self._number, self._at, self._size)
        return whole if (start, end) == (0, self._size) else whole[start:end]


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_LENGTH, "big")
