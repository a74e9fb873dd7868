"""Looking after a site: how far everything has come, and putting it back."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, func, select, update

from gateway.store.clock import timestamp
from gateway.store.deliveries import Deliveries
from gateway.store.rows import Conflict, Delivery
from gateway.store.schema import (
    conflicts,
    deliveries,
    instances,
    protected,
    revisions,
)


class Care(Deliveries):
    """The part of the index that people look at and put right."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many instances, revisions and deliveries are in each state.

        ``conflicts`` has the one state ``kept-aside``.
        """
        found: dict[str, dict[str, int]] = {}
        with self._database.read() as connection:
            for table in (instances, revisions, deliveries):
                grouped = connection.execute(
                    select(table.c.state, func.count()).group_by(table.c.state)
                )
                found[table.name] = {str(row[0]): int(row[1]) for row in grouped}
            aside = connection.scalar(select(func.count()).select_from(conflicts))
        found["conflicts"] = {"kept-aside": aside} if aside else {}
        return found

    def conflicts(self) -> list[Conflict]:
        """Return everything that was kept aside, oldest first."""
        rows = self._rows(select(conflicts).order_by(conflicts.c.id))
        return [Conflict(**row) for row in rows]

    def deliveries_in_state(self, state: str) -> list[Delivery]:
        """Return all deliveries in a state, oldest first."""
        chosen = deliveries.c.state == state
        rows = self._rows(select(deliveries).where(chosen).order_by(deliveries.c.id))
        return [Delivery(**row) for row in rows]

    def revisions_held_for(self, study_instance_uid: str, reason: str) -> list[int]:
        """Return the revisions of a study with an instance held for a reason."""
        chosen = (
            select(instances.c.revision_id)
            .where(instances.c.study_instance_uid == study_instance_uid)
            .where((instances.c.state == "held") & (instances.c.reason == reason))
            .where(instances.c.revision_id.is_not(None))
            .distinct()
            .order_by(instances.c.revision_id)
        )
        return [row["revision_id"] for row in self._rows(chosen)]

    def release_revision(self, revision_id: int, *, only_held: bool = False) -> bool:
        """Put what is held or was refused of a revision back on its way.

        Held instances are ``protected`` again where a protected object exists,
        else ``received``; stopped deliveries are ``pending``; the revision is
        ``complete`` with the reason ``retry``, and a new job is due. What was
        sent stays sent.

        Parameters
        ----------
        revision_id
            Its row.
        only_held
            Do nothing unless it is held.

        Returns
        -------
        bool
            Whether it was put back.
        """
        is_held = (instances.c.revision_id == revision_id) & (
            instances.c.state == "held"
        )
        has_protected = instances.c.id.in_(select(protected.c.instance_id))
        chosen = revisions.c.id == revision_id
        if only_held:
            chosen &= revisions.c.state == "held"
        with self._database.write() as connection:
            done = connection.execute(
                update(revisions)
                .where(chosen)
                .values(
                    state="complete",
                    reason="retry",
                    run=revisions.c.run + 1,
                    changed_at=timestamp(self._clock()),
                )
            )
            if not done.rowcount:
                return False
            _release(connection, is_held & has_protected, "protected")
            _release(connection, is_held & ~has_protected, "received")
            connection.execute(
                update(deliveries)
                .where(deliveries.c.revision_id == revision_id)
                .where(deliveries.c.state.in_(["refused", "held"]))
                .values(state="pending")
            )
        return True


def _release(connection: Connection, chosen: ColumnElement[bool], state: str) -> None:
    connection.execute(
        update(instances).where(chosen).values(state=state, reason="", message="")
    )
