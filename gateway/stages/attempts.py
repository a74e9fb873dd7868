"""Tell an object that crashes the worker from a worker that was stopped.

An exception is caught; a crash of a codec or a model takes the process with it,
and the restarted worker would meet the same object again. So each object under
work is noted on disk, and one that was met too often is held.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import Unprotectable

CRASHES = "crashes"
LIMIT = 3


class Crashing(Unprotectable):
    """The worker ended too often while it protected an object."""


class Attempts:
    """Notes of what is under work, one small file per instance.

    Parameters
    ----------
    directory
        Made when absent.
    limit
        So many attempts may end with the process; the next one is refused.
    """

    def __init__(self, directory: Path, limit: int = LIMIT) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._limit = limit

    def noted(self, instance_ids: Iterable[int]) -> bool:
        """Whether the process ended while one of these was under work."""
        return any(self._note(number).exists() for number in instance_ids)

    @contextmanager
    def attempt(self, instance_ids: Sequence[int]) -> Iterator[None]:
        """Note instances for as long as the block lasts, however it is left.

        Raises
        ------
        Crashing
            The first was met too often; it is forgotten, so that a person may
            retry.
        """
        notes = [self._note(number) for number in instance_ids]
        before = notes[0].stat().st_size if notes and notes[0].exists() else 0
        if before >= self._limit:
            notes[0].unlink()
            raise Crashing(
                CRASHES, f"the worker ended {before} times while protecting it"
            )
        for note in notes:
            _add_to(note)
        try:
            yield
        finally:
            for note in notes:
                note.unlink(missing_ok=True)

    def forget(self) -> None:
        """Drop all notes: a stop that was asked for is nobody's fault."""
        for note in self._directory.iterdir():
            note.unlink(missing_ok=True)

    def _note(self, instance_id: int) -> Path:
        return self._directory / str(instance_id)


def _add_to(note: Path) -> None:
    with note.open("ab") as stream:
        stream.write(b".")
        stream.flush()
        os.fsync(stream.fileno())
