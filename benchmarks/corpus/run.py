"""The whole corpus: rounds of gateways, rows, and the promises held against them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.corpus.display import Display
from benchmarks.corpus.expect import (
    Expectation,
    expectation_of,
    missing_for_c_store,
)
from benchmarks.corpus.find import FoundFile
from benchmarks.corpus.passage import Options, cores, pass_through
from benchmarks.corpus.readers import check_tools
from benchmarks.corpus.rounds import (
    RoundResult,
    keep_round,
    kept_round,
    read_row,
    rounds_of,
)
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
    directory = directory.resolve()  # settings are relative to the file they are in
    if not options.resume:
        clear(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with Display(console, len(files)) as display:
        expected = {}
        for file in files:
            expected[file.name] = expectation_of(file)
            display.judged()
        run = _Run(
            directory=directory,
            options=replace(options, threads=max(1, cores() // jobs)),
            expected=expected,
            display=display,
        )
        found = [run.unsendable(files), *run.all_rounds(files, jobs)]
    facts = {
        "files": len(files),
        "duplicates": sum(len(file.also) for file in files),
        "quick": options.quick,
        "stand_in": options.stand_in,
        "jobs": jobs,
        "seconds": time.monotonic() - start,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}",
    }
    rows = [row for each in found for row in each.rows]
    result = Result(
        rows=sorted(rows, key=lambda row: row.file),
        strays=[stray for each in found for stray in each.strays],
        facts=facts,
    )
    write_result(result, directory)
    return result


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Does the rounds of a run."""

    directory: Path
    options: Options
    expected: Mapping[str, Expectation]
    display: Display

    def unsendable(self, files: Sequence[FoundFile]) -> RoundResult:
        """Rows of the files that no C-STORE request can carry."""
        rows = [
            row_of_unsendable(file, self.expected[file.name], missing)
            for file in files
            if (missing := missing_for_c_store(file))
        ]
        self.display.settled(0, len(rows))
        return RoundResult(rows=rows, strays=())

    def all_rounds(self, files: Sequence[FoundFile], jobs: int) -> list[RoundResult]:
        """Do all rounds, some at a time."""
        rounds = rounds_of([file for file in files if not missing_for_c_store(file)])
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            try:
                return list(pool.map(self._round, range(1, len(rounds) + 1), rounds))
            except BaseException:
                # The pool waits for its threads, and they for their gateways.
                self.display.stop()
                raise

    def _round(self, number: int, files: Sequence[FoundFile]) -> RoundResult:
        folder = self.directory / "rounds" / f"{number:02d}"
        found = kept_round(files, folder, how=self.options.how)
        if found is None:
            passage = pass_through(
                files,
                folder,
                self.options,
                lambda settled: self.display.settled(number, settled),
            )
            found = RoundResult(
                rows=rows_of(passage, number, self.expected, self.directory),
                strays=strangers(passage),
            )
            keep_round(found, files, folder, how=self.options.how)
        self.display.settled(number, len(files))
        return found


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
    rows = [read_row(values) for values in table["files"]]
    return Result(rows=rows, strays=table["strays"], facts=table["facts"])
