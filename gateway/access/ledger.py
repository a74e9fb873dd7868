"""Tables that are only added to, so that nobody changes them unseen.

Each row carries an HMAC (RFC 2104) under a key of the site over all of it and
the HMAC of the row before: who can write the database, but lacks the key, can
neither add a row nor alter one. Rows cut off at the end would leave a whole
chain behind; therefore a file outside the database, the anchor, holds how many
rows there are at least, and the last one's HMAC. What does not fit is an error
and nothing is granted: a revocation is not undone by deleting its row.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Connection, Row, Table, func, insert, select, update
from typing_extensions import override

from gateway.access.anchor import Anchor, Marks, SharedAnchor
from gateway.errors import AccessTampered
from gateway.store.clock import timestamp
from gateway.store.database import Database
from gateway.store.schema import approvals, grants, releases, trusted_clock

if TYPE_CHECKING:
    from gateway.store.objects import ObjectBlobs

Json = Any
Name = Literal["grants", "approvals", "releases"]

KEY_LENGTH: Final = 32
TABLES: Final[Mapping[Name, Table]] = {
    "grants": grants,
    "approvals": approvals,
    "releases": releases,
}
CLOCK: Final = "clock"
LEDGER: Final = "ledger"
"""Who adds to the tables takes turns under this name: row numbers have no gaps."""
CLOCK_RESET: Final = "clock-reset"
GENESIS: Final = "0" * 64
REMEDY: Final = (
    "originals are refused until the database is restored from its backup, or"
    " `miad-gateway grants accept` takes it as it is"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row.

    Attributes
    ----------
    number
        From 1, without gaps.
    recorded_at
        As `timestamp` writes it.
    kind, subject, body
        What happened, to what, and all else.
    """

    number: int
    recorded_at: str
    kind: str
    subject: str
    body: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class ClockMark:
    """The latest time ever seen, since a person last reset it.

    Attributes
    ----------
    epoch
        How often it was reset.
    latest
        As `timestamp` writes it.
    """

    epoch: int
    latest: str


@dataclass
class _Chain:
    """What was verified of a table so far."""

    entries: tuple[Entry, ...] = ()
    head: str = GENESIS
    heads: dict[int, str] = field(default_factory=lambda: {0: GENESIS})


class View:
    """The tables at one moment, verified."""

    def __init__(
        self, books: Books, connection: Connection, marks: Marks | None
    ) -> None:
        self._books = books
        self._connection = connection
        self._marks = marks
        self._entries: dict[Name, tuple[Entry, ...]] = {}

    def entries(self, name: Name) -> tuple[Entry, ...]:
        """Return all rows of a table that was loaded."""
        return self._entries[name]

    def load(self, *names: Name) -> None:
        """Read tables and verify what is new in them.

        Raises
        ------
        AccessTampered
            They are not what was recorded.
        """
        for name in names:
            self._entries[name] = self._books.verified(
                name, self._connection, self._marks
            )

    def clock(self) -> ClockMark | None:
        """Return the latest time seen; None before the first.

        Raises
        ------
        AccessTampered
            It is not what was recorded.
        """
        row = self._connection.execute(select(trusted_clock)).one_or_none()
        found = None if row is None else self._books.clock_mark(row)
        resets = sum(e.kind == CLOCK_RESET for e in self.entries("grants"))
        if (found.epoch if found is not None else 0) != resets:
            raise _tampered("trusted_clock", "a reset is missing or made up")
        anchored = (self._marks or {}).get(CLOCK)
        if anchored is not None and (
            found is None or (found.epoch, found.latest) < anchored
        ):
            raise _tampered("trusted_clock", "it was put back")
        return found


