"""Tell an object that crashes the worker from a worker that was stopped.

An exception is caught; a crash of a codec or a model takes the process with it,
and the restarted worker would meet the same object again. So each object under
work is noted on disk, and one that was met too often is held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import Unprotectable

CRASHES = "crashes"
LIMIT = 3


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

    @contextmanager
    def attempt(self, instance_id: int) -> Iterator[None]:
        """Note an instance for as long as the block lasts, however it is left.

        Raises
        ------
        Unprotectable
            It was met too often; it is forgotten, so that a person may retry.
        """
        note = self._directory / str(instance_id)
        before = note.stat().st_size if note.exists() else 0
        if before >= self._limit:
            note.unlink()
            raise Unprotectable(
                CRASHES, f"the worker ended {before} times while protecting it"
            )
        with note.open("ab") as stream:
            stream.write(b".")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    def forget(self) -> None:
        """Drop all notes: a stop that was asked for is nobody's fault."""
        for note in self._directory.iterdir():
            note.unlink(missing_ok=True)
