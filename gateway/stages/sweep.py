"""The worker's round: close what is whole, and heal what a crash left lying.

A crash may fall between "closed" and "enqueued", or between "planned" and
"enqueued". Nothing is lost by it: the index says what should be under way, and
a job asked for twice is one job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from threading import Event

from gateway.log import get_logger
from gateway.route.completion import IdleTimes
from gateway.stages.workflows import Jobs
from gateway.store.index import Index

HEAL_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One round over the index, and the loop of rounds."""

    index: Index
    jobs: Jobs
    idle: IdleTimes
    clock: Callable[[], datetime]

    def close_idle(self) -> int:
        """Close every series whose source has been silent; return how many."""
        keys = self.index.idle_series(
            self.clock(), self.idle.seconds_by_ae, self.idle.default_seconds
        )
        for key in keys:
            self.index.close_series(
                key.series_instance_uid, key.calling_ae, self.clock()
            )
        return len(keys)

    def start_closed(self) -> None:
        """See that every closed revision has a job, whoever closed it."""
        for revision in self.index.revisions("complete"):
            self.jobs.start_deliver(revision)

    def heal_exports(self) -> None:
        """See that everything still to be sent has a job."""
        for revision in self.index.revisions("routed"):
            pending = {
                delivery.destination
                for delivery in self.index.deliveries_of(revision.id)
                if delivery.state == "pending"
            }
            for destination in sorted(pending):
                self.jobs.start_export(revision.id, destination)
            if not pending:
                self.jobs.finish_step(revision.id)

    def run(self, stop: Event, poll_seconds: float) -> None:
        """Go round until told to stop; a failed round is tried again.

        The pause between rounds is short and the rounds are cheap; exports,
        which DBOS itself takes up again after a crash, are looked at rarely.
        """
        rounds_between = max(1, round(HEAL_SECONDS / poll_seconds))
        number = 0
        while not stop.is_set():
            try:
                self.close_idle()
                self.start_closed()
                if number % rounds_between == 0:
                    self.heal_exports()
                    self.jobs.start_due_commits()
            except Exception as error:  # noqa: BLE001 - the loop outlives any failure
                get_logger("sweep").error("sweep-failed", error=type(error).__name__)
            number += 1
            stop.wait(poll_seconds)
