"""The durable jobs: DBOS workflows around the steps of `flow`, `export` and `commit`.

A revision is routed, protected, and sent to each destination by a job each, never
an instance by one. Arguments and results are row ids and names, so the jobs'
database holds nothing about a patient, not even a UID.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from gateway.stages.commit import Committer
from gateway.stages.export import Exporter
from gateway.stages.flow import FAILED, Flow, Ready, Routed
from gateway.stages.gate import Gate
from gateway.stages.orders import Later, Order, Orders, Timing, job_of
from gateway.stages.queues import (
    COMMIT,
    EXPORT,
    ROUTE,
    export_queue,
    protect_id,
    queue_for_protection,
    route_id,
)
from gateway.stages.requests import (
    Request,
    after_failure,
    next_request,
    request_job_of,
)
from gateway.stages.waiting import Waiting
from gateway.store.rows import Revision
from gateway.store.work import Work

TOGETHER = 16
"""Instances of a series protected in one step: what a crash may cost again."""

STEP_ATTEMPTS = 3
MAX_RECOVERIES = 10
"""A job during which the worker ended this often is held."""


class Plan(TypedDict):
    """What routing found; plain values, kept by the queue."""

    routed: list[Routed]
    priority: int
    queue: str


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

    Attributes
    ----------
    orders
        Says when exports go on.
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
        self.orders = Orders(flow.index, exporter.destinations, self._timing)
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
                self.orders.first(revision_id, name, run, priority, number=1)
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
            *self.orders.first(revision_id, destination, run, priority, number)
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
            if not self.orders.is_current(order):
                return True
            if self.orders.closed_for(order) > 0.0:
                return False
            again = self._exporter.attempt(
                order["revision_id"],
                order["destination"],
                may_go_on=lambda: self.orders.may_go_on(order),
            )
            return not again or not self.orders.is_current(order)

    @DBOS.step(name="later", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def later_step(self, order: Order) -> Later:
        """Work out when an export goes on, or that it does not."""
        with self._gate.passing():
            return self.orders.later(order)

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
        queue = EXPORT if self.orders.is_gone(name) else export_queue(name)
        with (
            SetWorkflowID(job_of(order)),
            SetEnqueueOptions(priority=order["priority"], delay_seconds=wait or None),
        ):
            DBOS.enqueue_workflow(queue, self.export, order)

    # What the sweep asks

    def hold(self, revision_id: int, why: str) -> None:
        """Park a revision whose job failed, visibly."""
        self._flow.hold_revision(revision_id, why)

    def finish(self, revision_id: int) -> bool:
        """Close a revision if nothing is left to send."""
        return self._flow.finish(revision_id)

    # Commit: what one destination was sent of one revision

    def start_due_commits(self) -> None:
        """See that everything to be asked for has a job."""
        if self._committer is not None:
            for revision_id, destination in self._committer.due():
                self.start_commit(revision_id, destination)

    def start_commit(self, revision_id: int, destination: str) -> None:
        """Enqueue the request for commitment unless one is under way."""
        request = next_request(revision_id, destination)
        if request is not None:
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
            self._enqueue_commit(*after_failure(request, settings))

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
        with (
            SetWorkflowID(request_job_of(request)),
            SetEnqueueOptions(delay_seconds=wait or None),
        ):
            DBOS.enqueue_workflow(COMMIT, self.commit, request)


def _batches(items: list[Routed]) -> Iterator[list[Routed]]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def _cause(error: dbos_error.DBOSMaxStepRetriesExceeded) -> str:
    return str(error.errors[-1]) if error.errors else "unknown"