class Change(View):
    """A transaction that adds rows."""

    def __init__(
        self, books: Books, connection: Connection, marks: Marks | None
    ) -> None:
        super().__init__(books, connection, marks)
        self.reached: Marks = {}
        self._heads: dict[Name, tuple[int, str]] = {}

    @override
    def load(self, *names: Name) -> None:
        """Read tables, and remember where their ends are."""
        super().load(*names)
        for name in names:
            self._heads[name] = (len(self.entries(name)), self._books.head(name))

    def append(
        self, name: Name, kind: str, subject: str, body: Mapping[str, Json], at: str
    ) -> Entry:
        """Add a row; it is verified from the next transaction on."""
        count, head = self._heads[name]
        number, text = count + 1, canonical(body)
        mac = self._books.mac(name, [number, head, at, kind, subject, text])
        self._connection.execute(
            insert(TABLES[name]).values(
                number=number,
                recorded_at=at,
                kind=kind,
                subject=subject,
                body=text,
                mac=mac,
            )
        )
        self._heads[name] = self.reached[name] = (number, mac)
        return Entry(
            number=number, recorded_at=at, kind=kind, subject=subject, body=body
        )

    def set_clock(self, mark: ClockMark) -> None:
        """Note the latest time seen; one that is known to be later stays."""
        row = self._connection.execute(select(trusted_clock)).one_or_none()
        known = None if row is None else self._books.clock_mark(row)
        if known is not None and (known.epoch, known.latest) >= (
            mark.epoch,
            mark.latest,
        ):
            return
        mac = self._books.mac(CLOCK, [mark.epoch, mark.latest])
        values = {"epoch": mark.epoch, "latest": mark.latest, "mac": mac}
        statement = (
            insert(trusted_clock).values(id=1, **values)
            if known is None
            else update(trusted_clock).values(**values)
        )
        self._connection.execute(statement)
        self.reached[CLOCK] = (mark.epoch, mark.latest)


