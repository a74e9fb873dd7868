"""The whole corpus: rounds of gateways, rows, and the promises held against them."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

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

from benchmarks.corpus.expect import (
    Expectation,
    expectation_of,
    missing_for_c_store,
)
from benchmarks.corpus.find import FoundFile, rounds_of
from benchmarks.corpus.passage import Interrupted, Options, Passage, cores, pass_through
from benchmarks.corpus.readers import check_tools
from benchmarks.corpus.rows import Row, clear, row_of_unsendable, rows_of, strangers


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a corpus run found.

    Attributes
    ----------
    rows
        One per file, in order of name.
    strays
        What arrived outside and should not have.
    facts
        Machine, time and settings, for the page.
    """

    rows: Sequence[Row]
    strays: Sequence[str]
    facts: Mapping[str, Any]

    @property
    def broken(self) -> list[str]:
        """Every promise that did not hold, in words."""
        said = [
            f"{row.file}: {what}" for row in self.rows for what in row.promises_broken
        ]
        return [*said, *self.strays]


def run_corpus(
    files: Sequence[FoundFile],
    directory: Path,
    options: Options,
    jobs: int,
    console: Console,
) -> Result:
    """Send all files through gateways and judge what became of each.

    Parameters
    ----------
    files
        From `find_corpus`.
    directory
        Gets ``corpus.json``, ``originals`` and, per round, what arrived.
    options
        How each round is done; threads are shared out among the jobs.
    jobs
        Rounds at the same time.
    console
        Where progress is shown.

    Raises
    ------
    ToolsMissing
        A reader is not installed.
    """
    check_tools()
    start = time.monotonic()
    clear(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with _Display(console, len(files)) as display:
        expected = {}
        for file in files:
            expected[file.name] = expectation_of(file)
            display.judged()
        rows, strays = _all_rounds(files, expected, directory, options, jobs, display)
    facts = {
        "files": len(files),
        "duplicates": sum(len(file.also) for file in files),
        "quick": options.quick,
        "jobs": jobs,
        "seconds": time.monotonic() - start,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}",
    }
    result = Result(
        rows=sorted(rows, key=lambda row: row.file), strays=strays, facts=facts
    )
    write_result(result, directory)
    return result


def _all_rounds(
    files: Sequence[FoundFile],
    expected: Mapping[str, Expectation],
    directory: Path,
    options: Options,
    jobs: int,
    display: _Display,
) -> tuple[list[Row], list[str]]:
    missing = {file.name: missing_for_c_store(file) for file in files}
    rows = [
        row_of_unsendable(file, expected[file.name], missing[file.name])
        for file in files
        if missing[file.name]
    ]
    display.settled(-1, len(rows))
    rounds = _shared_out([f for f in files if not missing[f.name]], jobs)
    threads = max(1, cores() // max(1, min(jobs, len(rounds))))
    settings = replace(options, threads=threads)

    def one_round(numbered: tuple[int, list[FoundFile]]) -> tuple[Passage, list[Row]]:
        number, batch = numbered
        passage = pass_through(
            batch,
            directory / "rounds" / f"{number:02d}",
            settings,
            lambda settled: display.settled(number, settled),
        )
        display.settled(number, len(batch))
        return passage, rows_of(passage, number, expected, directory)

    strays: list[str] = []
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        try:
            for passage, made in pool.map(one_round, enumerate(rounds, start=1)):
                rows += made
                strays += strangers(passage)
        except BaseException:
            # The pool waits for its threads, and they for their gateways.
            display.stop()
            raise
    return rows, strays


def _shared_out(files: Sequence[FoundFile], jobs: int) -> list[list[FoundFile]]:
    """Make rounds, the largest cut by study into as many as there are jobs."""
    rounds = rounds_of(files)
    if jobs < 2 or not rounds:
        return rounds
    shares: list[list[FoundFile]] = [[] for _ in range(jobs)]
    studies: dict[str, list[FoundFile]] = {}
    for file in rounds[0]:
        studies.setdefault(file.facts.study_instance_uid, []).append(file)
    largest_first = sorted(
        studies.values(), key=lambda study: -sum(f.facts.raw_octets for f in study)
    )
    for study in largest_first:
        lightest = min(shares, key=lambda share: sum(f.facts.raw_octets for f in share))
        lightest.extend(study)
    return [*(share for share in shares if share), *rounds[1:]]


def write_result(result: Result, directory: Path) -> Path:
    """Write ``corpus.json``."""
    path = directory / "corpus.json"
    table = {
        "facts": dict(result.facts),
        "strays": list(result.strays),
        "files": [asdict(row) for row in result.rows],
    }
    path.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    return path


def read_result(directory: Path) -> Result:
    """Read what a run wrote."""
    table = json.loads((directory / "corpus.json").read_text("utf-8"))
    rows = [
        Row(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for row in table["files"]
    ]
    return Result(rows=rows, strays=table["strays"], facts=table["facts"])


class _Display:
    """Progress of all rounds together."""

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
        self._progress.__enter__()
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
