"""The files of a trail: closed ones with a number, and the one written to.

``audit-000000001000.jsonl`` is closed and ends with line 1000; ``audit.jsonl``
goes on from there. The chain runs through all of them.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from gateway.audit.chain import MAX_LINE_BYTES, START, Line, Link, check, link_of
from gateway.errors import AuditBroken

TAIL_BYTES: Final = 1 << 16
BATCH_BYTES: Final = 1 << 18
_DIGITS: Final = 12


def closed_segments(path: Path) -> list[tuple[int, Path]]:
    """Return the closed files of a trail with their last line's number, in order."""
    pattern = re.compile(
        rf"{re.escape(path.stem)}-(\d{{{_DIGITS}}}){re.escape(path.suffix)}"
    )
    found = (
        (pattern.fullmatch(other.name), other)
        for other in path.parent.glob(f"{path.stem}-*{path.suffix}")
    )
    return sorted((int(match[1]), other) for match, other in found if match)


def closed_name(path: Path, last: int) -> Path:
    """Return the name a file gets when it is closed after line ``last``."""
    return path.with_name(f"{path.stem}-{last:0{_DIGITS}d}{path.suffix}")


def all_segments(path: Path) -> list[Path]:
    """Return every file of a trail, oldest first."""
    current = [path] if path.exists() else []
    return [other for _, other in closed_segments(path)] + current


@contextmanager
def locked(path: Path, *, alone: bool) -> Iterator[BinaryIO]:
    """Open the file written to, under a lock that other processes honour too.

    Parameters
    ----------
    alone
        To write: nobody else reads or writes. Otherwise to read: nobody
        writes; FileNotFoundError where there is no file.
    """
    while True:
        stream = _open(path, alone=alone)
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            if is_current(stream, path):  # not closed while this waited
                yield stream
                return  # closing releases the lock


