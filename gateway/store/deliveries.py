"""What is owed to whom: the part of the index that export works through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, insert, select, update

from gateway.store.clock import timestamp
from gateway.store.database import Database
from gateway.store.rows import Delivery
from gateway.store.schema import deliveries


class Deliveries:
    """Deliveries, over the connections that the whole index shares."""

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

    def plan_deliveries(
        self,
        revision_id: int,
        destination: str,
        protect: bool,
        instance_ids: Iterable[int],
        treatment: str = "",
    ) -> None:
        """Note what is owed to a destination; what was sent there stays sent.

        What is still to be sent, or was refused, is owed as ``treatment`` says now.
        """
        wanted = list(dict.fromkeys(instance_ids))
        owed = {
            "revision_id": revision_id,
            "destination": destination,
            "protect": protect,
            "treatment": treatment,
        }
        same = (
            (deliveries.c.destination == destination)
            & (deliveries.c.protect == protect)
            & deliveries.c.instance_id.in_(wanted)
        )
        with self._database.write() as connection:
            self._database.in_turn(connection, "deliveries", destination)
            known = set(
                connection.scalars(select(deliveries.c.instance_id).where(same))
            )
            connection.execute(
                update(deliveries)
                .where(same & (deliveries.c.state != "sent"))
                .values(treatment=treatment)
            )
            missing = [owed | {"instance_id": i} for i in wanted if i not in known]
            if missing:
                connection.execute(insert(deliveries), missing)

    def pending_deliveries(self, revision_id: int, destination: str) -> list[Delivery]:
        """Return what is still to be sent, in the order it came."""
        return [
            delivery
            for delivery in self.deliveries_of(revision_id)
            if delivery.destination == destination and delivery.state == "pending"
        ]

    def deliveries_of(self, revision_id: int) -> list[Delivery]:
        """Return all deliveries of a revision."""
        chosen = deliveries.c.revision_id == revision_id
        statement = select(deliveries).where(chosen).order_by(deliveries.c.id)
        return [Delivery(**row) for row in self._rows(statement)]

    def record_delivery(
        self, delivery_id: int, state: str, status: int | None, error: str
    ) -> None:
        """Note one attempt: its outcome and the peer's status, if any."""
        sent_at = timestamp(self._clock()) if state == "sent" else None
        with self._database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id)
                .values(
                    state=state,
                    status=status,
                    last_error=error,
                    attempts=deliveries.c.attempts + 1,
                    sent_at=sent_at,
                )
            )

    def _rows(self, statement: Select[Any]) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]
