"""``miad-gateway experiment``: measure what protection achieves."""

from __future__ import annotations

import datetime
import json as jsonlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from engine.errors import InvalidParameter
from engine.params import ProtectParams
from gateway.cli.options import JsonOption

if TYPE_CHECKING:
    from engine.experiments.session import Setup

app = typer.Typer(
    no_args_is_help=True, help="Measure what protection achieves on labelled images."
)


@app.callback()
def _group() -> None:
    """Measure what protection achieves on labelled images."""


@app.command("table")
def table(  # noqa: PLR0913 - the options of a typer command are its arguments
    *,
    data: Annotated[Path, typer.Option(help="Folder with CLASS/*.jpg, a test split.")],
    out: Annotated[Path, typer.Option(help="Markdown file to write.")],
    n: Annotated[int, typer.Option(help="Images to measure.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of images and searches.")] = 2023,
    ensemble: Annotated[
        str, typer.Option(help="Packaged ensemble, or a directory of your own.")
    ] = "brain-mri",
    remover: Annotated[
        list[Path] | None,
        typer.Option(help="Directory of a remover; by default all packaged ones."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(help="Where single results go; a second run goes on from it."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    json: JsonOption = False,
) -> None:
    """Compare the strategies of the paper, and leave each member out once."""
    from engine.experiments.document import Circumstances, as_dict, markdown
    from engine.experiments.session import run_session

    setup = _setup(data, ensemble, remover, seed)
    clock = time.monotonic()
    with _progress() as bars:
        task = bars.add_task("images", total=n)
        measured = run_session(
            setup,
            n,
            journal or out.with_suffix(".jsonl"),
            jobs=jobs,
            tick=lambda done, total: bars.update(task, completed=done, total=total),
        )
    when = Circumstances(
        day=datetime.datetime.now(tz=datetime.UTC).date(),
        seconds=time.monotonic() - clock,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(setup, measured, when), encoding="utf-8")
    if json:
        typer.echo(jsonlib.dumps(as_dict(setup, measured, when)))
    else:
        Console().print(f"{len(measured.selection.names)} images measured: {out}")


def _setup(data: Path, ensemble: str, removers: list[Path] | None, seed: int) -> Setup:
    from engine.experiments.session import Setup
    from engine.models.ensemble import packaged_ensembles
    from engine.removal.remover import packaged_removers

    packaged = packaged_ensembles()
    folder = packaged.get(ensemble, Path(ensemble))
    if not folder.is_dir():
        raise InvalidParameter(
            f"no ensemble {ensemble!r}: give a directory or one of "
            f"{', '.join(packaged) or 'none packaged'}"
        )
    chosen = removers if removers is not None else packaged_removers().values()
    return Setup(
        data=data,
        ensemble=folder,
        removers=tuple(chosen),
        params=ProtectParams(seed=seed),
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
