"""Takes objects out of the index for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, func, select

from gateway.errors import GatewayError
from gateway.store.schema import (
    conflicts,
    deliveries,
    instances,
    protected,
    revisions,
)

if TYPE_CHECKING:
    from gateway.store.database import Database

SETTLED: Final = ("delivered", "held")
"""States of a revision that nobody works on."""


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
        UID, and the protected objects.
    """

    instance_id: int
    sop_instance_uid: str
    protected_uids: tuple[str, ...]
    paths: tuple[str, ...]


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
        derived = select(protected.c.instance_id).where(
            protected.c.study_instance_uid == uid
        )
        chosen = (instances.c.study_instance_uid == uid) | instances.c.id.in_(derived)
        statement = select(instances.c.id).where(chosen).order_by(instances.c.id)
        with self._database.read() as connection:
            ids = connection.scalars(statement).all()
            return [_erasable(connection, number) for number in ids]

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
        with self._database.write() as connection:
            connection.execute(
                delete(conflicts).where(
                    conflicts.c.sop_instance_uid == erased.sop_instance_uid
                )
            )
            remove_rows(connection, erased.instance_id)


def remove_rows(connection: Connection, number: int) -> None:
    """Remove a received object and all that came of it; conflicts stay."""
    own = instances.c.id == number
    revision = connection.scalar(select(instances.c.revision_id).where(own))
    connection.execute(delete(deliveries).where(deliveries.c.instance_id == number))
    connection.execute(delete(protected).where(protected.c.instance_id == number))
    connection.execute(delete(instances).where(own))
    _remove_if_empty(connection, revision)


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
    return Erasable(
        instance_id=number,
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
        connection.execute(delete(revisions).where(revisions.c.id == revision))
