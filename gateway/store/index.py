"""The SQL index: what is stored and how far it has come.

Every method is one transaction, durable when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.store.care import Care
from gateway.store.clock import timestamp, utc_now
from gateway.store.database import Database
from gateway.store.find import (
    ORIGINALS,
    PROTECTED,
    Catalogue,
    FindKeys,
    Level,
    find_statement,
    matching_objects,
    syntaxes_held,
)
from gateway.store.rows import (
    Conflict,
    Instance,
    JsonValue,
    NewInstance,
    NewProtected,
    Protected,
    Revision,
    SeriesKey,
)
from gateway.store.schema import (
    conflicts,
    instances,
    protected,
    revisions,
)
from gateway.store.server import Server

CLOCKS_APART_SECONDS: Final = 60.0
"""So much the clocks of two machines of a site may differ."""

AddOutcome = Literal["stored", "duplicate", "conflict", "gone"]
CONFLICT_FIELDS = tuple(column.name for column in conflicts.c if column.name != "id")


def open_index(
    path: Path,
    key: bytes,
    clock: Callable[[], datetime] = utc_now,
    *,
    backed_up: bool = False,
) -> Index:
    """Open the index in an encrypted SQLite file, made and migrated as needed.

    Parameters
    ----------
    path
        The file; a clear one of an earlier build is encrypted.
    key
        32 octets.
    clock
        Where the times that rows record come from.
    backed_up
        See `Index`.

    Raises
    ------
    ConfigurationError
        The file belongs to another key, or is damaged.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Index(f"sqlite:///{path}", key, clock, backed_up=backed_up)