def is_current(stream: BinaryIO, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _open(path: Path, *, alone: bool) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT if alone else os.O_RDONLY
    descriptor = os.open(path, flags, 0o600)
    return os.fdopen(descriptor, "r+b" if alone else "rb", buffering=0)


def last_link(stream: BinaryIO, path: Path, *, mend: bool) -> Link:
    """Return the end of the chain, from the last line of the open file.

    Parameters
    ----------
    mend
        Cut off the piece of a line that a crash left; it was never acknowledged.

    Raises
    ------
    AuditBroken
        The last line is none.
    """
    end = stream.seek(0, os.SEEK_END)
    start, tail = _tail(stream, end)
    whole = tail.rfind(b"\n") + 1
    if whole != len(tail) and mend:
        stream.truncate(start + whole)
    lines = tail[:whole].splitlines()
    if lines:
        return link_of(lines[-1], path)
    closed = closed_segments(path)
    if not closed:
        return START
    _, before = closed[-1]
    with before.open("rb", buffering=0) as older:
        _, tail = _tail(older, older.seek(0, os.SEEK_END))
    return link_of((tail.splitlines() or [b""])[-1], before)


def _tail(stream: BinaryIO, end: int) -> tuple[int, bytes]:
    """Read back from the end until a whole line is seen, or all."""
    size = TAIL_BYTES
    while True:
        start = max(0, end - size)
        stream.seek(start)
        tail = _read_exactly(stream, end - start)
        if start == 0 or tail.count(b"\n") > 1:
            return start, tail
        size *= 4


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size and (piece := stream.read(size - len(pieces))):
        pieces += piece
    return bytes(pieces)


def checked_lines(path: Path) -> Iterator[tuple[Path, Line]]:
    """Yield every line of every file, each checked against the one before.

    Raises
    ------
    AuditBroken
        At the first line that is not what was written.
    """
    follower = Follower(path)
    try:
        while lines := follower.read():
            for line in lines:
                yield follower.segment, line
        follower.check_end()
    finally:
        follower.close()


class Follower:
    """Reads the lines of a trail as they are written, each checked.

    Parameters
    ----------
    path
        The file written to.
    after
        The line before the first one wanted.
    """

    def __init__(self, path: Path, after: Link = START) -> None:
        self._path = path
        self._last = after
        self._segment = path
        self._stream: BinaryIO | None = None
        self._broken: AuditBroken | None = None

    @property
    def last(self) -> Link:
        """The place of the last line that was read."""
        return self._last

    @property
    def segment(self) -> Path:
        """The file the last lines came from."""
        return self._segment

    def check_end(self) -> None:
        """Check that no piece of a line follows what was read.

        Raises
        ------
        AuditBroken
            One does.
        """
        if self._stream is None:
            return
        begin = self._stream.tell()
        fcntl.flock(self._stream, fcntl.LOCK_SH)
        try:
            rest = _read_exactly(self._stream, MAX_LINE_BYTES)
        finally:
            fcntl.flock(self._stream, fcntl.LOCK_UN)
        self._stream.seek(begin)
        if rest and not rest.endswith(b"\n"):
            number = self._last.count + rest.count(b"\n") + 1
            raise AuditBroken(
                f"Line {number} of {self._segment} is not whole", self._segment, number
            )

    def close(self) -> None:
        """Let the file go."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def read(self) -> list[Line]:
        """Return the next lines; none where there are no more for now.

        Raises
        ------
        AuditBroken
            They are not those that follow; also at every later call.
        """
        if self._broken is not None:
            raise self._broken
        for _ in range(2):  # the end of one file, the begin of the next
            if self._stream is None and not self._open():
                return []
            if octets := self._batch():
                return self._check(octets)
            if self._stream is not None and is_current(self._stream, self._path):
                return []
            # Closed meanwhile; what was written before that is still to come.
            if octets := self._batch():
                return self._check(octets)
            self.close()
        number = self._last.count + 1
        raise AuditBroken(
            f"Line {number} of {self._segment} is missing", self._segment, number
        )

    def _open(self) -> bool:
        opened = _open_at(self._path, self._last.count + 1)
        if opened is None:
            return False
        self._segment, self._stream = opened
        return True

    def _batch(self) -> bytes:
        """Read whole lines; none are being written or taken back meanwhile."""
        stream = self._stream
        if stream is None:
            return b""
        begin, size = stream.tell(), BATCH_BYTES
        fcntl.flock(stream, fcntl.LOCK_SH)
        try:
            if os.fstat(stream.fileno()).st_size < begin:
                number = self._last.count
                raise AuditBroken(
                    f"{self._segment} was cut: line {number} was there before",
                    self._segment,
                    number,
                )
            while True:
                stream.seek(begin)
                octets = _read_exactly(stream, size)
                whole = octets.rfind(b"\n") + 1
                if whole or len(octets) < size or size > MAX_LINE_BYTES:
                    break
                size *= 4
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)
        stream.seek(begin + whole)
        return octets[:whole]

    def _check(self, octets: bytes) -> list[Line]:
        """Check lines; those before a broken one are good and come first."""
        lines: list[Line] = []
        for raw in octets.splitlines(keepends=True):
            try:
                line = check(raw, self._last, self._segment)
            except AuditBroken as error:
                self._broken = error
                if not lines:
                    raise
                break
            self._last = line.link
            lines.append(line)
        return lines


def has_line(path: Path, wanted: Link) -> bool:
    """Whether the line of this number has this digest; it is not checked."""
    if wanted == START:
        return True
    opened = _open_at(path, wanted.count)
    if opened is None:
        return False
    segment, stream = opened
    with os.fdopen(os.dup(stream.fileno()), "rb") as buffered, stream:
        raw = buffered.readline(MAX_LINE_BYTES)
    try:
        return raw.endswith(b"\n") and link_of(raw, segment) == wanted
    except AuditBroken:
        return False


def _open_at(path: Path, number: int) -> tuple[Path, BinaryIO] | None:
    """Open the file that has, or will have, the line of this number, at it."""
    files = [other for last, other in closed_segments(path) if last >= number]
    segment = files[0] if files else path
    try:
        stream: BinaryIO = segment.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    offset = 0
    with os.fdopen(os.dup(stream.fileno()), "rb") as buffered:
        while raw := buffered.readline(MAX_LINE_BYTES):
            if not raw.endswith(b"\n") or _number(raw) >= number:
                break
            offset += len(raw)
    stream.seek(offset)
    return segment, stream


def _number(raw: bytes) -> int:
    """Return the number a line begins with; 0 where it is no line."""
    head = re.match(rb'\{"n":(\d{1,18}),', raw)
    return int(head[1]) if head else 0
