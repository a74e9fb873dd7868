"""Octets that are read when they are asked for, as if they were ``bytes``.

What is too large for memory lies in a file or a spool. Code that only asks for
lengths and slices takes both: a plain ``bytes`` is an `Octets` too.
"""

from __future__ import annotations

import hashlib
import io
import os
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from typing_extensions import override

from gateway.sealing.reading import SeekableReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PIECE: Final = 1 << 20
"""Octets that are read at once of what is larger."""

READ_AHEAD: Final = 64 << 10


class Octets(Protocol):
    """So many octets, of which slices without a step can be had."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, key: slice, /) -> bytes:
        """Return those of a slice; with ``[:]`` all of them."""


class LazyOctets(ABC):
    """Octets that only have to say how many they are, and how some are read."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def read(self, start: int, end: int) -> bytes:
        """Return those from ``start`` to ``end`` (exclusive), which are there."""

    def __getitem__(self, key: slice, /) -> bytes:
        start, end, step = key.indices(len(self))
        if step != 1:
            raise ValueError("octets are read without a step")
        return self.read(start, end) if start < end else b""

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, bytes | LazyOctets):
            return NotImplemented
        return len(self) == len(other) and all(
            self[start : start + PIECE] == other[start : start + PIECE]
            for start in range(0, len(self), PIECE)
        )

    @override
    def __hash__(self) -> int:
        return hash(self[:])  # as that of equal ``bytes``


class FileOctets(LazyOctets):
    """Octets of a seekable stream, from a place on.

    Parameters
    ----------
    stream
        Nobody else may move it; closed by whoever opened it.
    start
        Where they begin; they go on to its end.
    """

    def __init__(self, stream: BinaryIO, start: int = 0) -> None:
        self._stream = stream
        self._start = start
        self._size = stream.seek(0, os.SEEK_END) - start

    @override
    def __len__(self) -> int:
        return self._size

    @override
    def read(self, start: int, end: int) -> bytes:
        self._stream.seek(self._start + start)
        return self._stream.read(end - start)


class HeldFile(SeekableReader):
    """A file that is closed when nobody holds it any more, without complaint.

    For what is read now and then as long as an object lives that nobody closes.

    Parameters
    ----------
    path
        Of the file.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._release = weakref.finalize(self, os.close, self._descriptor)

    @override
    def _length(self) -> int:
        return os.fstat(self._descriptor).st_size

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = self._length()
        piece = os.pread(self._descriptor, size, self._at)
        self._at += len(piece)
        return piece

    @override
    def close(self) -> None:
        self._release()
        super().close()


class Stretch(LazyOctets):
    """A part of other octets."""

    def __init__(self, base: Octets, start: int, end: int) -> None:
        self._base = base
        self._start = min(start, len(base))
        self._end = max(self._start, min(end, len(base)))

    @override
    def __len__(self) -> int:
        return self._end - self._start

    @override
    def read(self, start: int, end: int) -> bytes:
        return self._base[self._start + start : self._start + end]


class Joined(LazyOctets):
    """Octets one after the other, of which none is copied.

    Attributes
    ----------
    parts
        In order.
    """

    def __init__(self, parts: Sequence[Octets]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(map(len, self.parts)))

    @override
    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @override
    def read(self, start: int, end: int) -> bytes:
        number = bisect_right(self._ends, start)
        found = []
        while start < end:
            before = self._ends[number - 1] if number else 0
            found.append(self.parts[number][start - before : end - before])
            start = self._ends[number]
            number += 1
        return found[0] if len(found) == 1 else b"".join(found)


def after(octets: Octets, start: int) -> Octets:
    """Octets from a place on; of ``bytes`` a copy, unless it is the first place."""
    return part_of(octets, start, len(octets)) if start else octets


def part_of(octets: Octets, start: int, end: int) -> Octets:
    """Octets of a part; of ``bytes`` a copy, of others read when asked for."""
    if isinstance(octets, bytes):
        return octets[start:end]
    return Stretch(octets, start, end)


def pieces_of(octets: Octets) -> Iterator[bytes]:
    """Yield octets in order, each at most `PIECE` long unless it is in memory."""
    if isinstance(octets, bytes):
        if octets:
            yield octets
        return
    if isinstance(octets, Joined):
        for part in octets.parts:
            yield from pieces_of(part)
        return
    for start in range(0, len(octets), PIECE):
        yield octets[start : start + PIECE]


def sha256_of(octets: Octets) -> str:
    """Digest of octets, hex."""
    digest = hashlib.sha256()
    for piece in pieces_of(octets):
        digest.update(piece)
    return digest.hexdigest()


def stream_of(octets: Octets) -> BinaryIO:
    """Seekable stream of octets, at their start; it reads ahead a little."""
    if isinstance(octets, bytes):
        return io.BytesIO(octets)
    raw = cast("io.RawIOBase", _OctetStream(octets))
    return io.BufferedReader(raw, READ_AHEAD)


class _OctetStream(SeekableReader):
    def __init__(self, octets: Octets) -> None:
        super().__init__()
        self._octets = octets

    @override
    def _length(self) -> int:
        return len(self._octets)

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        piece = self._octets[self._at : self._at + self._wanted(size)]
        self._at += len(piece)
        return piece
