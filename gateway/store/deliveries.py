"""What is owed to whom: the part of the index that export works through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from gateway.store.clock import timestamp
from gateway.store.commitments import Commitments
from gateway.store.rows import Delivery, DeliveryPart, PartOutcome
from gateway.store.schema import deliveries, delivery_parts
from gateway.store.settling import CONFIRMED, settle

KEPT: Final = ("sent", "committed", "uncommitted")
"""States of a delivery that the destination has taken."""


class Deliveries(Commitments):
    """Deliveries, over the connections that the whole index shares."""

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
                .where(same & deliveries.c.state.not_in(KEPT))
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
        """Note what became of a whole delivery, whatever its parts say."""
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

    def plan_parts(
        self, wanted: Mapping[int, Sequence[tuple[str, str]]]
    ) -> dict[int, dict[str, DeliveryPart]]:
        """Note the objects that deliveries consist of now; return them.

        What was confirmed stays so; what a delivery does not consist of any more
        is forgotten.

        Parameters
        ----------
        wanted
            Pairs of SOP class and SOP Instance UID by delivery.

        Returns
        -------
        dict
            Parts by SOP Instance UID, by delivery.
        """
        found: dict[int, dict[str, DeliveryPart]] = {}
        with self._database.write() as connection:
            for delivery_id, objects in wanted.items():
                found[delivery_id] = _plan_parts(connection, delivery_id, objects)
        return found

    def record_part(self, part_id: int, outcome: PartOutcome, *, last: bool) -> None:
        """Note one attempt at one object, and what follows for its delivery.

        Parameters
        ----------
        part_id
            Of ``plan_parts``.
        outcome
            How it ended.
        last
            Whether it is the last object of its delivery in this attempt.
        """
        now = timestamp(self._clock())
        with self._database.write() as connection:
            connection.execute(
                update(delivery_parts)
                .where(delivery_parts.c.id == part_id)
                .where(delivery_parts.c.state.not_in(CONFIRMED))
                .values(
                    state=outcome.state,
                    status=outcome.status,
                    error=outcome.error,
                    address=outcome.address,
                    transfer_syntax_uid=outcome.transfer_syntax_uid,
                    sent_at=now if outcome.state == "sent" else None,
                )
            )
            of_part = select(delivery_parts.c.delivery_id).where(
                delivery_parts.c.id == part_id
            )
            if outcome.warned:
                connection.execute(
                    update(deliveries)
                    .where(deliveries.c.id.in_(of_part))
                    .values(warned=True)
                )
            if last:
                connection.execute(
                    update(deliveries)
                    .where(deliveries.c.id.in_(of_part))
                    .values(attempts=deliveries.c.attempts + 1)
                )
                settle(connection, connection.scalars(of_part).all())

    def settle_delivery(self, delivery_id: int) -> None:
        """Let a delivery follow from its parts, as after a crash between the two."""
        with self._database.write() as connection:
            settle(connection, [delivery_id])

    def warned_deliveries(self) -> list[Delivery]:
        """Return what destinations keep with a remark, oldest first."""
        statement = select(deliveries).where(deliveries.c.warned.is_(True))
        rows = self._rows(statement.order_by(deliveries.c.id))
        return [Delivery(**row) for row in rows]

    def taken_by(self) -> list[tuple[str, str, int]]:
        """Return destinations, their addresses, and how many objects each took."""
        statement = (
            select(deliveries.c.destination, delivery_parts.c.address, func.count())
            .join_from(deliveries, delivery_parts)
            .where(delivery_parts.c.state.in_(CONFIRMED))
            .group_by(deliveries.c.destination, delivery_parts.c.address)
            .order_by(deliveries.c.destination, delivery_parts.c.address)
        )
        with self._database.read() as connection:
            return [
                (str(name), str(address), int(count))
                for name, address, count in connection.execute(statement)
            ]

    def parts_of(self, delivery_id: int) -> list[DeliveryPart]:
        """Return the objects of a delivery, in order."""
        chosen = delivery_parts.c.delivery_id == delivery_id
        statement = select(delivery_parts).where(chosen).order_by(delivery_parts.c.id)
        return [DeliveryPart(**row) for row in self._rows(statement)]


def _plan_parts(
    connection: Connection, delivery_id: int, objects: Sequence[tuple[str, str]]
) -> dict[str, DeliveryPart]:
    of_delivery = delivery_parts.c.delivery_id == delivery_id
    uids = [uid for _, uid in objects]
    connection.execute(
        delete(delivery_parts).where(
            of_delivery & delivery_parts.c.sop_instance_uid.not_in(uids)
        )
    )
    chosen = select(delivery_parts.c.sop_instance_uid).where(of_delivery)
    known = set(connection.scalars(chosen))
    missing = [
        {"delivery_id": delivery_id, "sop_class_uid": kind, "sop_instance_uid": uid}
        for kind, uid in objects
        if uid not in known
    ]
    if missing:
        connection.execute(insert(delivery_parts), missing)
    rows = connection.execute(select(delivery_parts).where(of_delivery)).mappings()
    return {row["sop_instance_uid"]: DeliveryPart(**row) for row in rows}
