"""The table of docs/reliability.md, from the journals of a run."""

from __future__ import annotations

import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.ledger import Journal
from tests.faults.points import KILLED_IN_WORK, ROTATING
from tests.faults.scenarios import SCENARIOS
from tests.faults.takeover import LIMIT_SECONDS

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "Receive rate": ("benchmarks/results/receive.md", "benchmarks.receive"),
    "Load": ("benchmarks/results/load.md", "benchmarks.load"),
    "Fuzz": ("docs/results/fuzz.md", "tests.fuzz"),
    "Real DICOM corpus": ("docs/results/corpus.md", "make corpus"),
    "A multi-GB object": ("benchmarks/results/big.md", "benchmarks.big"),
}
"""What is shown by other commands: the page of its last result, and the command."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One promise.

    Attributes
    ----------
    good
        None: not run.
    """

    promise: str
    seen: str
    good: bool | None

    def __str__(self) -> str:
        verdict = {True: "shown", False: "**NOT SHOWN**", None: "not run"}[self.good]
        return f"| {self.promise} | {self.seen} | {verdict} |"


def events(folder: Path, *names: str) -> list[dict[str, object]]:
    """Return lines of a part's journal; none where it was not run."""
    path = folder / "journal.jsonl"
    return list(Journal(path).events(*names)) if path.exists() else []


def kill_row(folder: Path, database: str) -> Row:
    """Tell of the rounds of kill -9."""
    rounds = events(folder, "round")
    results = events(folder, "result")
    promise = (
        f"kill -9 at random moments under load, {database}: nothing acknowledged "
        "lost, nothing unprotected outside, all recovered exactly"
    )
    if not results:
        return Row(promise=promise, seen=f"{len(rounds)} rounds so far", good=None)
    targets = Counter(str(one["target"]) for one in rounds)
    killed = ", ".join(f"{name} {n}" for name, n in targets.most_common())
    last = results[-1]
    figures: Mapping[str, int] = last.get("figures", {})  # type: ignore[assignment]
    again = sum(n for name, n in figures.items() if name.startswith("arrived again"))
    seconds = sum(float(str(one["seconds"])) for one in rounds)
    at_work = sum(bool(one.get("at_work")) for one in rounds)
    answers = sum(
        int(str(one.get(n, 0))) for one in rounds for n in ("received", "web")
    )
    seen = (
        f"{len(rounds)} rounds in {seconds / 60:.0f} min ({killed}; {at_work} of them "
        f"after it was seen at work); {answers} times answered Success in them, "
        f"{figures.get('acknowledged', 0)} objects acknowledged, "
        f"{figures.get('given back', 0)} given back exactly, "
        f"{figures.get('objects at outside', 0)} marked and "
        f"{figures.get('objects at archive', 0)} other objects arrived, {again} of "
        "them once more since their sender was killed then"
    )
    return Row(promise=promise, seen=_with(seen, last), good=not last["broken"])


def points_row(folder: Path) -> Row:
    """Tell of the named points."""
    promise = "a process dies exactly at each named point: everything recovers"
    passed = {str(one["name"]): one for one in events(folder, "passed")}
    results = events(folder, "result")
    every = [*KILLED_IN_WORK, *ROTATING]
    missing = [point.name for point in every if point.name not in passed]
    if not results:
        return Row(promise=promise, seen=f"{len(passed)} of {len(every)}", good=None)
    longest = max(float(str(one["seconds"])) for one in passed.values())
    seen = f"{len(passed)} of {len(every)} points; delivered at most {longest:.0f} s on"
    good = not results[-1]["broken"] and not missing
    return Row(promise=promise, seen=_with(seen, results[-1]), good=good)


def takeover_row(folder: Path) -> Row:
    """Tell of the worker whose series another one took."""
    promise = (
        "two workers on PostgreSQL, one killed: its series is sent by the other "
        f"within {LIMIT_SECONDS:.0f} s of its last heartbeat"
    )
    found = events(folder, "takeover")
    if not found:
        return Row(promise=promise, seen="", good=None)
    seconds = float(str(found[-1]["seconds"]))
    good = seconds < LIMIT_SECONDS and not found[-1]["broken"]
    return Row(promise=promise, seen=_with(f"{seconds:.0f} s", found[-1]), good=good)


def fault_rows(folder: Path) -> Iterator[Row]:
    """Tell of the named faults."""
    last = {str(one["name"]): one for one in events(folder, "scenario")}
    for scenario in SCENARIOS:
        promise = f"`{scenario.name}`: {scenario.done} → {scenario.stated}"
        found = last.get(scenario.name)
        if found is None:
            yield Row(promise=promise, seen="", good=None)
            continue
        facts: Sequence[str] = found.get("facts", [])  # type: ignore[assignment]
        wrong: Sequence[str] = found.get("wrong", [])  # type: ignore[assignment]
        seen = _cell("; ".join([*facts, *wrong]))
        yield Row(promise=promise, seen=seen, good=bool(found["good"]))


def elsewhere_rows(root: Path) -> Iterator[str]:
    """Point to the results of other commands."""
    for what, (page, command) in ELSEWHERE.items():
        if (root / page).exists():
            link = f"[{page}]({'../' if page.startswith('bench') else ''}{page})"
            link = link.replace("](docs/", "](")
            yield f"| {what} | {link} | `{command}` |"


def table_of(work: Path, seed: str) -> str:
    """Return the whole table in Markdown."""
    root = Path(__file__).resolve().parents[2]
    rows = [
        kill_row(work / "kill-sqlite", "SQLite"),
        kill_row(work / "kill-postgres", "PostgreSQL"),
        points_row(work / "points"),
        takeover_row(work / "takeover"),
        *fault_rows(work / "faults"),
    ]
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    lines = [
        f"Last run {day}, seed {seed}, commit {_commit(root)}, on {_machine()}.",
        "",
        "| promised | seen | |",
        "|---|---|---|",
        *map(str, rows),
    ]
    others = list(elsewhere_rows(root))
    if others:
        lines += ["", "| shown elsewhere | last result | command |", "|---|---|---|"]
        lines += others
    return "\n".join(lines)


def write_table(page: Path, table: str) -> None:
    """Put a table in its place in a page."""
    text = page.read_text("utf-8")
    pattern = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
    assert pattern.search(text), f"{page} has no place for the table"
    page.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text), "utf-8")


def _with(seen: str, result: Mapping[str, object]) -> str:
    broken: Sequence[str] = result["broken"]  # type: ignore[assignment]
    return _cell("; ".join([seen, *broken[:5]]))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:600]


def _commit(root: Path) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _machine() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = names[0] if names else platform.machine()
    return f"{len(names) or 1} x {model}, Python {platform.python_version()}"
