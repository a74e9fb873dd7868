"""What a gateway's index says of the objects it received and made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, select

from gateway.store.database import Database
from gateway.store.schema import deliveries, instances, protected, revisions

UNSETTLED_REVISIONS = ("complete", "routed")
UNSETTLED_DELIVERY = "pending"


@dataclass(frozen=True, kw_only=True)
class Made:
    """One protected object: which part of its original, and what is said of it."""

    sop_instance_uid: str
    sop_class_uid: str
    treatment: str
    part: int
    report: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Received:
    """A received object, its state, and the protected objects made of it."""

    sop_instance_uid: str
    state: str
    reason: str
    message: str
    made: tuple[Made, ...] = field(default=())


class Ledger:
    """Reads the index of a running gateway.

    Parameters
    ----------
    database
        Of its index; closed with this.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.close()

    def progress(self) -> tuple[int, ...]:
        """Numbers of which one grows or falls whenever anything moves on.

        Unsettled revisions, open objects, pending deliveries, decided objects,
        and protected ones; the first three are 0 when all is settled.
        """
        state = instances.c.state
        counted = (
            select(revisions.c.id).where(revisions.c.state.in_(UNSETTLED_REVISIONS)),
            select(instances.c.id).where(instances.c.revision_id.is_(None)),
            select(deliveries.c.id).where(deliveries.c.state == UNSETTLED_DELIVERY),
            select(instances.c.id).where(state != "received"),
            select(protected.c.id),
        )
        with self._database.read() as connection:
            return tuple(
                int(
                    connection.scalar(select(func.count()).select_from(each.subquery()))
                    or 0
                )
                for each in counted
            )

    def received(self) -> dict[str, Received]:
        """Return every received object by its SOP Instance UID."""
        with self._database.read() as connection:
            made: defaultdict[int, list[Made]] = defaultdict(list)
            order = (protected.c.treatment, protected.c.part)
            for row in connection.execute(select(protected).order_by(*order)):
                made[row.instance_id].append(
                    Made(
                        sop_instance_uid=row.sop_instance_uid,
                        sop_class_uid=row.sop_class_uid,
                        treatment=row.treatment,
                        part=row.part,
                        report=row.report or {},
                    )
                )
            return {
                row.sop_instance_uid: Received(
                    sop_instance_uid=row.sop_instance_uid,
                    state=row.state,
                    reason=row.reason,
                    message=row.message,
                    made=tuple(made[row.id]),
                )
                for row in connection.execute(select(instances))
            }
