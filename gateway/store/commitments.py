"""Storage commitment in the index (PS3.4 J): what was asked of whom, both ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, Select, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.store.clock import timestamp
from gateway.store.database import Database
from gateway.store.rows import (
    Commitment,
    CommitmentRequest,
    DeliveryPart,
    JsonValue,
)
from gateway.store.schema import (
    commitment_requests,
    commitments,
    deliveries,
    delivery_parts,
)
from gateway.store.settling import reopen_revision, settle

ASKING: Final = timedelta(minutes=10)
"""A request of which nobody knows whether it arrived is made again after this."""

MOST_ASKED: Final = 2
"""How often a destination is asked to commit to an object that it was sent."""

MOST_FAILURES: Final = 1
"""How often an object that the destination did not keep is sent again."""

Asked = Literal["new", "again", "other"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a destination says of a transaction.

    Attributes
    ----------
    transaction_uid
        Of the request.
    kept
        Pairs of SOP class and instance UID that it commits to.
    failed
        Failure reasons (PS3.3 C.14) by such pairs.
    """

    transaction_uid: str
    kept: Collection[tuple[str, str]] = ()
    failed: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a report changed: how many objects are now in which state.

    ``strangers`` were not asked for, or in another SOP class: they change nothing.
    """

    destination: str
    committed: int = 0
    again: int = 0
    held: int = 0
    strangers: int = 0


class Commitments:
    """Requests for storage commitment, over the connections of the index."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    @property
    def database(self) -> Database:
        """The connections."""
        return self._database

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    # Asked of destinations

    def due_commitments(
        self, destinations: Collection[str], revision_id: int | None = None
    ) -> list[tuple[int, str]]:
        """Return the revisions and destinations with something to ask for now."""
        statement = _due(timestamp(self._clock()), destinations)
        if revision_id is not None:
            statement = statement.where(deliveries.c.revision_id == revision_id)
        rows = self._rows(
            statement.with_only_columns(
                deliveries.c.revision_id, deliveries.c.destination
            ).distinct()
        )
        return sorted((row["revision_id"], row["destination"]) for row in rows)

    def parts_to_commit(self, revision_id: int, destination: str) -> list[DeliveryPart]:
        """Return the objects that a destination is to be asked for now.

        Those of which it was asked often enough are not among them: their
        deliveries are ``uncommitted`` from now on.
        """
        statement = (
            _due(timestamp(self._clock()), [destination])
            .where(deliveries.c.revision_id == revision_id)
            .with_only_columns(delivery_parts)
            .order_by(delivery_parts.c.id)
        )
        with self._database.write() as connection:
            rows = connection.execute(statement).mappings().all()
            parts = [DeliveryPart(**row) for row in rows]
            given_up = {p.delivery_id for p in parts if p.asked >= MOST_ASKED}
            _leave_uncommitted(connection, given_up, "sent, and no report in time")
        return [part for part in parts if part.delivery_id not in given_up]

    def begin_commitment(
        self, transaction_uid: str, destination: str, parts: Sequence[DeliveryPart]
    ) -> Commitment:
        """Note a request before it is made: its report may come before its answer."""
        now = self._clock()
        first = parts[0].delivery_id
        chosen = delivery_parts.c.id.in_([part.id for part in parts])
        with self._database.write() as connection:
            revision_id = connection.scalar(
                select(deliveries.c.revision_id).where(deliveries.c.id == first)
            )
            row = connection.execute(
                insert(commitments)
                .values(
                    transaction_uid=transaction_uid,
                    revision_id=revision_id,
                    destination=destination,
                    part_ids=[part.id for part in parts],
                    state="asking",
                    asked_at=timestamp(now),
                    deadline_at=timestamp(now + ASKING),
                )
                .returning(commitments)
            ).one()
            made = Commitment(**row._mapping)
            connection.execute(
                update(delivery_parts).where(chosen).values(commitment_id=made.id)
            )
        return made

    def asked_commitment(self, commitment: Commitment, hours: float) -> None:
        """Note that the destination took a request, and until when it may report."""
        deadline = timestamp(self._clock() + timedelta(hours=hours))
        with self._database.write() as connection:
            connection.execute(
                update(commitments)
                .where(commitments.c.id == commitment.id)
                .where(commitments.c.state == "asking")
                .values(state="asked")
            )
            connection.execute(
                update(commitments)
                .where(commitments.c.id == commitment.id)
                .values(deadline_at=deadline)
            )
            connection.execute(
                update(delivery_parts)
                .where(delivery_parts.c.commitment_id == commitment.id)
                .values(asked=delivery_parts.c.asked + 1)
            )

    def failed_commitment(self, commitment: Commitment, why: str = "") -> None:
        """Note that a request was not taken; ``why``: and never will be."""
        of_it = delivery_parts.c.commitment_id == commitment.id
        with self._database.write() as connection:
            connection.execute(
                update(commitments)
                .where(commitments.c.id == commitment.id)
                .values(state="failed")
            )
            touched = connection.scalars(
                select(delivery_parts.c.delivery_id).where(of_it).distinct()
            ).all()
            connection.execute(
                update(delivery_parts).where(of_it).values(commitment_id=None)
            )
            if why:
                _leave_uncommitted(connection, touched, why)

    def report_commitment(
        self, report: Report, destinations: Collection[str]
    ) -> Effect | None:
        """Take what a destination reports of a transaction.

        Parameters
        ----------
        report
            As it came.
        destinations
            For which the reporter may speak.

        Returns
        -------
        Effect or None
            None where there is no such transaction of theirs: nothing changed.
        """
        chosen = commitments.c.transaction_uid == report.transaction_uid
        with self._database.write() as connection:
            row = connection.execute(select(commitments).where(chosen)).one_or_none()
            if row is None or row.destination not in destinations:
                return None
            asked = Commitment(**row._mapping)
            effect = _take(connection, asked, report)
            connection.execute(
                update(commitments).where(chosen).values(state="reported")
            )
        return effect

    def commitment(self, transaction_uid: str) -> Commitment | None:
        """Return a request by its transaction."""
        chosen = commitments.c.transaction_uid == transaction_uid
        rows = self._rows(select(commitments).where(chosen))
        return Commitment(**rows[0]) if rows else None

    # Asked of this gateway

    def add_commitment_request(
        self,
        node: str,
        calling_ae: str,
        transaction_uid: str,
        objects: Sequence[tuple[str, str]],
        wait_seconds: float,
    ) -> tuple[Asked, CommitmentRequest]:
        """Note a request; the same again is reported again.

        Parameters
        ----------
        node, calling_ae
            Who asks.
        transaction_uid, objects
            What for: pairs of SOP class and instance UID.
        wait_seconds
            When it may be reported first: not while the request is answered.

        Returns
        -------
        str
            ``new``; ``again``: the very same was asked before; ``other``:
            other objects were, and nothing changes.
        CommitmentRequest
            As it is noted.
        """
        now = self._clock()
        listed = [list(pair) for pair in objects]
        first = {
            "state": "waiting",
            "attempts": 0,
            "received_at": timestamp(now),
            "next_at": timestamp(now + timedelta(seconds=wait_seconds)),
            "last_error": "",
        }
        named = {"node": node, "transaction_uid": transaction_uid}
        own = {"calling_ae": calling_ae, "objects": listed}
        same = (commitment_requests.c.node == node) & (
            commitment_requests.c.transaction_uid == transaction_uid
        )
        outcome: Asked = "new"
        try:
            with self._database.write() as connection:
                connection.execute(
                    insert(commitment_requests).values(**named, **own, **first)
                )
        except IntegrityError:
            outcome = "again"
        found = CommitmentRequest(
            **self._rows(select(commitment_requests).where(same))[0]
        )
        if outcome == "again" and found.objects != listed:
            return "other", found
        if outcome == "again":
            with self._database.write() as connection:
                connection.execute(
                    update(commitment_requests).where(same).values(**first)
                )
        return outcome, found

    def claim_commitment_requests(
        self, most: int, lease_seconds: float
    ) -> list[CommitmentRequest]:
        """Take requests that are due to be reported; nobody else does meanwhile.

        One whose reporter dies is due again after the lease.
        """
        now = self._clock()
        until = timestamp(now + timedelta(seconds=lease_seconds))
        due = (commitment_requests.c.state == "waiting") & (
            commitment_requests.c.next_at <= timestamp(now)
        )
        statement = (
            select(commitment_requests)
            .where(due)
            .order_by(commitment_requests.c.next_at)
            .limit(most)
        )
        if not self._rows(statement.limit(1)):
            return []
        with self._database.write() as connection:
            rows = connection.execute(statement).mappings().all()
            taken = []
            for row in rows:
                mine = connection.execute(
                    update(commitment_requests)
                    .where(commitment_requests.c.id == row["id"])
                    .where(commitment_requests.c.next_at == row["next_at"])
                    .values(next_at=until)
                )
                if mine.rowcount:
                    taken.append(CommitmentRequest(**row))
        return taken

    def record_commitment_report(
        self, request_id: int, state: str, error: str, wait_seconds: float = 0.0
    ) -> None:
        """Note one attempt at a report, and when the next one is due."""
        next_at = timestamp(self._clock() + timedelta(seconds=wait_seconds))
        with self._database.write() as connection:
            connection.execute(
                update(commitment_requests)
                .where(commitment_requests.c.id == request_id)
                .values(
                    state=state,
                    last_error=error,
                    next_at=next_at,
                    attempts=commitment_requests.c.attempts + 1,
                )
            )

    def commitment_requests(self, state: str) -> list[CommitmentRequest]:
        """Return what nodes asked for, in a state, oldest first."""
        chosen = commitment_requests.c.state == state
        statement = select(commitment_requests).where(chosen)
        rows = self._rows(statement.order_by(commitment_requests.c.id))
        return [CommitmentRequest(**row) for row in rows]

    def _rows(self, statement: Select[Any]) -> list[dict[str, JsonValue]]:
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]


