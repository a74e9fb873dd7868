"""Progress of all rounds of a run together."""

from __future__ import annotations

import threading
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks.corpus.passage import Interrupted


class Display:
    """Shows how many files are read, and how many are settled.

    Parameters
    ----------
    console
        Where it is shown.
    total
        Files of the run.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._total = total
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._by_round: dict[int, int] = {}
        self._judging = self._passing = TaskID(0)

    def __enter__(self) -> Self:
        self._progress.start()
        self._judging = self._progress.add_task("read by pydicom", total=self._total)
        self._passing = self._progress.add_task(
            "protected, held or refused", total=self._total
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def stop(self) -> None:
        """Let every round end as soon as it tells of itself."""
        self._stopped.set()

    def judged(self) -> None:
        """One file more has been read."""
        self._progress.advance(self._judging)

    def settled(self, number: int, files: int) -> None:
        """Show how many files of a round are settled.

        Raises
        ------
        Interrupted
            The run was given up.
        """
        if self._stopped.is_set():
            raise Interrupted
        with self._lock:
            self._by_round[number] = files
            total = sum(self._by_round.values())
        self._progress.update(self._passing, completed=total)
