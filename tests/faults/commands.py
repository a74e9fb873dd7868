"""The commands: kill rounds, points one by one, named faults, and the table."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.kills import KillRounds
from tests.faults.world import World

app = typer.Typer(no_args_is_help=True, add_completion=False)

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
    return work or Path(tempfile.mkdtemp(prefix=f"miad-{name}-"))


@app.command()
def kill(
    rounds: int = 200,
    seed: str = "1",
    minutes: float | None = None,
    work: Work = None,
) -> None:
    """Kill -9 at random moments, under load; a run that was ended goes on."""
    folder = folder_of(work, "kill")
    tell(f"in {folder}, seed {seed}")
    until = None if minutes is None else time.monotonic() + 60 * minutes
    with World(folder, seed, web=True) as world:
        result = KillRounds(world, seed, tell).run(rounds, until)
    tell(str(result))
    raise typer.Exit(1 if result.report.broken else 0)
