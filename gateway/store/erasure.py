"""Takes objects out of the index for good."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from gateway.errors import GatewayError
from gateway.store.clock import timestamp
from gateway.store.deliveries import KEPT
from gateway.store.schema import (
    attempts,
    commitment_requests,
    commitments,
    conflicts,
    deliveries,
    delivery_parts,
    instances,
    protected,
    revisions,
    tombstones,
)
from gateway.store.settling import CONFIRMED
from gateway.store.upgrade import backups_of

if TYPE_CHECKING:
    from gateway.store.database import Database

SETTLED: Final = ("delivered", "held")
"""States of a revision that nobody works on."""

UNFINISHED: Final = "erasing"
ERASING: Final = "the study is being erased"


@dataclass(frozen=True)
class Seen:
    """Whose an original is."""

    patient_id: str
    patient_name: str
    study_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class Erasable:
    """One received object and all that came of it.

    Attributes
    ----------
    instance_id, sop_instance_uid
        Of the original.
    protected_uids
        Of all objects made of it, by any treatment.
    paths
        Its files relative to the store: the original, bytes kept aside under its
        UID, and the protected objects; '' for those that retention took.
    sent_to
        Destinations that have it.
    """

    instance_id: int
    sop_instance_uid: str
    protected_uids: tuple[str, ...]
    paths: tuple[str, ...]
    sent_to: tuple[str, ...] = ()


class Erasure:
    """Finds what is to be erased, and removes its rows.

    Parameters
    ----------
    database
        Of the index.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_object(self, uid: str) -> list[Erasable]:
        """Find the original with a SOP Instance UID, its own or a protected one's."""
        derived = select(protected.c.instance_id).where(
            protected.c.sop_instance_uid == uid
        )
        chosen = (instances.c.sop_instance_uid == uid) | instances.c.id.in_(derived)
        with self._database.read() as connection:
            ids = connection.scalars(select(instances.c.id).where(chosen)).all()
            return [_erasable(connection, number) for number in ids]

    def of_study(self, uid: str) -> list[Erasable]:
        """Find the originals of a study, by its own UID or a protected one's."""
        statement = (
            select(instances.c.id).where(_of_study(uid)).order_by(instances.c.id)
        )
        with self._database.read() as connection:
            ids = connection.scalars(statement).all()
            return [_erasable(connection, number) for number in ids]

    def rows_of_study(self, uid: str) -> list[Seen]:
        """Return who the originals of a study are of, for the trail."""
        columns = [instances.c[name] for name in Seen.__dataclass_fields__]
        statement = select(*columns).where(_of_study(uid))
        with self._database.read() as connection:
            return [Seen(*row) for row in connection.execute(statement)]

    def studies_of(self, patient_id: str) -> list[str]:
        """Return the studies received of a patient, by PatientID (0010,0020)."""
        chosen = instances.c.patient_id == patient_id
        column = instances.c.study_instance_uid
        statement = select(column).where(chosen).distinct().order_by(column)
        with self._database.read() as connection:
            return list(connection.scalars(statement))

    def begin(self, study: str, now: datetime) -> None:
        """Say durably that a study is being erased: nothing of it goes on.

        Its revisions are ``erasing``, which nobody takes up; its instances are
        held; what is still owed is owed no more.
        """
        ids = select(instances.c.id).where(_of_study(study))
        of_ids = instances.c.id.in_(ids)
        owed = deliveries.c.instance_id.in_(ids) & deliveries.c.state.not_in(KEPT)
        of_owed = delivery_parts.c.delivery_id.in_(select(deliveries.c.id).where(owed))
        its = revisions.c.id.in_(select(instances.c.revision_id).where(of_ids))
        with self._database.write() as connection:
            connection.execute(delete(tombstones).where(_stone_of(study)))
            connection.execute(
                insert(tombstones),
                {
                    "kind": "study",
                    "uid": digest_of(study),
                    "sha256": "",
                    "at": timestamp(now),
                    "why": UNFINISHED,
                },
            )
            connection.execute(
                update(delivery_parts)
                .where(of_owed & delivery_parts.c.state.not_in(CONFIRMED))
                .values(state="held", error=ERASING)
            )
            connection.execute(
                update(deliveries).where(owed).values(state="held", last_error=ERASING)
            )
            # A new run that nobody asks for: jobs of the one before find no work.
            connection.execute(
                update(revisions)
                .where(its)
                .values(
                    state="erasing",
                    run=revisions.c.run + 1,
                    enqueued=revisions.c.run + 1,
                    changed_at=timestamp(now),
                )
            )
            connection.execute(
                update(instances)
                .where(of_ids)
                .values(state="held", reason="erasure", message="")
            )

    def is_unfinished(self, study: str) -> bool:
        """Whether an erasure of a study was begun and cut off."""
        chosen = _stone_of(study) & (tombstones.c.why == UNFINISHED)
        with self._database.read() as connection:
            return connection.scalar(select(tombstones.c.id).where(chosen)) is not None

    def finish(self, study: str, now: datetime) -> None:
        """Say that nothing of a study is here any more."""
        with self._database.write() as connection:
            connection.execute(
                update(tombstones)
                .where(_stone_of(study))
                .values(why="erased", at=timestamp(now))
            )

    def compact(self) -> bool:
        """Write the index anew, so that its files hold no removed row.

        Copies that upgrades made go too: they hold the rows.

        Returns
        -------
        bool
            Whether the write-ahead log could be emptied: not beside long readers.
        """
        engine = self._database.engine
        if engine.dialect.name != "sqlite":
            return True  # see docs/operations.md: VACUUM FULL is for its owner
        for copy in backups_of(Path(engine.url.database or "")):
            copy.unlink()
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("VACUUM")
            (busy, _, _) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def check_settled(self, chosen: list[Erasable]) -> None:
        """Check that nobody works on what is chosen.

        Raises
        ------
        GatewayError
            Some of it is being received, protected or sent.
        """
        ids = [each.instance_id for each in chosen]
        busy = (
            select(func.count())
            .select_from(instances.outerjoin(revisions))
            .where(instances.c.id.in_(ids))
            .where(revisions.c.state.is_(None) | revisions.c.state.not_in(SETTLED))
        )
        with self._database.read() as connection:
            number = connection.scalar(busy) or 0
        if number:
            raise GatewayError(
                f"{number} of these objects are still being received, protected or "
                "sent; wait until miad-gateway status shows them delivered or held"
            )

    def remove(self, erased: Erasable) -> None:
        """Remove the rows of an object; a revision left empty goes too."""
        uids = {erased.sop_instance_uid, *erased.protected_uids}
        with self._database.write() as connection:
            connection.execute(
                delete(conflicts).where(
                    conflicts.c.sop_instance_uid == erased.sop_instance_uid
                )
            )
            _remove_from_requests(connection, uids)
            remove_rows(connection, erased.instance_id)


