"""Which request for commitment is asked next, as its job keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from dbos import DBOS

from gateway.stages.backoff import wait_seconds
from gateway.stages.queues import ALIVE, commit_stem

if TYPE_CHECKING:
    from config.schema import Destination


class Request(TypedDict):
    """One request for commitment; plain values, kept by the queue.

    ``number`` counts the jobs of a revision and destination, ``failures`` those in a
    row that could not ask.
    """

    revision_id: int
    destination: str
    number: int
    failures: int


def next_request(revision_id: int, destination: str) -> Request | None:
    """Return the next request of a revision; None: one is under way."""
    stem = commit_stem(revision_id, destination)
    jobs = DBOS.list_workflows(
        workflow_id_prefix=stem, load_input=False, load_output=False
    )
    if any(job.status in ALIVE for job in jobs):
        return None
    made = [int(job.workflow_id.removeprefix(stem)) for job in jobs]
    return Request(
        revision_id=revision_id,
        destination=destination,
        number=max(made, default=0) + 1,
        failures=0,
    )


def after_failure(request: Request, settings: Destination) -> tuple[Request, float]:
    """Return the request that follows one that failed, and its wait in seconds."""
    following = request.copy()
    following["number"] += 1
    following["failures"] += 1
    wait = wait_seconds(
        commit_stem(request["revision_id"], request["destination"]),
        following["failures"],
        settings.retry_first_seconds,
        settings.retry_cap_seconds,
    )
    return following, wait


def request_job_of(request: Request) -> str:
    """Return the id of a request's job."""
    stem = commit_stem(request["revision_id"], request["destination"])
    return f"{stem}{request['number']}"