class Books:
    """The tables of grants, approvals and releases, and the trusted clock's row.

    Parameters
    ----------
    database
        Of the index.
    key
        32 octets; whoever has them can write the tables.
    anchor
        File outside the database, made on first use; or where machines share it.
    check
        False for a look at tables whose anchor may be lost.

    Raises
    ------
    AccessTampered
        There are rows, but no anchor.
    """

    def __init__(
        self,
        database: Database,
        key: bytes,
        anchor: Path | ObjectBlobs,
        *,
        check: bool = True,
    ) -> None:
        if len(key) != KEY_LENGTH:
            raise ValueError(f"a key has {KEY_LENGTH} octets")
        self._database = database
        self._key = key
        self._anchor = self._anchor_in(anchor)
        self._chains: dict[Name, _Chain] = {name: _Chain() for name in TABLES}
        self._lock = threading.Lock()
        if check:
            self._begin()

    @property
    def database(self) -> Database:
        """The database."""
        return self._database

    def mac(self, what: str, value: Json) -> str:
        """Return the HMAC-SHA256 of something, in hexadecimal."""
        message = f"miad-gateway {what}\n{canonical(value)}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    @contextmanager
    def reading(self, *names: Name) -> Iterator[View]:
        """Look at the clock's row, the grants, and further tables if named."""
        marks = self._anchor.read()  # before: it never runs ahead of the tables
        with self._database.read() as connection:
            view = View(self, connection, marks)
            # Under one lock, so that no other thread has verified rows that
            # this snapshot is too old for.
            with self._lock:
                view.load("grants", *names)
            yield view

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """Add to the tables, alone; durable when the block is left."""
        marks = self._anchor.read()
        with self._turn() as connection:
            change = Change(self, connection, marks)
            with self._lock:  # nobody else adds anything now
                change.load(*TABLES)
            yield change
        if change.reached:
            self._anchor.advance(change.reached)

    def accept(self) -> dict[str, int]:
        """Take the tables as they are, if their rows are whole; return how many.

        Raises
        ------
        AccessTampered
            A row was altered, or one is missing before another.
        """
        with self._turn() as connection, self._lock:
            self._chains = {name: _Chain() for name in TABLES}
            view = View(self, connection, {})
            view.load(*TABLES)
            marks: Marks = {
                name: (len(view.entries(name)), self.head(name)) for name in TABLES
            }
            clock = view.clock()
            if clock is not None:
                marks[CLOCK] = (clock.epoch, clock.latest)
            self._anchor.replace(marks)
        return {name: count for name, (count, _) in marks.items() if name != CLOCK}

    def head(self, name: Name) -> str:
        """Return the HMAC of the last row that was verified."""
        return self._chains[name].head

    def verified(
        self, name: Name, connection: Connection, marks: Marks | None
    ) -> tuple[Entry, ...]:
        """Return all rows of a table; only what is new is verified again.

        For one thread at a time.
        """
        chain, table = self._chains[name], TABLES[name]
        known = len(chain.entries)
        found = connection.execute(
            select(table).where(table.c.number >= known).order_by(table.c.number)
        ).all()
        if known:
            if not found or not _is_row(found[0], known, chain.head):
                raise _tampered(name, "rows that were there are gone")
            found = found[1:]
        self._extend(chain, name, found)
        _check_anchor(chain, name, marks)
        return chain.entries

    def clock_mark(self, row: Row[Any]) -> ClockMark:
        """Return the clock's row, verified."""
        mark = ClockMark(epoch=row.epoch, latest=row.latest)
        expected = self.mac(CLOCK, [mark.epoch, mark.latest])
        if not hmac.compare_digest(expected, row.mac):
            raise _tampered("trusted_clock", "it was altered")
        return mark

    def _extend(self, chain: _Chain, name: Name, rows: Sequence[Row[Any]]) -> None:
        added, head, heads = [], chain.head, {}
        for number, row in enumerate(rows, len(chain.entries) + 1):
            value = [row.number, head, row.recorded_at, row.kind, row.subject, row.body]
            whole = hmac.compare_digest(self.mac(name, value), row.mac)
            if row.number != number or not whole:
                raise _tampered(name, f"row {number} is missing or was altered")
            head = heads[number] = row.mac
            added.append(
                Entry(
                    number=number,
                    recorded_at=row.recorded_at,
                    kind=row.kind,
                    subject=row.subject,
                    body=json.loads(row.body),
                )
            )
        if added:
            chain.entries += tuple(added)
            chain.head = head
            chain.heads |= heads

    def _anchor_in(self, place: Path | ObjectBlobs) -> Anchor:
        def mac(value: Json) -> str:
            return self.mac("anchor", value)

        return (
            Anchor(place, mac) if isinstance(place, Path) else SharedAnchor(place, mac)
        )

    @contextmanager
    def _turn(self) -> Iterator[Connection]:
        """Run a transaction that nobody else adds rows beside."""
        with self._database.write() as connection:
            self._database.in_turn(connection, LEDGER)
            yield connection

    def _begin(self) -> None:
        """Make the anchor of a site that has no rows yet."""
        if self._anchor.read() is not None:
            return
        with self._turn() as connection:
            if self._anchor.read() is not None:
                return  # another machine was faster
            tables = [*TABLES.values(), trusted_clock]
            count = select(func.count())
            if any(connection.scalar(count.select_from(table)) for table in tables):
                raise _tampered("grants", f"{self._anchor.name} is missing")
            self._anchor.advance(dict.fromkeys(TABLES, (0, GENESIS)))


def canonical(value: Json) -> str:
    """Return JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def recorded(moment: datetime) -> str:
    """Return a moment as rows hold it."""
    return timestamp(moment)


def _is_row(row: Row[Any], number: int, mac: str) -> bool:
    return row.number == number and hmac.compare_digest(str(row.mac), mac)


def _check_anchor(chain: _Chain, name: Name, marks: Marks | None) -> None:
    if marks is None:
        raise _tampered(name, "its anchor is missing")
    count, head = marks.get(name, (0, GENESIS))
    if chain.heads.get(count) != head:
        raise _tampered(name, "rows that were there are gone")


def _tampered(table: str, why: str) -> AccessTampered:
    return AccessTampered(f"table {table}: {why}; {REMEDY}")
