"""What may be deleted, oldest first, and the rows of what was.

A file goes in three steps, each durable before the next: its row says so and a
tombstone is written; the file is destroyed; the row no longer names it. `halves`
finds what a crash left between the first and the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from gateway.store.clock import timestamp
from gateway.store.erasure import SETTLED, remove_rows
from gateway.store.schema import (
    deliveries,
    instances,
    protected,
    revisions,
    tombstones,
)

if TYPE_CHECKING:
    from gateway.store.database import Database

Kind = Literal["original", "protected"]
TABLES: Final = {"original": instances, "protected": protected}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """When something is due.

    Attributes
    ----------
    before
        Objects that came, and were sent, before this moment; None: none.
    committing
        Destinations where sent is not enough: they commit (PS3.4 Annex J).
    """

    before: datetime | None
    committing: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True)
class Due:
    """A file, or the key of a protected object, that may go.

    Attributes
    ----------
    id, instance_id
        Its row, and that of the received object it comes from.
    since
        When that was received, as the row says.
    """

    id: int
    instance_id: int
    uid: str
    path: str
    sha256: str
    since: str


class Retention:
    """The part of the index that retention works through.

    Parameters
    ----------
    database
        Of the index.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # What is due

    def originals(self, terms: Terms, limit: int) -> list[Due]:
        """Return files as received from which nothing is owed any more."""
        chosen = (
            _due(instances)
            .where(instances.c.gone_at.is_(None), _done(terms))
            .order_by(instances.c.received_at, instances.c.id)
        )
        return self._due(chosen.limit(limit))

    def held(self, before: datetime | None, limit: int) -> list[Due]:
        """Return held originals of which no protected object was ever made."""
        if before is None:
            return []
        chosen = (
            _due(instances)
            .where(instances.c.gone_at.is_(None), instances.c.state == "held")
            .where(instances.c.received_at < timestamp(before))
            .where(revisions.c.state.in_(SETTLED))
            .where(~exists().where(protected.c.instance_id == instances.c.id))
            .order_by(instances.c.received_at, instances.c.id)
        )
        return self._due(chosen.limit(limit))

    def protected(self, terms: Terms, keys: Terms, limit: int) -> list[Due]:
        """Return protected objects that nothing here needs any more.

        What gives an original back that has gone stays as long as its key.
        """
        chosen = (
            _due(protected)
            .where(protected.c.gone_at.is_(None), _done(terms))
            .where(instances.c.gone_at.is_(None) | _done(keys))
            .order_by(instances.c.received_at, protected.c.id)
        )
        return self._due(chosen.limit(limit))

    def keys(self, terms: Terms, limit: int) -> list[Due]:
        """Return protected objects, all of whose files have gone, with a key left."""
        family = protected.alias()
        still_there = exists().where(
            family.c.instance_id == protected.c.instance_id,
            family.c.treatment == protected.c.treatment,
            family.c.path != "",
        )
        chosen = (
            _due(protected)
            .where(protected.c.part == 0, ~still_there, _done(terms))
            .order_by(instances.c.received_at, protected.c.id)
        )
        return self._due(chosen.limit(limit))

    def halves(self, kind: Kind) -> list[Due]:
        """Return what began to go and still has a file."""
        table = TABLES[kind]
        return self._due(
            _due(table).where(table.c.gone_at.is_not(None), table.c.path != "")
        )

    # What goes

    def begin(self, kind: Kind, due: Due, now: datetime, why: str) -> bool:
        """Say that a file goes; False where it goes already."""
        table = TABLES[kind]
        own = (table.c.id == due.id) & table.c.gone_at.is_(None)
        with self._database.write() as connection:
            self._database.in_turn(connection, "retention", due.instance_id)
            changed = connection.execute(
                update(table).where(own).values(gone_at=timestamp(now))
            )
            if changed.rowcount:
                connection.execute(insert(tombstones), _stone(kind, due, now, why))
            return bool(changed.rowcount)

    def is_going(self, kind: Kind, due: Due) -> bool:
        """Whether its file is still to be destroyed: it may have come again."""
        table = TABLES[kind]
        chosen = select(table.c.id).where(
            table.c.id == due.id, table.c.gone_at.is_not(None), table.c.path != ""
        )
        with self._database.read() as connection:
            return connection.scalar(chosen) is not None

    def end(self, kind: Kind, due: Due) -> None:
        """Say that a file has gone; without anything left of it its rows go too."""
        table = TABLES[kind]
        with self._database.write() as connection:
            self._database.in_turn(connection, "retention", due.instance_id)
            connection.execute(
                update(table).where(table.c.id == due.id).values(path="")
            )
            left = exists().where(protected.c.instance_id == due.instance_id)
            if kind == "original" and not connection.scalar(select(left)):
                remove_rows(connection, due.instance_id)

    def end_key(self, due: Due, now: datetime, why: str) -> None:
        """Say that a key has gone: rows of its objects go, and at last all."""
        of_instance = protected.c.instance_id == due.instance_id
        with self._database.write() as connection:
            self._database.in_turn(connection, "retention", due.instance_id)
            own = select(protected.c.treatment).where(protected.c.id == due.id)
            treatment = connection.scalar(own)
            if treatment is None:
                return
            connection.execute(insert(tombstones), _stone("key", due, now, why))
            connection.execute(
                delete(protected).where(of_instance, protected.c.treatment == treatment)
            )
            original = select(instances.c.path).where(instances.c.id == due.instance_id)
            left = connection.scalar(select(exists().where(of_instance)))
            if connection.scalar(original) == "" and not left:
                remove_rows(connection, due.instance_id)

    def counts(self) -> dict[str, int]:
        """Return how many of each kind have gone so far."""
        chosen = select(tombstones.c.kind, func.count()).group_by(tombstones.c.kind)
        with self._database.read() as connection:
            return {str(row[0]): int(row[1]) for row in connection.execute(chosen)}

    def _due(self, statement: Select[Any]) -> list[Due]:
        with self._database.read() as connection:
            return [Due(**row) for row in connection.execute(statement).mappings()]


def _due(table: Table) -> Select[Any]:
    """Select rows of a table, with the received object and its revision."""
    source = instances.join(revisions, instances.c.revision_id == revisions.c.id)
    number = instances.c.id
    if table is protected:
        source = source.join(protected, protected.c.instance_id == instances.c.id)
        number = protected.c.instance_id
    return select(
        table.c.id,
        number.label("instance_id"),
        table.c.sop_instance_uid.label("uid"),
        table.c.path,
        table.c.sha256,
        instances.c.received_at.label("since"),
    ).select_from(source)


def _done(terms: Terms) -> ColumnElement[bool]:
    """Nothing is owed of an instance any more, and has not been for long enough."""
    if terms.before is None:
        return instances.c.id < 0  # nothing
    before = timestamp(terms.before)
    own = deliveries.c.instance_id == instances.c.id
    settled = or_(
        deliveries.c.state == "committed",
        and_(
            deliveries.c.state == "sent",
            deliveries.c.destination.not_in(sorted(terms.committing)),
        ),
    )
    lately = deliveries.c.sent_at >= before
    return and_(
        revisions.c.state == "delivered",
        instances.c.state != "held",
        instances.c.received_at < before,
        ~exists().where(own, or_(~settled, lately)),
    )


def _stone(kind: str, due: Due, now: datetime, why: str) -> dict[str, str]:
    return {
        "kind": kind,
        "uid": due.uid,
        "sha256": due.sha256,
        "at": timestamp(now),
        "why": why,
    }
