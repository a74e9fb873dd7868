"""What follows for a delivery from the objects that are sent for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, RowMapping, select, update

from gateway.store.schema import deliveries, delivery_parts, revisions

CONFIRMED: Final = ("sent", "committed")
"""States of a part that the destination has taken: it is not sent again."""

_WORST_FIRST: Final = ("pending", "held", "refused", "sent", "committed")


def settle(connection: Connection, delivery_ids: Iterable[int]) -> None:
    """Give deliveries the state of the worst of their parts.

    A delivery without parts, of before there were any, stays as it is.
    """
    for delivery_id in dict.fromkeys(delivery_ids):
        chosen = delivery_parts.c.delivery_id == delivery_id
        rows = connection.execute(select(delivery_parts).where(chosen)).mappings().all()
        if not rows:
            continue
        worst = min(rows, key=_place)
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id == delivery_id)
            .values(
                state=worst["state"],
                status=worst["status"],
                last_error=worst["error"],
                sent_at=max((row["sent_at"] or "" for row in rows), default="") or None,
            )
        )


def reopen_revision(connection: Connection, revision_id: int) -> None:
    """Put a revision back to where what is pending of it is sent."""
    connection.execute(
        update(revisions)
        .where(revisions.c.id == revision_id)
        .where(revisions.c.state.in_(["delivered", "held"]))
        .values(state="routed", reason="")
    )


def _place(row: RowMapping) -> tuple[int, bool, int]:
    """Order parts: the worst first, then one with something to say."""
    return _WORST_FIRST.index(row["state"]), not row["status"], row["id"]
