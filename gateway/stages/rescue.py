"""Take up what others left: of workers that fell silent, ended, or were of before.

Any live worker does it, and several may at once: a job goes back to its queue only
while it is still the lost one's, and its queue gives it to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from dbos import DBOS, WorkflowStatus
from dbos._dbos import _get_dbos_instance

from gateway.log import get_logger
from gateway.stages.heartbeat import (
    BEATS_PER_SILENCE,
    Silence,
    forward_clock,
    living,
)
from gateway.stages.queues import (
    ALIVE,
    ENDED,
    JOBS_VERSION,
    PROTECT,
    PROTECT_GPU,
    has_gpu,
)
from gateway.store.rows import Executor
from gateway.store.work import LIVE, Work

MOST: Final = 1000
"""Jobs that are looked at in one round; the next round goes on."""
ROUND_SECONDS: Final = 3.0
"""The longest time between two rounds."""
PRUNED_AT_ONCE: Final = 500
PRUNE_SECONDS: Final = 60.0
FORGET_SECONDS: Final = 3600.0
"""So long the row of a process that is over is kept and shown."""


class Rescue:
    """Rounds over the processes of a site and their jobs.

    Parameters
    ----------
    work
        Who works.
    own
        Id of this process: others judge it.
    silent_seconds
        After which one counts as lost.
    keep
        How long finished jobs are kept.
    now
        The time, aware.
    clock
        Seconds that only go forward.
    """

    def __init__(
        self,
        work: Work,
        own: str,
        *,
        silent_seconds: float,
        keep: timedelta,
        now: Callable[[], datetime],
        clock: Callable[[], float] = forward_clock,
    ) -> None:
        self._work = work
        self._own = own
        self._every = min(silent_seconds / BEATS_PER_SILENCE, ROUND_SECONDS)
        self._silence = Silence(silent_seconds, silent_seconds / 2, clock)
        self._silent_seconds = silent_seconds
        self._keep = keep
        self._now = now
        self._clock = clock
        self._began = clock()
        self._due = self._prune_due = self._began
        self._over: dict[str, float] = {}
        self._idle: set[str] = set()

    def round(self) -> None:
        """Declare the silent lost, and put back on their queue jobs left behind."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + self._every
        # Jobs first: whoever runs one was registered before it took it.
        running = DBOS.list_workflows(
            status="PENDING", limit=MOST, load_input=False, load_output=False
        )
        found = self._work.executors()
        self._declare_lost(found)
        found = self._work.executors()
        live = {one.id for one in living(found)}
        left = {job.executor_id for job in running if job.executor_id not in live}
        self._take_up(sorted(one for one in left if one is not None))
        self._restart_stranded([job for job in running if job.executor_id == self._own])
        self._move_unheard(living(found))
        self._forget(found)
        if self._clock() >= self._prune_due:
            self._prune_due = self._clock() + PRUNE_SECONDS
            self.prune()

    def give_up_older(self) -> None:
        """Cancel jobs of older versions; the sweep makes them anew."""
        jobs = DBOS.list_workflows(
            status=sorted(ALIVE), limit=MOST, load_input=False, load_output=False
        )
        older = [
            job.workflow_id for job in jobs if _is_older(job.app_version, JOBS_VERSION)
        ]
        if older:
            get_logger("rescue").warning("jobs-of-older-version", jobs=len(older))
            DBOS.cancel_workflows(older)

    def prune(self) -> None:
        """Delete the record of some jobs that finished long ago."""
        before = self._now() - self._keep
        jobs = DBOS.list_workflows(
            status=sorted(ENDED),
            completed_before=before.isoformat(),
            limit=PRUNED_AT_ONCE,
            load_input=False,
            load_output=False,
        )
        if jobs:
            DBOS.delete_workflows([job.workflow_id for job in jobs])
            get_logger("rescue").info("pruned", jobs=len(jobs))

    def _declare_lost(self, found: Iterable[Executor]) -> None:
        others = [one for one in living(found) if one.id != self._own]
        for one in self._silence.lost(others):
            if self._work.declare_lost(one.id, one.beats):
                get_logger("rescue").warning("lost", executor=one.id)

    @staticmethod
    def _take_up(executors: list[str]) -> None:
        if executors:
            jobs = DBOS._recover_pending_workflows(executors)
            get_logger("rescue").warning(
                "taken-up", executors=executors, jobs=len(jobs)
            )

    def _restart_stranded(self, own: list[WorkflowStatus]) -> None:
        """Put own jobs back that no thread works at, seen so in two rounds.

        A thread ends without a trace in the jobs' database where that cannot be
        written, on a full or failing disk for example.
        """
        active = set(_get_dbos_instance()._active_workflows_set.activeList())
        idle = {job.workflow_id for job in own} - active
        for job in own:
            if job.workflow_id in idle & self._idle and job.queue_name:
                get_logger("rescue").warning("stranded", job=job.workflow_id)
                DBOS.resume_workflows([job.workflow_id], queue_name=job.queue_name)
        self._idle = idle

    def _move_unheard(self, live: list[Executor]) -> None:
        """Move jobs from a queue of which no worker is left to the other one."""
        workers = [one for one in live if one.kind == "worker"]
        if not workers or self._clock() < self._began + self._silent_seconds:
            return
        gpus = {has_gpu(one.device) for one in workers}
        if len(gpus) == 1:
            unheard, heard = PROTECT_GPU, PROTECT
            if gpus == {True}:
                unheard, heard = heard, unheard
            jobs = DBOS.list_workflows(
                queue_name=unheard,
                status="ENQUEUED",
                limit=MOST,
                load_input=False,
                load_output=False,
            )
            if jobs:
                DBOS.resume_workflows(
                    [job.workflow_id for job in jobs], queue_name=heard
                )

    def _forget(self, found: Iterable[Executor]) -> None:
        now = self._clock()
        over = {one.id for one in found if one.state != LIVE}
        self._over = {one: self._over.get(one, now) for one in over}
        old = [one for one, at in self._over.items() if now - at >= FORGET_SECONDS]
        if old:
            self._work.forget(old)


def _is_older(version: str | None, own: str) -> bool:
    return version is not None and version.isdecimal() and int(version) < int(own)