def remove_rows(connection: Connection, number: int) -> None:
    """Remove a received object and all that came of it; conflicts stay."""
    own = instances.c.id == number
    revision = connection.scalar(select(instances.c.revision_id).where(own))
    connection.execute(delete(attempts).where(attempts.c.instance_id == number))
    _remove_parts(connection, number)
    connection.execute(delete(deliveries).where(deliveries.c.instance_id == number))
    connection.execute(delete(protected).where(protected.c.instance_id == number))
    connection.execute(delete(instances).where(own))
    _remove_if_empty(connection, revision)


def _remove_parts(connection: Connection, number: int) -> None:
    """Remove what was sent for an object, also from requests for commitment.

    A request of which nothing is left goes: a report of it then changes nothing.
    """
    of_object = delivery_parts.c.delivery_id.in_(
        select(deliveries.c.id).where(deliveries.c.instance_id == number)
    )
    rows = connection.execute(
        select(delivery_parts.c.id, deliveries.c.revision_id)
        .join(deliveries, deliveries.c.id == delivery_parts.c.delivery_id)
        .where(of_object)
    ).all()
    gone = {row[0] for row in rows}
    connection.execute(delete(delivery_parts).where(of_object))
    asked = commitments.c.revision_id.in_({row[1] for row in rows})
    for row in connection.execute(select(commitments).where(asked)).all():
        left = [part for part in row.part_ids if part not in gone]
        own = commitments.c.id == row.id
        if not left:
            connection.execute(
                update(delivery_parts)
                .where(delivery_parts.c.commitment_id == row.id)
                .values(commitment_id=None)
            )
            connection.execute(delete(commitments).where(own))
        elif len(left) < len(row.part_ids):
            connection.execute(update(commitments).where(own).values(part_ids=left))


def _remove_from_requests(connection: Connection, uids: Collection[str]) -> None:
    """Remove objects from what nodes asked this gateway to commit to.

    Of what a report does not name, the node that asked keeps its own.
    """
    for row in connection.execute(select(commitment_requests)).all():
        left = [pair for pair in row.objects if pair[1] not in uids]
        own = commitment_requests.c.id == row.id
        if not left:
            connection.execute(delete(commitment_requests).where(own))
        elif len(left) < len(row.objects):
            connection.execute(
                update(commitment_requests).where(own).values(objects=left)
            )


def digest_of(study: str) -> str:
    """Return what stands for an erased study: its UID is not kept."""
    return hashlib.sha256(study.encode()).hexdigest()


def _stone_of(study: str) -> ColumnElement[bool]:
    return (tombstones.c.kind == "study") & (tombstones.c.uid == digest_of(study))


def _of_study(uid: str) -> ColumnElement[bool]:
    derived = select(protected.c.instance_id).where(
        protected.c.study_instance_uid == uid
    )
    return (instances.c.study_instance_uid == uid) | instances.c.id.in_(derived)


def _erasable(connection: Connection, number: int) -> Erasable:
    own = select(instances.c.sop_instance_uid, instances.c.path).where(
        instances.c.id == number
    )
    uid, path = connection.execute(own).one()
    made = connection.execute(
        select(protected.c.sop_instance_uid, protected.c.path)
        .where(protected.c.instance_id == number)
        .order_by(protected.c.id)
    ).all()
    aside = connection.scalars(
        select(conflicts.c.path).where(conflicts.c.sop_instance_uid == uid)
    ).all()
    some_of_it = exists().where(
        delivery_parts.c.delivery_id == deliveries.c.id,
        delivery_parts.c.state.in_(CONFIRMED),
    )
    sent = connection.scalars(
        select(deliveries.c.destination)
        .where(deliveries.c.instance_id == number)
        .where(deliveries.c.state.in_(KEPT) | some_of_it)
        .order_by(deliveries.c.destination)
        .distinct()
    ).all()
    return Erasable(
        instance_id=number,
        sent_to=tuple(sent),
        sop_instance_uid=uid,
        protected_uids=tuple(row[0] for row in made),
        paths=(path, *aside, *(row[1] for row in made)),
    )


def _remove_if_empty(connection: Connection, revision: int | None) -> None:
    left = connection.scalar(
        select(func.count())
        .select_from(instances)
        .where(instances.c.revision_id == revision)
    )
    if revision is not None and not left:
        connection.execute(
            delete(commitments).where(commitments.c.revision_id == revision)
        )
        connection.execute(delete(revisions).where(revisions.c.id == revision))
