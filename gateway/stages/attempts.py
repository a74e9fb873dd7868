"""Tell an object that crashes workers from a worker that was stopped.

An exception is caught; a crash of a codec or a model takes the process with it,
and the next worker, on this machine or another, would meet the same object again.
So each object under work is noted in the index, and one that was met too often is
held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from gateway.errors import Unprotectable
from gateway.store.work import Work

CRASHES = "crashes"
LIMIT = 3


class Crashing(Unprotectable):
    """Workers ended too often while they protected an object."""


class Attempts:
    """Notes of what is under work, shared by all workers of a site.

    Parameters
    ----------
    work
        Where they are kept.
    executor
        Who works.
    limit
        So many attempts may end with the process; the next one is refused.
    """

    def __init__(self, work: Work, executor: str, limit: int = LIMIT) -> None:
        self._work = work
        self._executor = executor
        self._limit = limit

    def noted(self, instance_ids: Iterable[int]) -> bool:
        """Whether a process ended while one of these was under work."""
        return bool(self._work.attempts_of(instance_ids))

    @contextmanager
    def attempt(self, instance_ids: Sequence[int]) -> Iterator[None]:
        """Note instances for as long as the block lasts, however it is left.

        Raises
        ------
        Crashing
            The first was met too often; it is forgotten, so that a person may
            retry.
        """
        before = self._work.attempts_of(instance_ids[:1]).values()
        if max(before, default=0) >= self._limit:
            self._work.end_attempts(instance_ids[:1])
            raise Crashing(
                CRASHES, f"workers ended {max(before)} times while protecting it"
            )
        self._work.begin_attempts(instance_ids, self._executor)
        try:
            yield
        finally:
            self._work.end_attempts(instance_ids)

    def forget(self) -> None:
        """Drop this process's notes: a stop that was asked for is nobody's fault."""
        self._work.forget_attempts_of(self._executor)
