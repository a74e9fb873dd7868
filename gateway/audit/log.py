"""The audit trail: who did what, in lines that cannot be changed unseen.

Every line is JSON and carries the SHA-256 of the line before it and its own.
Several processes append to one file under a lock; a line is on the disk when
``record`` returns. Fields name AE titles, addresses and UIDs; what names a
patient is sealed, or not written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import structlog

from gateway.audit.chain import OWN_FIELDS, START, Entry, Field, Link, chained
from gateway.audit.sealer import FieldSealer, place_of, seal_fields
from gateway.audit.segments import (
    all_segments,
    checked_lines,
    closed_name,
    last_link,
    locked,
)
from gateway.errors import AuditBroken
from gateway.log import WITHHELD, described, is_personal
from gateway.store.durable import sync_directory

LOG = structlog.get_logger(component="audit")

Outcome = Literal["success", "refused", "failure"]
Personal = Mapping[str, Any]

STAFF = frozenset({"person", "persons", "operator"})
"""Fields that name who works here, never a patient."""

__all__ = ["AuditLog", "Field", "Link", "Outcome", "Personal"]


class AuditLog:
    """A hash-chained log in files of JSON lines.

    Parameters
    ----------
    path
        The file written to; made with its directory when absent, mode 0600.
    clock
        Returns the time of a line, aware.
    sealer
        Seals personal fields; without it they are dropped.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sealer: FieldSealer | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._clock = clock
        self._sealer = sealer
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file written to."""
        return self._path

    def record(
        self,
        action: str,
        outcome: Outcome,
        **fields: Field | Personal,
    ) -> None:
        """Append one line, durably.

        Parameters
        ----------
        action
            What was done or asked: ``association``, ``store``, ``query``, ...
        outcome
            ``success``; ``refused`` where this side said no; ``failure``.
        fields
            Anything else, JSON values. ``personal`` is a mapping of what names a
            patient: sealed, or dropped without a key. Other mappings, and what is
            named like a patient attribute, are withheld: they belong in there.

        Raises
        ------
        AuditBroken
            The last line is not one of a chain: the log does not go on.
        OSError
            The line could not be written; nothing of it stays.
        """
        entry = _entry(action, outcome, fields)
        with self._lock, locked(self._path, alone=True) as stream:
            entry["at"] = self._now()
            last = last_link(stream, self._path, mend=True)
            personal = fields.get("personal")
            if isinstance(personal, Mapping) and personal:
                place = place_of({**entry, "n": last.count + 1})
                entry["personal"] = seal_fields(self._sealer, dict(personal), place)
            _append(stream, chained(entry, last))

    def note(
        self,
        action: str,
        outcome: Outcome,
        **fields: Field | Personal,
    ) -> None:
        """Append one line of something already refused or done.

        Where it cannot be written, as on a full disk, that is logged and the
        caller goes on: what it tells of has happened.
        """
        try:
            self.record(action, outcome, **fields)
        except (OSError, AuditBroken) as error:
            LOG.warning("audit line lost", action=action, error=described(error))

    def record_over(
        self,
        action: str,
        make: Callable[[Link, str], Mapping[str, Field] | None],
        outcome: Outcome = "success",
    ) -> bool:
        """Append a line that speaks of the one before it.

        Parameters
        ----------
        make
            Gets the place of the last line and the time of the new one; returns
            the fields, or None where no line is to be written.

        Returns
        -------
        bool
            Whether a line was written.
        """
        entry = _entry(action, outcome, {})
        with self._lock, locked(self._path, alone=True) as stream:
            at = self._now()
            last = last_link(stream, self._path, mend=True)
            fields = make(last, at)
            if fields is not None:
                entry |= {"at": at, **fields}
                _append(stream, chained(entry, last))
        return fields is not None

    def close_segment(self, above_bytes: int) -> bool:
        """Close the file written to when it is larger; the chain goes on.

        Returns
        -------
        bool
            Whether it was closed.
        """
        with self._lock, locked(self._path, alone=True) as stream:
            last = last_link(stream, self._path, mend=True)
            if os.fstat(stream.fileno()).st_size <= above_bytes:
                return False
            self._path.rename(closed_name(self._path, last.count))
            sync_directory(self._path.parent)
        return True

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield all lines, oldest first, each checked.

        Raises
        ------
        AuditBroken
            At the first line that is not what was written.
        """
        for _, line in checked_lines(self._path):
            yield line.entry

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
        link = START
        for _, line in checked_lines(self._path):
            link = line.link
        return link

    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum(segment.stat().st_size for segment in all_segments(self._path))

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")


def _entry(
    action: str, outcome: Outcome, fields: Mapping[str, Field | Personal]
) -> Entry:
    """Return a line's own fields, patient attributes withheld."""
    entry: Entry = {"action": action, "outcome": outcome, "at": ""}
    for name, value in fields.items():
        if name not in OWN_FIELDS and name != "personal":
            named = is_personal(name) and name not in STAFF
            entry[name] = WITHHELD if named or isinstance(value, Mapping) else value
    return entry


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
