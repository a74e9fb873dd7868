"""The queues of the jobs, and the ids of what is in them.

========== ===========================================================
queue      jobs
========== ===========================================================
route      where a closed revision goes; cheap, in the order they came
protect    on workers without a GPU, the urgent first
protect-gpu on workers with one, the urgent first
export:X   to destination X, with its own bounds, the urgent first
export     to destinations that are configured no more
========== ===========================================================

Ids are made from what a job is for, so that one asked for twice is one job. There
is no UID in them: the jobs' database is not encrypted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from dbos import DBOS, DBOSConfig

from config.schema import Destination
from gateway.stages.heartbeat import living
from gateway.store.work import Work

JOBS_VERSION: Final = "1"
"""Of the workflows: raised when one changes its steps. Jobs of an older version
are given up and made anew from the index."""

ROUTE: Final = "route"
PROTECT: Final = "protect"
PROTECT_GPU: Final = "protect-gpu"
EXPORT: Final = "export"
PROTECTING: Final = (PROTECT, PROTECT_GPU)

SCHEMA = "dbos"
POLL_SECONDS: Final = 0.2
PROTECT_POLL_SECONDS: Final = 0.1
"""A worker takes one at a time, so this bounds how many small ones it does."""
ROUTES_AT_ONCE: Final = 4
BACKLOG: Final = 4
"""Jobs that wait for each GPU before workers without one take some."""

ALIVE: Final = frozenset({"ENQUEUED", "DELAYED", "PENDING"})
FAILED: Final = frozenset({"ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})
ENDED: Final = frozenset({"SUCCESS", "CANCELLED"}) | FAILED


def jobs_config(database: str, executor: str, schema: str = SCHEMA) -> DBOSConfig:
    """Return the settings of the job queue.

    Parameters
    ----------
    database
        SQLAlchemy URL of the jobs' own database.
    executor
        Id of this run of this process, as in the index.
    schema
        Of a PostgreSQL database: where the tables of the queue lie.
    """
    return DBOSConfig(
        name="miad-gateway",
        system_database_url=database,
        application_version=JOBS_VERSION,
        executor_id=executor,
        dbos_system_schema=schema,
        log_level="WARNING",
        notification_listener_polling_interval_sec=POLL_SECONDS,
    )


def listen(device: str, destinations: Iterable[str]) -> None:
    """Say which jobs this worker takes; before ``DBOS.launch``.

    Parameters
    ----------
    device
        On which it protects.
    destinations
        The configured ones.
    """
    exports = (export_queue(name) for name in destinations)
    DBOS.listen_queues([ROUTE, protect_queue(device), EXPORT, *exports])


def declare_queues(destinations: Mapping[str, Destination]) -> None:
    """Declare the queues; after ``DBOS.launch``."""
    _declare(ROUTE, at_once=ROUTES_AT_ONCE)
    for name in PROTECTING:
        _declare(name, at_once=1, every_seconds=PROTECT_POLL_SECONDS)
    _declare(EXPORT)
    for name, destination in destinations.items():
        rate = destination.rate_per_minute
        DBOS.register_queue(
            export_queue(name),
            global_concurrency=destination.concurrency,
            limiter={"limit": rate, "period": 60.0} if rate else None,
            polling_interval_sec=POLL_SECONDS,
            on_conflict="always_update",
        )


def _declare(
    name: str, at_once: int | None = None, every_seconds: float = POLL_SECONDS
) -> None:
    DBOS.register_queue(
        name,
        worker_concurrency=at_once,
        polling_interval_sec=every_seconds,
        on_conflict="always_update",
    )


def has_gpu(device: str) -> bool:
    """Whether a device is a GPU."""
    return device.startswith("cuda")


def protect_queue(device: str) -> str:
    """Return the queue from which a worker with a device protects."""
    return PROTECT_GPU if has_gpu(device) else PROTECT


def export_queue(destination: str) -> str:
    """Return the queue of a configured destination."""
    return f"{EXPORT}:{destination}"


def route_id(revision_id: int, run: int) -> str:
    """Return the id of the job that routes a revision."""
    return f"route:{revision_id}#{run}"


def protect_id(revision_id: int, run: int) -> str:
    """Return the id of the job that protects a revision."""
    return f"protect:{revision_id}#{run}"


def export_stem(revision_id: int, destination: str) -> str:
    """Return how the ids of all exports of a revision to a destination begin."""
    return f"export:{revision_id}:{destination}#"


def export_id(revision_id: int, destination: str, run: int, number: int) -> str:
    """Return the id of one export: the run of the revision, and which of its own."""
    return f"{export_stem(revision_id, destination)}{run}.{number}"


def queue_for_protection(work: Work) -> str:
    """Choose where a revision is protected.

    A GPU goes first; workers without one help where there is a backlog.
    """
    workers = [one for one in living(work.executors()) if one.kind == "worker"]
    gpus = sum(has_gpu(one.device) for one in workers)
    if not gpus:
        return PROTECT
    if gpus == len(workers):
        return PROTECT_GPU
    most = gpus * BACKLOG
    waiting = DBOS.list_workflows(
        queue_name=PROTECT_GPU,
        status="ENQUEUED",
        limit=most,
        load_input=False,
        load_output=False,
    )
    return PROTECT_GPU if len(waiting) < most else PROTECT
