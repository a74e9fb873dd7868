"""When an export goes on, and whether it still is to.

The jobs of `workflows` act on it, and keep it as plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypedDict

from gateway.log import get_logger
from gateway.route.urgency import URGENT
from gateway.stages.backoff import wait_seconds
from gateway.stages.guard import Check, unguarded
from gateway.stages.hours import ALWAYS, Schedule
from gateway.stages.queues import export_id
from gateway.store.clock import utc_now

if TYPE_CHECKING:
    from config.schema import Destination
    from gateway.store.index import Index
    from gateway.store.space import Space

SECONDS_PER_HOUR: Final = 3600.0


class Order(TypedDict):
    """One export, as its job is asked for; plain values, kept by the queue.

    ``run`` is the revision's, ``number`` counts the jobs of this run, ``failures``
    those in a row that could not send; ``since`` is when the first of them began,
    in seconds since 1970.
    """

    revision_id: int
    destination: str
    run: int
    number: int
    failures: int
    since: float
    priority: int


class Later(TypedDict):
    """When an export goes on: after a wait in seconds, or never, and why."""

    order: Order
    wait: float
    given_up: str


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When things are done, and whether they still may be.

    Attributes
    ----------
    schedules
        By destination; others are always open.
    clock
        The time, aware.
    check
        Returns only while this process may act.
    space
        What protection waits for while the disk is nearly full; None: nothing.
    """

    schedules: Mapping[str, Schedule]
    clock: Callable[[], datetime] = utc_now
    check: Check = unguarded
    space: Space | None = None

    def wait_for(
        self, destination: str, priority: int, *, urgent_at_once: bool
    ) -> float:
        """Return the seconds until a destination takes something; 0: now."""
        if priority <= URGENT and urgent_at_once:
            return 0.0
        now = self.clock()
        opens = self.schedules.get(destination, ALWAYS).opens(now)
        return (opens - now).total_seconds()


class Orders:
    """Says of the exports of a site when they go on.

    Parameters
    ----------
    index
        Whose revisions they are of.
    destinations
        That are configured, by name.
    timing
        When things are done.
    """

    def __init__(
        self, index: Index, destinations: Mapping[str, Destination], timing: Timing
    ) -> None:
        self._index = index
        self._destinations = destinations
        self._timing = timing

    def is_gone(self, destination: str) -> bool:
        """Whether a destination is configured no more."""
        return destination not in self._destinations

    def longest_wait(self, destination: str) -> float:
        """Return the longest wait, in seconds, that an export can have from now."""
        settings = self._destinations.get(destination)
        if settings is None:
            return 0.0
        opens = self._timing.wait_for(destination, URGENT, urgent_at_once=False)
        return max(settings.retry_cap_seconds, opens)

    def first(
        self, revision_id: int, destination: str, run: int, priority: int, number: int
    ) -> tuple[Order, float]:
        """Return an export of a revision's run, and its wait in seconds."""
        order = Order(
            revision_id=revision_id,
            destination=destination,
            run=run,
            number=number,
            failures=0,
            since=self._timing.clock().timestamp(),
            priority=priority,
        )
        return order, self.closed_for(order)

    def may_go_on(self, order: Order) -> bool:
        """Whether the next object may leave: asked before each."""
        self._timing.check()
        return self.closed_for(order) <= 0.0 and self.is_current(order)

    def is_current(self, order: Order) -> bool:
        """Whether the revision has not begun anew, or was erased, since."""
        revision = self._index.revision(order["revision_id"])
        return revision is not None and revision.run == order["run"]

    def closed_for(self, order: Order) -> float:
        """Return the seconds until the destination takes this; 0: now."""
        settings = self._destinations.get(order["destination"])
        if settings is None:
            return 0.0
        return self._timing.wait_for(
            order["destination"],
            order["priority"],
            urgent_at_once=settings.urgent_at_once,
        )

    def later(self, order: Order) -> Later:
        """Return when an export goes on that could not send all, or that it ends."""
        following = order.copy()
        following["number"] += 1
        settings = self._destinations.get(order["destination"])
        closed = self.closed_for(order)
        if settings is None or closed > 0.0:
            return Later(order=following, wait=closed, given_up="")
        limit = settings.give_up_after_hours
        spent = self._timing.clock().timestamp() - order["since"]
        if limit and spent >= limit * SECONDS_PER_HOUR:
            why = f"could not be sent for {limit:g} hours"
            return Later(order=order, wait=0.0, given_up=why)
        following["failures"] += 1
        wait = wait_seconds(
            job_of(order),
            following["failures"],
            settings.retry_first_seconds,
            settings.retry_cap_seconds,
        )
        get_logger("export").warning(
            "export-later",
            destination=order["destination"],
            attempt=order["number"],
            seconds=round(wait, 3),
        )
        return Later(order=following, wait=wait, given_up="")


def job_of(order: Order) -> str:
    """Return the id of an export's job."""
    return export_id(
        order["revision_id"], order["destination"], order["run"], order["number"]
    )
