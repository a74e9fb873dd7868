"""The worker's round: close what is whole, and heal what a crash left lying.

A crash may fall between "closed" and "enqueued", or between "planned" and
"enqueued". Nothing is lost by it: the index says what should be under way, and
a job asked for twice is one job.

A round costs by what is due, not by what there is: new work is asked for by its
own mark, and what has its job is looked at page by page, a page a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event

from dbos import DBOS, WorkflowStatus
from sqlalchemy.exc import IntegrityError

from gateway.log import get_logger
from gateway.route.completion import IdleTimes
from gateway.stages.queues import (
    ALIVE,
    EXPORT,
    FAILED,
    export_stem,
    protect_id,
    route_id,
)
from gateway.stages.rescue import Rescue
from gateway.stages.workflows import Jobs
from gateway.store.index import Index
from gateway.store.rows import Revision
from gateway.store.work import Owed, Work

HEAL_SECONDS = 15.0
PAGE = 200
"""Revisions that are looked at in one round of healing, in each state."""
SLACK_SECONDS = 60.0
"""A wait longer by this than any that is ever asked for is a clock's mistake."""


@dataclass(kw_only=True)
class Sweep:
    """One round over the index, and the loop of rounds."""

    index: Index
    work: Work
    jobs: Jobs
    idle: IdleTimes
    clock: Callable[[], datetime]
    rescue: Rescue | None = None
    _after: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def close_idle(self) -> int:
        """Close every series whose source has been silent; return how many."""
        keys = self.index.idle_series(
            self.clock(), self.idle.seconds_by_ae, self.idle.default_seconds
        )
        for key in keys:
            try:
                self.index.close_series(
                    key.series_instance_uid, key.calling_ae, self.clock()
                )
            except IntegrityError:
                get_logger("sweep").info("closed-by-another-worker")
        return len(keys)

    def start_due(self) -> int:
        """Give closed revisions their job, whoever closed them; return how many."""
        due = self.work.due(PAGE)
        for revision in due:
            self.jobs.start_route(revision)
            self.work.mark_enqueued(revision.id, revision.run)
        return len(due)

    def heal(self) -> None:
        """Look after the next page of what should be under way."""
        self._heal_complete(self._page("complete"))
        self._heal_routed(self._page("routed"))

    def _page(self, state: str) -> list[Revision]:
        """Return the next page, and begin anew after the last one."""
        page = self.work.page(state, self._after[state], PAGE)
        self._after[state] = page[-1].id if len(page) == PAGE else 0
        return page

    def _heal_complete(self, revisions: Iterable[Revision]) -> None:
        """See that what was enqueued has a job that still can move it on."""
        begun = [one for one in revisions if one.enqueued >= one.run]
        ids = {
            one.id: (route_id(one.id, one.run), protect_id(one.id, one.run))
            for one in begun
        }
        found = _jobs_named([job for pair in ids.values() for job in pair])
        for one in begun:
            jobs = [found[job] for job in ids[one.id] if job in found]
            if not jobs:
                self.jobs.start_route(one)
            elif not any(job.status in ALIVE for job in jobs):
                self._stuck(one, jobs)

    def _stuck(self, seen: Revision, jobs: list[WorkflowStatus]) -> None:
        """Hold a revision whose jobs ended without moving it on.

        One that was given up since its steps are of an older version, or whose
        second job was never made, begins anew.
        """
        now = self.index.revision(seen.id)
        if now is None or (now.state, now.run) != ("complete", seen.run):
            return
        last = jobs[-1]
        never_protected = last.workflow_id == route_id(seen.id, seen.run)
        if last.status == "CANCELLED" or (never_protected and last.status == "SUCCESS"):
            self.index.release_revision(seen.id)
        else:
            why = f"the job {last.workflow_id} ended as {last.status}"
            self.jobs.hold(seen.id, why)

    def _heal_routed(self, revisions: list[Revision]) -> None:
        """See that everything still to be sent has a job."""
        owed = self.work.owed(one.id for one in revisions)
        for item, jobs in _exports_of(owed):
            alive = [job for job in jobs if job.status in ALIVE]
            if alive:
                self._hasten(item, alive)
            elif jobs and jobs[-1].status in FAILED:
                last = jobs[-1]
                why = f"the job {last.workflow_id} ended as {last.status}"
                self.jobs.give_up(item.revision_id, item.destination, why)
            else:
                self.jobs.start_export(
                    *(item.revision_id, item.destination, item.run, item.priority),
                    number=_number(jobs) + 1,
                )
        busy = {item.revision_id for item in owed}
        for one in revisions:
            if one.id not in busy:
                self.jobs.finish(one.id)

    def _hasten(self, item: Owed, alive: Iterable[WorkflowStatus]) -> None:
        """Move jobs of destinations that are gone; shorten waits no one asked for.

        The wait of a job ends by the clock on the wall: set back, it would be too
        long, and so it would be where settings or hours have changed since.
        """
        longest = self.jobs.orders.longest_wait(item.destination) + SLACK_SECONDS
        latest = (self.clock().timestamp() + longest) * 1000
        for job in alive:
            if self.jobs.orders.is_gone(item.destination) and job.queue_name != EXPORT:
                if job.status != "PENDING":
                    DBOS.resume_workflow(job.workflow_id, queue_name=EXPORT)
            elif job.status == "DELAYED" and (job.delay_until_epoch_ms or 0) > latest:
                DBOS.set_workflow_delay(job.workflow_id, delay_seconds=0.0)

    def run(self, stop: Event, poll_seconds: float) -> None:
        """Go round until told to stop; a failed round is tried again.

        The pause between rounds is short and the rounds are cheap; what has its
        job, which DBOS itself takes up again after a crash, is looked at rarely.
        """
        rounds_between = max(1, round(HEAL_SECONDS / poll_seconds))
        number = 0
        while not stop.is_set():
            self._tried(self.close_idle)
            self._tried(self.start_due)
            if self.rescue is not None:
                self._tried(self.rescue.round)
            if number % rounds_between == 0:
                self._tried(self.heal)
                self._tried(self.jobs.start_due_commits)
            number += 1
            stop.wait(poll_seconds)

    @staticmethod
    def _tried(act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the loop outlives any failure
            get_logger("sweep").error(
                "sweep-failed", part=act.__name__, error=type(error).__name__
            )


def _jobs_named(ids: list[str]) -> dict[str, WorkflowStatus]:
    if not ids:
        return {}
    jobs = DBOS.list_workflows(workflow_ids=ids, load_input=False, load_output=False)
    return {job.workflow_id: job for job in jobs}


def _exports_of(owed: list[Owed]) -> list[tuple[Owed, list[WorkflowStatus]]]:
    """Return what is owed with the jobs of its run, in their order."""
    if not owed:
        return []
    stems = {_stem(item): item for item in owed}
    found: dict[Owed, list[WorkflowStatus]] = {item: [] for item in owed}
    for job in DBOS.list_workflows(
        workflow_id_prefix=list(stems), load_input=False, load_output=False
    ):
        stem, _, _ = job.workflow_id.rpartition(".")
        item = stems.get(f"{stem}.")
        if item is not None:
            found[item].append(job)
    return [(item, sorted(jobs, key=_number_of)) for item, jobs in found.items()]


def _stem(item: Owed) -> str:
    return f"{export_stem(item.revision_id, item.destination)}{item.run}."


def _number_of(job: WorkflowStatus) -> int:
    return int(job.workflow_id.rpartition(".")[2])


def _number(jobs: list[WorkflowStatus]) -> int:
    return max(map(_number_of, jobs), default=0)
