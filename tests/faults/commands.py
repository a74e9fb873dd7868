"""The commands: kill rounds, points one by one, named faults, and the table."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.backing import Database
from tests.faults.each import chosen, kill_at_each
from tests.faults.kills import KillRounds
from tests.faults.ledger import Journal
from tests.faults.points import KILLED_IN_WORK, ROTATING
from tests.faults.scenario import play
from tests.faults.scenarios import SCENARIOS
from tests.faults.table import table_of, write_table
from tests.faults.takeover import take_over
from tests.faults.world import World

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Work = Annotated[
    Path | None, typer.Option(help="Folder of the run; an earlier run goes on.")
]


@app.callback()
def _faults() -> None:
    """Make a gateway fail, and see that nothing is lost and nothing leaks."""


def tell(line: str) -> None:
    """Show a line of progress at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def folder_of(work: Path | None, name: str) -> Path:
    """Return the folder of a run, made new where none is given."""
    # In full: settings are relative to the file they are in.
    return (work or Path(tempfile.mkdtemp(prefix=f"miad-{name}-"))).resolve()


@app.command()
def kill(
    rounds: int = 200,
    seed: str = "1",
    minutes: float | None = None,
    database: Annotated[str, typer.Option(help="sqlite or postgres.")] = "sqlite",
    workers: int = 1,
    work: Work = None,
) -> None:
    """Kill -9 at random moments, under load; a run that was ended goes on."""
    folder = folder_of(work, "kill")
    tell(f"in {folder}, seed {seed}")
    until = None if minutes is None else time.monotonic() + 60 * minutes
    chosen: Database = "postgres" if database == "postgres" else "sqlite"
    with World(folder, seed, web=True, database=chosen, workers=workers) as world:
        result = KillRounds(world, seed, tell).run(rounds, until)
    tell(str(result))
    raise typer.Exit(1 if result.report.broken else 0)


@app.command()
def faults(
    only: Annotated[list[str] | None, typer.Option(help="Names; repeatable.")] = None,
    work: Work = None,
    seed: str = "1",
) -> None:
    """Play the named faults; those that the journal has as good are not repeated."""
    folder = folder_of(work, "faults")
    journal = Journal(folder / "journal.jsonl")
    done = {e["name"] for e in journal.events("scenario") if e["good"]}
    chosen = [s for s in SCENARIOS if not only or s.name in only]
    bad = 0
    for scenario in chosen:
        if scenario.name in done:
            continue
        tell(f"{scenario.name}: {scenario.done}")
        try:
            outcome = play(scenario, new_folder(folder / scenario.name), seed)
        except Exception as error:  # noqa: BLE001 - the others are played all the same
            tell(f"{scenario.name}: {type(error).__name__}: {error}")
            journal.note("scenario", name=scenario.name, good=False, wrong=[str(error)])
            bad += 1
            continue
        bad += not outcome.good
        journal.note(
            "scenario",
            name=scenario.name,
            good=outcome.good,
            facts=outcome.facts,
            wrong=outcome.wrong,
            seconds=outcome.seconds,
        )
        tell(str(outcome))
    raise typer.Exit(1 if bad else 0)


def new_folder(folder: Path) -> Path:
    """Return a folder that is not there yet: a scenario begins with a new site."""
    for number in count(1):
        fresh = folder.with_name(f"{folder.name}-{number}")
        if not fresh.exists():
            return fresh
    raise AssertionError


@app.command()
def points(
    only: Annotated[list[str] | None, typer.Option(help="Names; repeatable.")] = None,
    work: Work = None,
    seed: str = "1",
) -> None:
    """Kill a process exactly at each named point; those already done are left out."""
    folder = folder_of(work, "points")
    tell(f"in {folder}")
    with World(folder, seed) as world:
        kill_at_each(world, chosen(only, (*KILLED_IN_WORK, *ROTATING)), tell)
        report = world.check()
        world.journal.note("result", broken=report.broken)
    tell(str(report))
    raise typer.Exit(1 if report.broken else 0)


@app.command()
def takeover(work: Work = None, seed: str = "1") -> None:
    """Kill one of two workers on PostgreSQL in the middle of a series."""
    folder = folder_of(work, "takeover")
    with World(folder, seed, database="postgres", workers=2) as world:
        result = take_over(world)
        world.journal.note(
            "takeover", seconds=result.seconds, broken=result.report.broken
        )
    tell(f"its series was sent {result.seconds:.1f} s after the kill: {result.report}")
    raise typer.Exit(0 if result.good else 1)


@app.command()
def table(
    work: Annotated[Path, typer.Option(help="Folder of a run.")],
    page: Annotated[
        Path | None, typer.Option("--table", help="Page to write it into.")
    ] = None,
    seed: str = "1",
) -> None:
    """Print the table of what a run has shown so far."""
    made = table_of(work, seed)
    sys.stdout.write(made + "\n")
    if page is not None:
        write_table(page, made)


PARTS = ("points", "faults", "takeover", "kill-sqlite", "kill-postgres")


@app.command()
def run(
    work: Annotated[Path, typer.Option(help="Folder; an earlier run goes on.")],
    rounds: int = 200,
    seed: str = "1",
    minutes: Annotated[
        float | None, typer.Option(help="Of each part of kill rounds, at most.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}; repeatable.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--table", help="Page to write the table into.")
    ] = None,
) -> None:
    """Run everything, one part after another, and print the table."""
    unknown = set(part or ()) - set(PARTS)
    if unknown:
        raise typer.BadParameter(f"no such part: {', '.join(sorted(unknown))}")
    failed = []
    for name in part or PARTS:
        tell(f"== {name}")
        command, options = _command_of(name, rounds, minutes)
        folder = work / name
        arguments = [command, "--work", str(folder), "--seed", seed, *options]
        # A process each: nothing of one part is left in the next.
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults", *arguments], check=False
        )
        if done.returncode:
            failed.append(name)
    made = table_of(work, seed)
    sys.stdout.write(made + "\n")
    if page is not None:
        write_table(page, made)
    if failed:
        tell(f"not as promised: {', '.join(failed)}")
        raise typer.Exit(1)


def _command_of(part: str, rounds: int, minutes: float | None) -> tuple[str, list[str]]:
    """Return the command of a part and its options."""
    if not part.startswith("kill-"):
        return part, []
    options = ["--rounds", str(rounds), "--database", part.removeprefix("kill-")]
    if minutes is not None:
        options += ["--minutes", str(minutes)]
    if part == "kill-postgres":
        options += ["--workers", "2"]
    return "kill", options
