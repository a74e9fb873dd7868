"""The durable jobs: DBOS workflows around the steps of `flow` and `export`.

A job is a revision, never an instance. Arguments and results are row ids and
names, so the jobs' database holds nothing about a patient, not even a UID. Ids are
made from what the job is for: a job asked for twice runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSConfiguredInstance,
    SetEnqueueOptions,
    SetWorkflowID,
)
from dbos import error as dbos_error

from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.stages.export import Exporter
from gateway.stages.flow import FAILED, Flow, Ready, Routed
from gateway.stages.gate import Gate
from gateway.stages.waiting import Waiting
from gateway.store.rows import Revision
from gateway.store.space import Space

DELIVER_QUEUE = "deliver"
EXPORT_QUEUE = "export"
EXPORTS_AT_ONCE = 2
"""Per destination: one slow or refusing object does not block the others."""

TOGETHER = 16
"""Instances of a series protected in one step: what a crash may cost again."""

POLL_SECONDS = 0.2
STEP_ATTEMPTS = 3
MAX_RECOVERIES = 10
"""A revision during which the worker died this often is held."""

RETRY = "retry"
"""Reason of a revision that a person has put back to ``complete``."""

_ALIVE = frozenset({"ENQUEUED", "DELAYED", "PENDING"})


def jobs_config(database: str, version: str) -> DBOSConfig:
    """Return the settings of the job queue.

    Parameters
    ----------
    database
        SQLAlchemy URL of the jobs' own database.
    version
        Of the application, stated so that a changed source file does not
        orphan pending jobs.
    """
    return DBOSConfig(
        name="miad-gateway",
        system_database_url=database,
        application_version=version,
        executor_id="worker",  # one per data directory: a lock file sees to it
        log_level="WARNING",
        notification_listener_polling_interval_sec=POLL_SECONDS,
    )


def declare_queues() -> None:
    """Declare the queues; after ``DBOS.launch``."""
    DBOS.register_queue(
        DELIVER_QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS
    )
    DBOS.register_queue(
        EXPORT_QUEUE,
        partition_concurrency=EXPORTS_AT_ONCE,
        polling_interval_sec=POLL_SECONDS,
    )


@DBOS.dbos_class("Jobs")
class Jobs(DBOSConfiguredInstance):
    """The workflows of one site.

    Parameters
    ----------
    flow, exporter
        The steps.
    gate
        What every step goes through.
    name
        Recorded with every job; recovery finds this instance by it.
    space
        What protection waits for while the disk is nearly full; None: nothing.
    """

    def __init__(
        self,
        flow: Flow,
        exporter: Exporter,
        gate: Gate,
        name: str = "site",
        space: Space | None = None,
    ) -> None:
        super().__init__(name)
        self._room = Waiting(space)
        self._gate = gate
        self._flow = flow
        self._exporter = exporter

    # Deliver: one closed revision

    def start_deliver(self, revision: Revision) -> None:
        """Enqueue the job of a closed revision unless it has one.

        A job that ended without moving the revision on is not repeated by
        itself: the revision is held until a person retries it.
        """
        for job, status in self._jobs_of(deliver_id(revision)):
            if status is None:
                with SetWorkflowID(job):
                    DBOS.enqueue_workflow(DELIVER_QUEUE, self.deliver, revision.id)
                return
            if status in _ALIVE:
                return
            if revision.reason != RETRY:
                why = f"the job {job} ended as {status}; retry it"
                self._flow.hold_revision(revision.id, why)
                return

    @DBOS.workflow(name="deliver", max_recovery_attempts=MAX_RECOVERIES)
    def deliver(self, revision_id: int) -> None:
        """Route, protect each instance, plan, and enqueue the exports."""
        try:
            routed = self.route_step(revision_id)
        except dbos_error.DBOSMaxStepRetriesExceeded as error:
            self.failed_step(revision_id, _cause(error))
            return
        ready = [
            done
            for batch in _batches([item for item in routed if item["protected"]])
            for done in self._protected(batch)
        ]
        for name in self.plan_step(revision_id, routed, ready):
            self.start_export(revision_id, name)
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

    @DBOS.step(name="route", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def route_step(self, revision_id: int) -> list[Routed]:
        """Decide where each instance goes."""
        with self._gate.passing():
            return self._flow.route(revision_id)

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
        self, revision_id: int, routed: list[Routed], ready: list[Ready]
    ) -> list[str]:
        """Note what is owed to whom."""
        with self._gate.passing():
            return self._flow.plan(revision_id, routed, ready)

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

    def start_export(self, revision_id: int, destination: str) -> None:
        """Enqueue an export unless one is under way; heals a lost one."""
        stem = f"{export_id(revision_id, destination)}#"
        jobs = DBOS.list_workflows(
            workflow_id_prefix=stem, load_input=False, load_output=False
        )
        if any(job.status in _ALIVE for job in jobs):
            return
        made = [int(job.workflow_id.removeprefix(stem)) for job in jobs]
        self._enqueue_export(revision_id, destination, max(made, default=0) + 1, 0.0)

    @DBOS.workflow(name="export", max_recovery_attempts=MAX_RECOVERIES)
    def export(self, revision_id: int, destination: str, attempt: int) -> None:
        """Send once; what the peer could not take now is a later job.

        The wait is a delay of that job in the queue: it survives a restart and
        keeps no place at the destination.
        """
        if self._again(revision_id, destination):
            wait = self._back_off(destination, attempt)
            self._enqueue_export(revision_id, destination, attempt + 1, wait)
        else:
            self.finish_step(revision_id)

    def _again(self, revision_id: int, destination: str) -> bool:
        try:
            return self.attempt_step(revision_id, destination)
        except dbos_error.DBOSMaxStepRetriesExceeded:
            return True

    @DBOS.step(name="attempt", retries_allowed=True, max_attempts=STEP_ATTEMPTS)
    def attempt_step(self, revision_id: int, destination: str) -> bool:
        """Send what is pending; True when something has to be tried again."""
        with self._gate.passing():
            return self._exporter.attempt(revision_id, destination)

    def _back_off(self, destination: str, attempt: int) -> float:
        """Return the wait before the next attempt: doubled each time, capped."""
        settings = self._exporter.destinations[destination]
        doubled = settings.retry_first_seconds * 2.0 ** min(attempt - 1, 30)
        wait = min(doubled, settings.retry_cap_seconds)
        get_logger("export").warning(
            "export-later", destination=destination, attempt=attempt, seconds=wait
        )
        return wait

    def _enqueue_export(
        self, revision_id: int, destination: str, attempt: int, delay: float
    ) -> None:
        job = f"{export_id(revision_id, destination)}#{attempt}"
        with (
            SetWorkflowID(job),
            SetEnqueueOptions(
                queue_partition_key=destination, delay_seconds=delay or None
            ),
        ):
            DBOS.enqueue_workflow(
                EXPORT_QUEUE, self.export, revision_id, destination, attempt
            )

    @staticmethod
    def _jobs_of(stem: str) -> Iterator[tuple[str, str | None]]:
        """Yield the jobs made under an id so far, and then the next free one."""
        for number in count():
            job = f"{stem}#{number}"
            status = DBOS.get_workflow_status(job)
            yield job, None if status is None else status.status
            if status is None:
                return


def _batches(items: list[Routed]) -> Iterator[list[Routed]]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def deliver_id(revision: Revision) -> str:
    """Return the id of a revision's job, without its run.

    No UID in it: the jobs' database is not encrypted.
    """
    return f"deliver:{revision.id}"


def export_id(revision_id: int, destination: str) -> str:
    """Return the id of an export, without its attempt."""
    return f"export:{revision_id}:{destination}"


def _cause(error: dbos_error.DBOSMaxStepRetriesExceeded) -> str:
    return str(error.errors[-1]) if error.errors else "unknown"