class Index(Care):
    """The index in a file or on a server; migrated when opened.

    Parameters
    ----------
    where
        URL of an SQLite file, or a PostgreSQL server.
    key
        Of an SQLite file.
    clock
        Where the times that rows record come from.
    backed_up
        A person says that there is a backup: PostgreSQL is upgraded only then.
    """

    def __init__(
        self,
        where: str | Server,
        key: bytes | None = None,
        clock: Callable[[], datetime] = utc_now,
        *,
        backed_up: bool = False,
    ) -> None:
        super().__init__(Database(where, key), clock)
        self.upgraded = self._database.migrate(backed_up=backed_up)

    # Received objects

    def add_instance(self, new: NewInstance) -> AddOutcome:
        """Add a received object, unless its UID is there already.

        Returns
        -------
        str
            ``stored``; ``duplicate``: the same bytes in the same transfer
            syntax are there; ``conflict``: others are (see ``add_conflict``);
            ``gone``: the same were (see ``put_back``).
        """
        try:
            with self._database.write() as connection:
                connection.execute(insert(instances), [dict(vars(new))])
        except IntegrityError:
            outcome = self.compare(
                new.sop_instance_uid, new.sha256, new.transfer_syntax_uid
            )
            if outcome is None:
                raise
            return outcome
        return "stored"

    def add_instances(self, new: Callable[[], Sequence[NewInstance]]) -> None:
        """Add received objects whose UIDs are new, in one transaction.

        Parameters
        ----------
        new
            Asked once the transaction has begun.

        Raises
        ------
        SQLAlchemyError
            None was added: the UID of one is there already, or nothing can be
            written. `add_instance` tells which.
        """
        with self._database.write() as connection:
            connection.execute(insert(instances), [dict(vars(row)) for row in new()])

    def compare(
        self, sop_instance_uid: str, sha256: str, transfer_syntax_uid: str
    ) -> Literal["duplicate", "conflict", "gone"] | None:
        """Say how received bytes stand to what is stored under their UID.

        Returns
        -------
        str or None
            None where nothing is stored under it; ``gone``: these bytes were, and
            retention has taken their file.
        """
        known = self.instance(sop_instance_uid)
        if known is None:
            return None
        same = (known.sha256, known.transfer_syntax_uid) == (
            sha256,
            transfer_syntax_uid,
        )
        if same and known.gone_at is not None:
            return "gone"
        return "duplicate" if same else "conflict"

    def add_conflict(self, new: NewInstance) -> bool:
        """Record bytes kept aside; False where these very bytes are already."""
        values = {name: getattr(new, name) for name in CONFLICT_FIELDS}
        try:
            with self._database.write() as connection:
                connection.execute(insert(conflicts).values(**values))
        except IntegrityError:
            return False
        return True

    def conflicts_of(self, sop_instance_uid: str) -> list[Conflict]:
        """Return what was kept aside under a UID, oldest first."""
        chosen = conflicts.c.sop_instance_uid == sop_instance_uid
        rows = self._rows(select(conflicts).where(chosen).order_by(conflicts.c.id))
        return [Conflict(**row) for row in rows]

    def rename_file(self, before: str, after: str) -> None:
        """Name another file of the store wherever a row names this one."""
        with self._database.write() as connection:
            for table in (instances, conflicts, protected):
                connection.execute(
                    update(table).where(table.c.path == before).values(path=after)
                )

    def instance(self, sop_instance_uid: str) -> Instance | None:
        """Return the object received under a UID."""
        chosen = instances.c.sop_instance_uid == sop_instance_uid
        return next(iter(self._instances(select(instances).where(chosen))), None)

    def instance_by_id(self, instance_id: int) -> Instance | None:
        """Return a received object by its row."""
        chosen = instances.c.id == instance_id
        return next(iter(self._instances(select(instances).where(chosen))), None)

    def instances_of_revision(self, revision_id: int) -> list[Instance]:
        """Return the objects of a revision in the order they came."""
        chosen = instances.c.revision_id == revision_id
        return self._instances(select(instances).where(chosen).order_by(instances.c.id))

    def instances_in_state(self, state: str) -> list[Instance]:
        """Return all objects in a state, in the order they came."""
        chosen = instances.c.state == state
        return self._instances(select(instances).where(chosen).order_by(instances.c.id))

    def hold_instance(self, instance_id: int, reason: str, message: str) -> None:
        """Park an object: a stable code and a sentence for people."""
        with self._database.write() as connection:
            connection.execute(
                update(instances)
                .where(instances.c.id == instance_id)
                .values(state="held", reason=reason, message=message)
            )

    def drop_instance(self, instance_id: int, message: str) -> None:
        """Leave an object where it is, by a rule; it can still be retrieved."""
        with self._database.write() as connection:
            connection.execute(
                update(instances)
                .where(instances.c.id == instance_id)
                .values(state="dropped", reason="dropped-by-rule", message=message)
            )

    # Completion

    def open_series(self) -> list[SeriesKey]:
        """Return the series that have objects in no revision yet."""
        return [SeriesKey(**row) for row in self._rows(_open_series())]

    def idle_series(
        self,
        now: datetime,
        idle_seconds_by_ae: Mapping[str, float],
        default: float,
    ) -> list[SeriesKey]:
        """Return the open series whose newest object is old enough.

        One from a time to come is of a clock that was set back since: it would
        stay open until that time comes.

        Parameters
        ----------
        now
            An aware time.
        idle_seconds_by_ae
            By calling AE title; ``default`` for others.
        """
        statement = _open_series().add_columns(
            func.max(instances.c.received_at).label("newest")
        )
        idle = []
        for row in self._rows(statement):
            newest = datetime.fromisoformat(row.pop("newest"))
            key = SeriesKey(**row)
            wait = idle_seconds_by_ae.get(key.calling_ae, default)
            age = (now - newest).total_seconds()
            if age >= wait or age < -CLOCKS_APART_SECONDS:
                idle.append(key)
        return idle

    def close_series(
        self, series_instance_uid: str, calling_ae: str, now: datetime
    ) -> Revision | None:
        """Gather the open objects of a series into a new revision.

        Where a source sends one series UID in two studies, one study is
        closed per call and the other stays open for the next.

        Returns
        -------
        Revision or None
            None where nothing is open.
        """
        same_series = (instances.c.series_instance_uid == series_instance_uid) & (
            instances.c.calling_ae == calling_ae
        )
        is_open = same_series & instances.c.revision_id.is_(None)
        with self._database.write() as connection:
            self._database.in_turn(connection, "close", series_instance_uid, calling_ae)
            study = connection.scalar(
                select(func.min(instances.c.study_instance_uid)).where(is_open)
            )
            if study is None:
                return None
            revision_id = connection.scalar(
                insert(revisions)
                .values(
                    study_instance_uid=study,
                    series_instance_uid=series_instance_uid,
                    revision=_next_revision(
                        connection, series_instance_uid, calling_ae
                    ),
                    calling_ae=calling_ae,
                    closed_at=timestamp(now),
                    changed_at=timestamp(now),
                    state="complete",
                )
                .returning(revisions.c.id)
            )
            connection.execute(
                update(instances)
                .where(is_open & (instances.c.study_instance_uid == study))
                .values(revision_id=revision_id)
            )
            row = connection.execute(
                select(revisions).where(revisions.c.id == revision_id)
            ).one()
        return Revision(**row._mapping)

    def revisions(self, state: str | None = None) -> list[Revision]:
        """Return revisions, oldest first; only those in a state where given."""
        statement = select(revisions).order_by(revisions.c.id)
        if state is not None:
            statement = statement.where(revisions.c.state == state)
        return [Revision(**row) for row in self._rows(statement)]

    def revision(self, revision_id: int) -> Revision | None:
        """Return a revision by its row."""
        rows = self._rows(select(revisions).where(revisions.c.id == revision_id))
        return Revision(**rows[0]) if rows else None

    def set_revision(
        self,
        revision_id: int,
        state: str,
        reason: str = "",
        decision: JsonValue = None,
        priority: int | None = None,
    ) -> None:
        """Move a revision on; decision and priority stay as they were where None."""
        values: dict[str, JsonValue] = {
            "state": state,
            "reason": reason,
            "changed_at": timestamp(self._clock()),
        }
        if decision is not None:
            values["decision"] = decision
        if priority is not None:
            values["priority"] = priority
        with self._database.write() as connection:
            connection.execute(
                update(revisions).where(revisions.c.id == revision_id).values(**values)
            )

    # Protected objects

    def add_protected(self, first: NewProtected, *parts: NewProtected) -> None:
        """Record what was made of one object; it is then ``protected``.

        May be repeated: rows already there stay as they are.

        Parameters
        ----------
        first, parts
            All parts of one treatment of one received object, from part 0.
        """
        created = timestamp(self._clock())
        rows = [asdict(part) | {"created_at": created} for part in (first, *parts)]
        same = (protected.c.instance_id == first.instance_id) & (
            protected.c.treatment == first.treatment
        )
        with self._database.write() as connection:
            self._database.in_turn(connection, "protected", first.instance_id)
            if connection.scalar(select(protected.c.id).where(same).limit(1)) is None:
                connection.execute(insert(protected), rows)
            connection.execute(
                update(instances)
                .where(instances.c.id == first.instance_id)
                .values(state="protected", reason="", message="")
            )

    def protected_of(self, instance_id: int) -> Protected | None:
        """Return the first protected object made of a received one."""
        of_instance = protected.c.instance_id == instance_id
        return self._protected(of_instance & (protected.c.part == 0))

    def protected_kept(self, instance_id: int) -> Protected | None:
        """Return the first protected object of a received one with a file left."""
        of_instance = protected.c.instance_id == instance_id
        kept = (protected.c.part == 0) & protected.c.gone_at.is_(None)
        return self._protected(of_instance & kept)

    def put_back(self, new: NewInstance) -> bool:
        """Name the file of an object that came again after retention took its own.

        Returns
        -------
        bool
            Whether its row was still there; everything else of it stays as it was.
        """
        own = (instances.c.sop_instance_uid == new.sop_instance_uid) & (
            instances.c.sha256 == new.sha256
        )
        with self._database.write() as connection:
            changed = connection.execute(
                update(instances).where(own).values(path=new.path, gone_at=None)
            )
            return bool(changed.rowcount)

    def protected_parts(self, instance_id: int, treatment: str) -> list[Protected]:
        """Return what a treatment made of a received object, in order."""
        chosen = (protected.c.instance_id == instance_id) & (
            protected.c.treatment == treatment
        )
        rows = self._rows(select(protected).where(chosen).order_by(protected.c.part))
        return [Protected(**row) for row in rows]

    def protected_by_uid(self, sop_instance_uid: str) -> Protected | None:
        """Return a protected object by its own SOP Instance UID."""
        return self._protected(protected.c.sop_instance_uid == sop_instance_uid)

    # Query/retrieve

    def find_originals(self, matching: FindKeys, level: Level) -> list[dict[str, Any]]:
        """Return one row per patient, study, series or object that matches.

        Parameters
        ----------
        matching
            Keys of the query; UIDs may be original or protected ones.
        level
            Of the query/retrieve information model.

        Returns
        -------
        list of dict
            By DICOM keyword; lists where the attribute has several values.
        """
        return find_statement(matching, level, ORIGINALS).rows(self._rows)

    def find_protected(self, matching: FindKeys, level: Level) -> list[dict[str, Any]]:
        """Return the same of protected objects, by their own UIDs only."""
        return find_statement(matching, level, PROTECTED).rows(self._rows)

    def originals_matching(self, matching: FindKeys) -> list[Instance]:
        """Return the received objects that keys select, in a stable order."""
        chosen = instances.c.id.in_(matching_objects(matching, ORIGINALS))
        order = (instances.c.series_instance_uid, instances.c.id)
        return self._instances(select(instances).where(chosen).order_by(*order))

    def protected_matching(self, matching: FindKeys) -> list[Protected]:
        """Return the protected objects that keys select, in a stable order.

        Without their reports, which may be long and nobody asks for here.
        """
        chosen = protected.c.id.in_(matching_objects(matching, PROTECTED))
        order = (protected.c.series_instance_uid, protected.c.id)
        columns = [column for column in protected.c if column.name != "report"]
        rows = self._rows(select(*columns).where(chosen).order_by(*order))
        return [Protected(**row) for row in rows]

    def syntaxes_held(self, catalogue: Catalogue) -> list[tuple[str, str]]:
        """Return SOP classes with their transfer syntaxes, most frequent first."""
        rows = self._rows(syntaxes_held(catalogue))
        return [(row["sop_class_uid"], row["transfer_syntax_uid"]) for row in rows]

    def _instances(self, statement: Select[Any]) -> list[Instance]:
        return [Instance(**row) for row in self._rows(statement)]

    def _protected(self, condition: ColumnElement[bool]) -> Protected | None:
        chosen = select(protected).where(condition).order_by(protected.c.id).limit(1)
        rows = self._rows(chosen)
        return Protected(**rows[0]) if rows else None


def _open_series() -> Select[Any]:
    key = (
        instances.c.study_instance_uid,
        instances.c.series_instance_uid,
        instances.c.calling_ae,
    )
    is_open = instances.c.revision_id.is_(None)
    return select(*key).where(is_open).group_by(*key).order_by(*key)


def _next_revision(connection: Connection, series: str, calling_ae: str) -> int:
    chosen = (revisions.c.series_instance_uid == series) & (
        revisions.c.calling_ae == calling_ae
    )
    newest = connection.scalar(select(func.max(revisions.c.revision)).where(chosen))
    return (newest or 0) + 1


__all__ = ["FindKeys", "Index", "Level", "open_index", "timestamp", "utc_now"]