def _due(now: str, destinations: Collection[str]) -> Select[Any]:
    """Select objects sent of which nobody is asked, or was asked for too long."""
    joined = delivery_parts.join(
        deliveries, delivery_parts.c.delivery_id == deliveries.c.id
    ).outerjoin(commitments, delivery_parts.c.commitment_id == commitments.c.id)
    open_request = commitments.c.state.in_(["asking", "asked", "reported"])
    return (
        select(delivery_parts)
        .select_from(joined)
        .where(deliveries.c.destination.in_(list(destinations)))
        .where(deliveries.c.state == "sent")
        .where(delivery_parts.c.state == "sent")
        .where(
            or_(
                delivery_parts.c.commitment_id.is_(None),
                commitments.c.deadline_at < now,
                ~open_request,
            )
        )
    )


def _leave_uncommitted(
    connection: Connection, delivery_ids: Collection[int], why: str
) -> None:
    if delivery_ids:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(list(delivery_ids)))
            .where(deliveries.c.state == "sent")
            .values(state="uncommitted", last_error=why)
        )


def _take(connection: Connection, asked: Commitment, report: Report) -> Effect:
    """Move the objects of a transaction on, those that still wait for it."""
    rows = connection.execute(
        select(delivery_parts).where(delivery_parts.c.id.in_(asked.part_ids))
    ).mappings()
    parts = {(row["sop_class_uid"], row["sop_instance_uid"]): row for row in rows}
    named = {*report.kept, *report.failed}
    counts = dict.fromkeys(("committed", "again", "held"), 0)
    touched = set()
    for pair in sorted(named & set(parts)):
        part = DeliveryPart(**parts[pair])
        # What was sent anew since is another request's; what is settled stays so.
        if part.state != "sent" or part.commitment_id != asked.id:
            continue
        values = _changed(part, report.failed.get(pair))
        counts[values.pop("count")] += 1
        connection.execute(
            update(delivery_parts)
            .where(delivery_parts.c.id == part.id)
            .values(**values)
        )
        touched.add(part.delivery_id)
    settle(connection, touched)
    if counts["again"] or counts["held"]:
        reopen_revision(connection, asked.revision_id)
    return Effect(
        destination=asked.destination, strangers=len(named - set(parts)), **counts
    )


def _changed(part: DeliveryPart, reason: int | None) -> dict[str, JsonValue]:
    if reason is None:
        return {"count": "committed", "state": "committed"}
    why = f"the destination reports that it does not keep it (0x{reason:04X})"
    again = part.failures < MOST_FAILURES
    return {
        "count": "again" if again else "held",
        "state": "pending" if again else "held",
        "error": why if again else f"{why}, and was sent it twice",
        "failures": part.failures + 1,
        "commitment_id": None,
        "asked": 0,
    }
