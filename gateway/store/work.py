"""What is due, who works, and what is under work: the index as the workers see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Select, delete, insert, select, update

from gateway.store.clock import timestamp, utc_now
from gateway.store.many import one_of
from gateway.store.rows import Executor, Revision
from gateway.store.schema import attempts, deliveries, executors, revisions

if TYPE_CHECKING:
    from gateway.store.database import Database

LIVE = "live"
STOPPED = "stopped"
LOST = "lost"


class Owed(NamedTuple):
    """A destination to which something of a revision is still to be sent."""

    revision_id: int
    run: int
    priority: int
    destination: str


class Work:
    """Work of all machines of a site, over the connections of its index.

    Parameters
    ----------
    database
        Of the index.
    clock
        Where times that people read come from.
    """

    def __init__(
        self, database: Database, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._clock = clock

    # What is due

    def due(self, most: int) -> list[Revision]:
        """Return closed revisions that have no job yet, the oldest first."""
        chosen = (revisions.c.state == "complete") & (
            revisions.c.enqueued < revisions.c.run
        )
        return self._revisions(
            select(revisions).where(chosen).order_by(revisions.c.id).limit(most)
        )

    def mark_enqueued(self, revision_id: int, run: int) -> None:
        """Note that a revision's run has its job."""
        later = (revisions.c.id == revision_id) & (revisions.c.enqueued < run)
        with self._database.write() as connection:
            connection.execute(update(revisions).where(later).values(enqueued=run))

    def page(self, state: str, after: int, most: int) -> list[Revision]:
        """Return revisions in a state whose row comes after one, in order."""
        chosen = (revisions.c.state == state) & (revisions.c.id > after)
        return self._revisions(
            select(revisions).where(chosen).order_by(revisions.c.id).limit(most)
        )

    def owed(self, revision_ids: Iterable[int]) -> list[Owed]:
        """Return the destinations that revisions still owe something."""
        dialect = self._database.engine.dialect.name
        statement = (
            select(
                deliveries.c.revision_id,
                revisions.c.run,
                revisions.c.priority,
                deliveries.c.destination,
            )
            .join(revisions, revisions.c.id == deliveries.c.revision_id)
            .where(one_of(deliveries.c.revision_id, revision_ids, dialect))
            .where(deliveries.c.state == "pending")
            .distinct()
            .order_by(deliveries.c.revision_id, deliveries.c.destination)
        )
        return [Owed(**row) for row in self._rows(statement)]

    def give_up(self, revision_id: int, destination: str, why: str) -> int:
        """Hold what is still owed to a destination; return how much it was."""
        chosen = (
            (deliveries.c.revision_id == revision_id)
            & (deliveries.c.destination == destination)
            & (deliveries.c.state == "pending")
        )
        with self._database.write() as connection:
            last = connection.scalar(
                select(deliveries.c.last_error)
                .where(chosen & (deliveries.c.last_error != ""))
                .limit(1)
            )
            text = f"{why}; last: {last}" if last else why
            done = connection.execute(
                update(deliveries).where(chosen).values(state="held", last_error=text)
            )
        return done.rowcount

    # Who works

    def register(self, executor: Executor) -> None:
        """Add a process; earlier runs in the same place are over.

        Whoever registers holds the lock of the place: they cannot live.
        """
        same_place = (
            (executors.c.machine == executor.machine)
            & (executors.c.kind == executor.kind)
            & (executors.c.slot == executor.slot)
        )
        with self._database.write() as connection:
            connection.execute(
                update(executors)
                .where(same_place & (executors.c.state == LIVE))
                .values(state=LOST)
            )
            connection.execute(insert(executors).values(**asdict(executor)))

    def beat(self, executor_id: str) -> bool:
        """Show that a process lives; False: others have declared it lost."""
        own = (executors.c.id == executor_id) & (executors.c.state == LIVE)
        with self._database.write() as connection:
            done = connection.execute(
                update(executors)
                .where(own)
                .values(beats=executors.c.beats + 1, beat_at=timestamp(self._clock()))
            )
        return bool(done.rowcount)

    def is_live(self, executor_id: str) -> bool:
        """Whether a process is still taken to live."""
        own = select(executors.c.state).where(executors.c.id == executor_id)
        with self._database.read() as connection:
            return connection.scalar(own) == LIVE

    def stopped(self, executor_id: str) -> None:
        """Note that a process ends: what it had may be taken up at once."""
        own = (executors.c.id == executor_id) & (executors.c.state == LIVE)
        with self._database.write() as connection:
            connection.execute(update(executors).where(own).values(state=STOPPED))

    def declare_lost(self, executor_id: str, beats: int) -> bool:
        """Declare a process lost, unless its beats have gone on since."""
        same = (
            (executors.c.id == executor_id)
            & (executors.c.beats == beats)
            & (executors.c.state == LIVE)
        )
        with self._database.write() as connection:
            done = connection.execute(update(executors).where(same).values(state=LOST))
        return bool(done.rowcount)

    def executors(self) -> list[Executor]:
        """Return all processes that are not forgotten, by machine and place."""
        order = (
            executors.c.machine,
            executors.c.kind,
            executors.c.slot,
            executors.c.started_at,
        )
        rows = self._rows(select(executors).order_by(*order))
        return [Executor(**row) for row in rows]

    def forget(self, executor_ids: Sequence[str]) -> None:
        """Drop rows of processes that are over."""
        over = executors.c.id.in_(executor_ids) & (executors.c.state != LIVE)
        with self._database.write() as connection:
            connection.execute(delete(executors).where(over))

    # What is under work

    def attempts_of(self, instance_ids: Iterable[int]) -> dict[int, int]:
        """Return how often a process ended over each of these, if it did."""
        dialect = self._database.engine.dialect.name
        chosen = one_of(attempts.c.instance_id, instance_ids, dialect)
        rows = self._rows(
            select(attempts.c.instance_id, attempts.c.number).where(chosen)
        )
        return {row["instance_id"]: row["number"] for row in rows}

    def begin_attempts(self, instance_ids: Sequence[int], executor_id: str) -> None:
        """Note that a process begins with these."""
        dialect = self._database.engine.dialect.name
        chosen = one_of(attempts.c.instance_id, instance_ids, dialect)
        with self._database.write() as connection:
            known = set(
                connection.scalars(select(attempts.c.instance_id).where(chosen))
            )
            connection.execute(
                update(attempts)
                .where(chosen)
                .values(number=attempts.c.number + 1, executor=executor_id)
            )
            new = [
                {"instance_id": one, "executor": executor_id, "number": 1}
                for one in instance_ids
                if one not in known
            ]
            if new:
                connection.execute(insert(attempts), new)

    def end_attempts(self, instance_ids: Iterable[int]) -> None:
        """Forget these: they were come through with."""
        dialect = self._database.engine.dialect.name
        chosen = one_of(attempts.c.instance_id, instance_ids, dialect)
        with self._database.write() as connection:
            connection.execute(delete(attempts).where(chosen))

    def forget_attempts_of(self, executor_id: str) -> None:
        """Forget what a process had begun: a stop that was asked for."""
        own = attempts.c.executor == executor_id
        with self._database.write() as connection:
            connection.execute(delete(attempts).where(own))

    def _revisions(self, statement: Select[Any]) -> list[Revision]:
        return [Revision(**row) for row in self._rows(statement)]

    def _rows(self, statement: Select[Any]) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]
