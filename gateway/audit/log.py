"""The audit trail: who did what, in lines that cannot be changed unseen.

Every line is JSON and carries the SHA-256 of the line before it and its own.
Several processes append to one file under a lock; a line is on the disk when
``record`` returns. Fields name AE titles, addresses and UIDs, never a patient.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from gateway.errors import AuditBroken

LOG = structlog.get_logger(component="audit")

Outcome = Literal["success", "refused", "failure"]
Field = str | int | float | bool | None | list[str]

GENESIS = "0" * 64
OWN_FIELDS = frozenset({"n", "at", "action", "outcome", "previous", "hash"})
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Link:
    """The end of the chain: how many lines there are and the last one's hash."""

    count: int
    digest: str


class AuditLog:
    """A hash-chained log in a file of JSON lines.

    Parameters
    ----------
    path
        Made with its directory when absent, mode 0600.
    clock
        Returns the time of a line, aware.
    """

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def record(self, action: str, outcome: Outcome, **fields: Field) -> None:
        """Append one line, durably.

        Parameters
        ----------
        action
            What was done or asked: ``association``, ``store``, ``query``, ...
        outcome
            ``success``; ``refused`` where this side said no; ``failure``.
        fields
            Anything else, JSON values, no patient attribute.

        Raises
        ------
        AuditBroken
            The last line is not one of a chain: the log does not go on.
        OSError
            The line could not be written; nothing of it stays.
        """
        entry: dict[str, Field] = {
            "action": action,
            "outcome": outcome,
            "at": self._clock().astimezone(UTC).isoformat(timespec="microseconds"),
        }
        entry |= {k: v for k, v in fields.items() if k not in OWN_FIELDS}
        with self._lock, self._locked() as stream:
            last = _last_link(stream, self._path)
            line = _chained(entry, last)
            _append(stream, line)

    def note(self, action: str, outcome: Outcome, **fields: Field) -> None:
        """Append one line of something already refused or done.

        Where it cannot be written, as on a full disk, that is logged and the
        caller goes on: what it tells of has happened.
        """
        try:
            self.record(action, outcome, **fields)
        except (OSError, AuditBroken) as error:
            LOG.warning("audit line lost", action=action, error=repr(error))

    def entries(self) -> Iterator[dict[str, Field]]:
        """Yield all lines, oldest first, unverified."""
        if self._path.exists():
            with self._path.open("rb") as stream:
                for line in stream:
                    yield json.loads(line)

    def verify(self) -> Link:
        """Check the whole chain and return its end.

        Whoever keeps the returned digest elsewhere can later tell that lines
        were cut off the end, which the chain alone cannot show.

        Raises
        ------
        AuditBroken
            A line was changed, removed, put in, or is not whole; the message
            gives its number.
        """
        link = Link(0, GENESIS)
        if not self._path.exists():
            return link
        with self._path.open("rb") as stream:
            for line in stream:
                link = _check(line, link, self._path)
        return link

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file under a lock that other processes honour too."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream  # closing releases the lock


def _append(stream: BinaryIO, line: bytes) -> None:
    """Write a line at the end; take it back if it cannot be written whole."""
    end = stream.seek(0, os.SEEK_END)
    try:
        view = memoryview(line)
        while view:
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())
    except OSError:
        stream.truncate(end)
        raise


def _last_link(stream: BinaryIO, path: Path) -> Link:
    """Return the end of the chain, from the last line.

    A crash can leave a piece of a line behind; it was never acknowledged, so
    it is cut off.
    """
    end = stream.seek(0, os.SEEK_END)
    start, tail = _tail(stream, end)
    whole = tail.rfind(b"\n") + 1
    if whole != len(tail):
        stream.truncate(start + whole)
    lines = tail[:whole].splitlines()
    if not lines:
        return Link(0, GENESIS)
    try:
        entry = json.loads(lines[-1])
        return Link(int(entry["n"]), str(entry["hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise AuditBroken(
            f"The last line of {path} is not an audit line: move the file away "
            "and keep it as evidence, then start again"
        ) from error


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


def _chained(entry: dict[str, Field], last: Link) -> bytes:
    entry = {"n": last.count + 1, **entry, "previous": last.digest}
    return _encode(entry | {"hash": _digest(entry)})


def _check(line: bytes, last: Link, path: Path) -> Link:
    """Check one line against the one before it."""
    number = last.count + 1
    try:
        entry = json.loads(line)
        claimed = entry.pop("hash")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise AuditBroken(f"Line {number} of {path} is not an audit line") from error
    if entry.get("n") != number or entry.get("previous") != last.digest:
        raise AuditBroken(f"Line {number} of {path} does not follow the line before")
    if _digest(entry) != claimed or _encode(entry | {"hash": claimed}) != line:
        raise AuditBroken(f"Line {number} of {path} was changed")
    return Link(number, claimed)


def _digest(entry: dict[str, Field]) -> str:
    return hashlib.sha256(_encode(entry)).hexdigest()


def _encode(entry: dict[str, Field]) -> bytes:
    text = json.dumps(entry, ensure_ascii=True, separators=(",", ":"), sort_keys=False)
    return text.encode("ascii") + b"\n"
