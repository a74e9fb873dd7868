"""The durable jobs: DBOS workflows around the steps of `flow` and `export`.

A revision is routed, protected, and sent to each destination by a job each, never
an instance by one. Arguments and results are row ids and names, so the jobs'
database holds nothing about a patient, not even a UID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from dbos import (
    DBOS,
    DBOSConfiguredInstance,
    SetEnqueueOptions,
    SetWorkflowID,
)
from dbos import error as dbos_error

from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.route.urgency import URGENT
from gateway.stages.backoff import wait_seconds
from gateway.stages.commit import Committer
from gateway.stages.export import Exporter
from gateway.stages.flow import FAILED, Flow, Ready, Routed
from gateway.stages.gate import Gate
from gateway.stages.guard import Check, unguarded
from gateway.stages.hours import ALWAYS, Schedule
from gateway.stages.queues import (
    ALIVE,
    COMMIT,
    EXPORT,
    ROUTE,
    commit_stem,
    export_id,
    export_queue,
    protect_id,
    queue_for_protection,
    route_id,
)
from gateway.stages.waiting import Waiting
from gateway.store.clock import utc_now
from gateway.store.rows import Revision
from gateway.store.space import Space
from gateway.store.work import Work

TOGETHER = 16
"""Instances of a series protected in one step: what a crash may cost again."""

STEP_ATTEMPTS = 3
MAX_RECOVERIES = 10
"""A job during which the worker ended this often is held."""

SECONDS_PER_HOUR = 3600.0


class Plan(TypedDict):
    """What routing found; plain values, kept by the queue."""

    routed: list[Routed]
    priority: int
    queue: str


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


class Request(TypedDict):
    """One request for commitment; plain values, kept by the queue.

    ``number`` counts the jobs of a revision and destination, ``failures`` those in a
    row that could not ask.
    """

    revision_id: int
    destination: str
    number: int
    failures: int


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


@DBOS.dbos_class("Jobs")
class Jobs(DBOSConfiguredInstance):
    """The workflows of one site.

    Parameters
    ----------
    flow, exporter
        The steps.
    gate
        What every step goes through.
    work
        Who else works.
    timing
        When things are done.
    committer
        Asks for storage commitment; None: nobody is asked.
    """

    def __init__(
        self,
        flow: Flow,
        exporter: Exporter,
        gate: Gate,
        work: Work,
        timing: Timing | None = None,
        committer: Committer | None = None,
    ) -> None:
        super().__init__("site")
        self._gate = gate
        self._flow = flow
        self._exporter = exporter
        self._work = work
        self._timing = Timing(schedules={}) if timing is None else timing
        self._room = Waiting(self._timing.space)
        self._committer = committer

    # Route: one closed revision

    def start_route(self, revision: Revision) -> None:
        """Enqueue the first job of a revision's run; a second time it is the same."""
        with SetWorkflowID(route_id(revision.id, revision.run)):
            DBOS.enqueue_workflow(ROUTE, self.route, revision.id, revision.run)

    @DBOS.workflow(name="route", max_recovery_attempts=MAX_RECOVERIES)
    def route(self, revision_id: int, run: int) -> None:
        """Find where a revision goes and how urgent it is; have it protected."""
        try:
            plan = self.route_step(revision_id)
        except dbos_error.DBOSMaxStepRetriesExceeded as error:
            self.failed_step(revision_id, _cause(error))
            return
        with (
            SetWorkflowID(protect_id(revision_id, run)),
            SetEnqueueOptions(priority=plan["priority"]),
        ):
            DBOS.enqueue_workflow(
                plan["queue"],
                self.protect,
                revision_id,
                run,
                plan["priority"],
                plan["routed"],
            )

    @DBOS.step(name="route", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def route_step(self, revision_id: int) -> Plan:
        """Decide where each instance goes."""
        with self._gate.passing():
            routed = self._flow.route(revision_id)
            return Plan(
                routed=routed,
                priority=self._flow.revision(revision_id).priority,
                queue=queue_for_protection(self._work),
            )

    # Protect: one routed revision

    @DBOS.workflow(name="protect", max_recovery_attempts=MAX_RECOVERIES)
    def protect(
        self, revision_id: int, run: int, priority: int, routed: list[Routed]
    ) -> None:
        """Protect each instance, plan, and enqueue the exports."""
        ready = [
            done
            for batch in _batches([item for item in routed if item["protected"]])
            for done in self._protected(batch)
        ]
        for order, wait in self.plan_step(revision_id, run, priority, routed, ready):
            self.enqueue_export(order, wait)
        self.finish_step(revision_id)
        self.wake_step(revision_id, [item for item in ready if item["treatments"]])

    def _protected(self, batch: list[Routed]) -> list[Ready]:
        """Protect instances together, or one by one where that fails.

        One that makes the worker end, or fails unforeseen, is found that way.
        """
        done = self.protect_step(batch)
        if done is not None:
            return done
        return [ready for item in batch for ready in self._protected_alone(item)]

    def _protected_alone(self, item: Routed) -> list[Ready]:
        try:
            return self.protect_one_step(item)
        except dbos_error.DBOSMaxStepRetriesExceeded as error:
            self.failed_instance_step(item["instance_id"], _cause(error))
            return []

    @DBOS.step(name="protect")
    def protect_step(self, batch: list[Routed]) -> list[Ready] | None:
        """Protect instances or hold them; None: they have to go one by one."""
        self._room.wait()
        with self._gate.passing():
            if self._flow.suspects(batch):
                return None
            try:
                return self._flow.protect(batch)
            except GatewayError:
                return None

    @DBOS.step(name="protect-one", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def protect_one_step(self, item: Routed) -> list[Ready]:
        """Protect one instance or hold it; without room, later."""

        def protect() -> list[Ready]:
            with self._gate.passing():
                return self._flow.protect([item])

        return self._room.until_done(protect)

    @DBOS.step(name="plan", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def plan_step(
        self,
        revision_id: int,
        run: int,
        priority: int,
        routed: list[Routed],
        ready: list[Ready],
    ) -> list[tuple[Order, float]]:
        """Note what is owed to whom; return the exports, and after which wait."""
        with self._gate.passing():
            self._timing.check()
            names = self._flow.plan(revision_id, routed, ready)
            return [
                self._first(revision_id, name, run, priority, number=1)
                for name in names
            ]

    @DBOS.step(name="finish", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def finish_step(self, revision_id: int) -> bool:
        """Close the revision if nothing is left to send."""
        with self._gate.passing():
            return self._flow.finish(revision_id)

    @DBOS.step(name="wake", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def wake_step(self, revision_id: int, ready: list[Ready]) -> int:
        """Put objects back on their way that waited for these."""
        with self._gate.passing():
            return self._flow.wake(revision_id, ready)

    @DBOS.step(name="failed", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def failed_step(self, revision_id: int, why: str) -> None:
        """Hold a revision after an unexpected failure."""
        with self._gate.passing():
            self._flow.hold_revision(revision_id, f"{FAILED}: {why}")

    @DBOS.step(name="failed-instance", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def failed_instance_step(self, instance_id: int, why: str) -> None:
        """Hold an instance after an unexpected failure; it never leaves."""
        with self._gate.passing():
            self._flow.hold(instance_id, FAILED, why)

    # Export: one revision to one destination

    def start_export(
        self, revision_id: int, destination: str, run: int, priority: int, number: int
    ) -> None:
        """Enqueue an export of a revision's run."""
        self.enqueue_export(
            *self._first(revision_id, destination, run, priority, number)
        )

    @DBOS.workflow(name="export", max_recovery_attempts=MAX_RECOVERIES)
    def export(self, order: Order) -> None:
        """Send once; what the peer could not take now is a later job.

        The wait is a delay of that job in the queue: it survives a restart and
        keeps no place at the destination.
        """
        if not self._is_over(order):
            later = self.later_step(order)
            if not later["given_up"]:
                self.enqueue_export(later["order"], later["wait"])
                self._commit_what_left(order)
                return
            self.give_up_step(order, later["given_up"])
        self.finish_step(order["revision_id"])
        self._commit_what_left(order)

    def _commit_what_left(self, order: Order) -> None:
        """Have a destination asked to commit to what it took, if it is to be."""
        settings = self._exporter.destinations.get(order["destination"])
        if settings is not None and settings.commitment:
            self.start_commit(order["revision_id"], order["destination"])

    def _is_over(self, order: Order) -> bool:
        try:
            return self.attempt_step(order)
        except dbos_error.DBOSMaxStepRetriesExceeded:
            return False

    @DBOS.step(name="attempt", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def attempt_step(self, order: Order) -> bool:
        """Send what is pending; False when something has to be tried again.

        An export of an earlier run leaves everything to that of the present one.
        """
        with self._gate.passing():
            if not self._is_current(order):
                return True
            if self._closed_for(order) > 0.0:
                return False
            again = self._exporter.attempt(
                order["revision_id"],
                order["destination"],
                may_go_on=lambda: self._may_go_on(order),
            )
            return not again or not self._is_current(order)

    @DBOS.step(name="later", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def later_step(self, order: Order) -> Later:
        """Work out when an export goes on, or that it does not."""
        with self._gate.passing():
            return self._later(order)

    @DBOS.step(name="give-up", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def give_up_step(self, order: Order, why: str) -> int:
        """Hold what could not be sent for too long."""
        with self._gate.passing():
            return self.give_up(order["revision_id"], order["destination"], why)

    def give_up(self, revision_id: int, destination: str, why: str) -> int:
        """Hold what of a revision is still owed to a destination."""
        get_logger("export").error(
            "given-up", revision_id=revision_id, destination=destination, why=why
        )
        return self._work.give_up(revision_id, destination, why)

    def enqueue_export(self, order: Order, wait: float) -> None:
        """Enqueue one export, to begin after a wait in seconds."""
        name = order["destination"]
        queue = EXPORT if self.is_gone(name) else export_queue(name)
        with (
            SetWorkflowID(job_of(order)),
            SetEnqueueOptions(priority=order["priority"], delay_seconds=wait or None),
        ):
            DBOS.enqueue_workflow(queue, self.export, order)

    # What the sweep asks

    def is_gone(self, destination: str) -> bool:
        """Whether a destination is configured no more."""
        return destination not in self._exporter.destinations

    def hold(self, revision_id: int, why: str) -> None:
        """Park a revision whose job failed, visibly."""
        self._flow.hold_revision(revision_id, why)

    def finish(self, revision_id: int) -> bool:
        """Close a revision if nothing is left to send."""
        return self._flow.finish(revision_id)

    def longest_wait(self, destination: str) -> float:
        """Return the longest wait, in seconds, that an export can have from now."""
        settings = self._exporter.destinations.get(destination)
        if settings is None:
            return 0.0
        opens = self._timing.wait_for(destination, URGENT, urgent_at_once=False)
        return max(settings.retry_cap_seconds, opens)

    def _first(
        self, revision_id: int, destination: str, run: int, priority: int, number: int
    ) -> tuple[Order, float]:
        order = Order(
            revision_id=revision_id,
            destination=destination,
            run=run,
            number=number,
            failures=0,
            since=self._timing.clock().timestamp(),
            priority=priority,
        )
        return order, self._closed_for(order)

    def _may_go_on(self, order: Order) -> bool:
        """Whether the next object may leave: asked before each."""
        self._timing.check()
        return self._closed_for(order) <= 0.0 and self._is_current(order)

    def _is_current(self, order: Order) -> bool:
        """Whether the revision has not begun anew, or was erased, since."""
        revision = self._flow.index.revision(order["revision_id"])
        return revision is not None and revision.run == order["run"]

    def _closed_for(self, order: Order) -> float:
        """Return the seconds until the destination takes this; 0: now."""
        settings = self._exporter.destinations.get(order["destination"])
        if settings is None:
            return 0.0
        return self._timing.wait_for(
            order["destination"],
            order["priority"],
            urgent_at_once=settings.urgent_at_once,
        )

    def _later(self, order: Order) -> Later:
        following = order.copy()
        following["number"] += 1
        settings = self._exporter.destinations.get(order["destination"])
        closed = self._closed_for(order)
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

    # Commit: what one destination was sent of one revision

    def start_due_commits(self) -> None:
        """See that everything to be asked for has a job."""
        if self._committer is not None:
            for revision_id, destination in self._committer.due():
                self.start_commit(revision_id, destination)

    def start_commit(self, revision_id: int, destination: str) -> None:
        """Enqueue the request for commitment unless one is under way."""
        stem = commit_stem(revision_id, destination)
        jobs = DBOS.list_workflows(
            workflow_id_prefix=stem, load_input=False, load_output=False
        )
        if any(job.status in ALIVE for job in jobs):
            return
        made = [int(job.workflow_id.removeprefix(stem)) for job in jobs]
        request = Request(
            revision_id=revision_id,
            destination=destination,
            number=max(made, default=0) + 1,
            failures=0,
        )
        self._enqueue_commit(request, 0.0)

    @DBOS.workflow(name="commit", max_recovery_attempts=MAX_RECOVERIES)
    def commit(self, request: Request) -> None:
        """Ask once; what the peer could not take now is a later job."""
        try:
            again = self.commit_step(request)
        except dbos_error.DBOSMaxStepRetriesExceeded:
            again = True
        settings = self._exporter.destinations.get(request["destination"])
        if again and settings is not None:
            following = request.copy()
            following["number"] += 1
            following["failures"] += 1
            wait = wait_seconds(
                commit_stem(request["revision_id"], request["destination"]),
                following["failures"],
                settings.retry_first_seconds,
                settings.retry_cap_seconds,
            )
            self._enqueue_commit(following, wait)

    @DBOS.step(name="commit-ask", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def commit_step(self, request: Request) -> bool:
        """Ask for what is sent; True when it has to be tried again."""
        with self._gate.passing():
            if self._committer is None:
                return False
            return self._committer.attempt(
                request["revision_id"], request["destination"], self._holds
            )

    def _holds(self) -> bool:
        """Come back only while this process may act."""
        self._timing.check()
        return True

    def _enqueue_commit(self, request: Request, wait: float) -> None:
        stem = commit_stem(request["revision_id"], request["destination"])
        with (
            SetWorkflowID(f"{stem}{request['number']}"),
            SetEnqueueOptions(delay_seconds=wait or None),
        ):
            DBOS.enqueue_workflow(COMMIT, self.commit, request)


def job_of(order: Order) -> str:
    """Return the id of an export's job."""
    return export_id(
        order["revision_id"], order["destination"], order["run"], order["number"]
    )


def _batches(items: list[Routed]) -> Iterator[list[Routed]]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def _cause(error: dbos_error.DBOSMaxStepRetriesExceeded) -> str:
    return str(error.errors[-1]) if error.errors else "unknown"
