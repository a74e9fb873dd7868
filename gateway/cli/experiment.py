"""``miad-gateway experiment``: measure what protection achieves."""

from __future__ import annotations

import datetime
import json as jsonlib
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
    from collections.abc import Callable, Sequence

    from engine.experiments.bench import Setup
    from engine.experiments.document import Page
    from engine.experiments.session import Plan, R

app = typer.Typer(
    no_args_is_help=True, help="Measure what protection achieves on labelled images."
)

IMAGES: Final = {"search": 40, "budget": 50, "removers": 20, "authorise": 40}
"""Images of each table where nothing else is asked for."""

DataOption = Annotated[
    Path, typer.Option(help="Folder with CLASS/*.jpg, a test split.")
]
OutOption = Annotated[
    Path,
    typer.Option(help="Folder of the pages; the index is written beside it, as .md."),
]
SeedOption = Annotated[int, typer.Option(help="Of images and searches.")]
EnsembleOption = Annotated[
    str, typer.Option(help="Packaged ensemble, or a directory of your own.")
]
RemoverOption = Annotated[
    list[Path] | None,
    typer.Option(help="Directory of a remover; by default all packaged ones."),
]
JobsOption = Annotated[int, typer.Option(help="Processes.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="Where models lie: cpu or cuda.")]
LeftOutOption = Annotated[
    int, typer.Option(help="Members each image leaves out in turn.", min=0)
]
DeltaOption = Annotated[bool, typer.Option(help="Put the product's δ under the marks.")]

OUT: Final = Path("docs/results")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What all tables share."""

    data: Path
    n: int
    out: Path
    seed: int
    ensemble: str
    removers: list[Path] | None
    jobs: int
    device: str
    json: bool


@app.callback()
def _group() -> None:
    """Measure what protection achieves on labelled images.

    Every table goes on where it was interrupted, from OUT/TABLE.jsonl.
    """


@app.command("search")
def search(  # noqa: PLR0913 - the options of a typer command are its arguments
    *,
    data: DataOption,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = IMAGES["search"],
    left_out: LeftOutOption = 2,
    delta: DeltaOption = False,
    out: OutOption = OUT,
    seed: SeedOption = 2023,
    ensemble: EnsembleOption = "brain-mri",
    remover: RemoverOption = None,
    jobs: JobsOption = 1,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Search by Random, HE and HE-SIT on each model, on all, and on all but one."""
    from engine.experiments.search import SearchPlan
    from engine.experiments.search_page import page

    run = _Run(
        data=data,
        n=n,
        out=out,
        seed=seed,
        ensemble=ensemble,
        removers=remover,
        jobs=jobs,
        device=device,
        json=json,
    )
    plan = SearchPlan(left_out=left_out, delta=delta)
    _measure(run, plan, page, _left_out(left_out, delta=delta))


@app.command("budget")
def budget(  # noqa: PLR0913 - the options of a typer command are its arguments
    *,
    data: DataOption,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = IMAGES["budget"],
    queries: Annotated[int, typer.Option(help="Image queries each.", min=1)] = 128,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Stop rule; by default ensemble, all and never."),
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategy; by default all.")
    ] = None,
    robust_changes: Annotated[
        int,
        typer.Option(
            help="Also rank finalists of the last rule under so many changes.", min=0
        ),
    ] = 0,
    left_out: LeftOutOption = 1,
    delta: DeltaOption = False,
    out: OutOption = OUT,
    seed: SeedOption = 2023,
    ensemble: EnsembleOption = "brain-mri",
    remover: RemoverOption = None,
    jobs: JobsOption = 1,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Compare strategies and stop rules at one budget, on members left out."""
    from engine.experiments.budget import STOPS, STRATEGIES, BudgetPlan
    from engine.experiments.budget_page import page

    run = _Run(
        data=data,
        n=n,
        out=out,
        seed=seed,
        ensemble=ensemble,
        removers=remover,
        jobs=jobs,
        device=device,
        json=json,
    )
    unknown = sorted(set(strategy or ()) - set(STRATEGIES))
    if unknown:
        raise InvalidParameter(
            f"strategies {', '.join(unknown)}: give some of {', '.join(STRATEGIES)}"
        )
    plan = BudgetPlan(
        strategies=tuple(s for s in STRATEGIES if s in (strategy or STRATEGIES)),
        stops=tuple(stop or STOPS),
        queries=queries,
        left_out=left_out,
        delta=delta,
        robust_changes=robust_changes,
    )
    options = ["--queries", str(queries), *_left_out(left_out, delta=delta)]
    if robust_changes:
        options += ["--robust-changes", str(robust_changes)]
    options += [part for one in stop or () for part in ("--stop", one)]
    options += [part for one in strategy or () for part in ("--strategy", one)]
    _measure(run, plan, lambda records: page(records, queries), options)


@app.command("removers")
def removers(  # noqa: PLR0913 - the options of a typer command are its arguments
    *,
    data: DataOption,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = IMAGES["removers"],
    after: Annotated[bool, typer.Option(help="Also δ put in after the mark.")] = True,
    native: Annotated[
        bool,
        typer.Option("--native", help="Images at their own size, not at 224 pixels."),
    ] = False,
    lesion_guard: Annotated[
        bool, typer.Option("--lesion-guard", help="Keep δ off lesion boxes.")
    ] = False,
    out: OutOption = OUT,
    seed: SeedOption = 2023,
    ensemble: EnsembleOption = "brain-mri",
    remover: RemoverOption = None,
    jobs: JobsOption = 1,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Put marked pictures through removal networks, with and without δ."""
    from engine.experiments.removers import RemoversPlan
    from engine.experiments.removers_page import page

    run = _Run(
        data=data,
        n=n,
        out=out,
        seed=seed,
        ensemble=ensemble,
        removers=remover,
        jobs=jobs,
        device=device,
        json=json,
    )
    plan = RemoversPlan(after=after, native=native, lesion_guard=lesion_guard)
    chosen = {
        "--no-after": not after,
        "--native": native,
        "--lesion-guard": lesion_guard,
    }
    _measure(run, plan, page, [name for name, is_on in chosen.items() if is_on])


@app.command("authorise")
def authorise(  # noqa: PLR0913 - the options of a typer command are its arguments
    *,
    data: DataOption,
    n: Annotated[int, typer.Option(help="Images.", min=1)] = IMAGES["authorise"],
    out: OutOption = OUT,
    seed: SeedOption = 2023,
    ensemble: EnsembleOption = "brain-mri",
    remover: RemoverOption = None,
    jobs: JobsOption = 1,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Compare what is sent, what Eq. 13 gives back, and what the key gives back."""
    from engine.experiments.authorise import AuthorisePlan, page

    run = _Run(
        data=data,
        n=n,
        out=out,
        seed=seed,
        ensemble=ensemble,
        removers=remover,
        jobs=jobs,
        device=device,
        json=json,
    )
    _measure(run, AuthorisePlan(), page, [])


@app.command("all")
def everything(
    *,
    data: DataOption,
    out: OutOption = OUT,
    seed: SeedOption = 2023,
    jobs: JobsOption = 1,
    device: DeviceOption = "cpu",
) -> None:
    """Measure all four tables with their default sizes."""
    search(data=data, out=out, seed=seed, jobs=jobs, device=device)
    budget(data=data, out=out, seed=seed, jobs=jobs, device=device)
    removers(data=data, out=out, seed=seed, jobs=jobs, device=device)
    authorise(data=data, out=out, seed=seed, jobs=jobs, device=device)


def _left_out(count: int, *, delta: bool) -> list[str]:
    return ["--left-out", str(count), *(["--delta"] if delta else [])]


def _measure(
    run: _Run,
    plan: Plan[R],
    page: Callable[[Sequence[R]], Page],
    options: Sequence[str],
) -> None:
    """Measure, write page and index, and say where."""
    from engine.experiments.document import Circumstances, write_page
    from engine.experiments.session import run_session

    setup = _setup(run)
    clock = time.monotonic()
    with _progress() as bars:
        task = bars.add_task(plan.name, total=run.n)
        measured = run_session(
            setup,
            plan,
            run.n,
            run.out / f"{plan.name}.jsonl",
            jobs=run.jobs,
            tick=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if not measured.records:
        raise InvalidParameter(
            f"{run.data}: no image that every member of {run.ensemble!r} classifies "
            "correctly and that has room for a mark; give other images"
        )
    when = Circumstances(
        day=datetime.datetime.now(tz=datetime.UTC).date(),
        seconds=time.monotonic() - clock,
        jobs=run.jobs,
        command=_command(run, plan.name, options),
    )
    written = write_page(run.out, page(measured.records), (setup, plan, measured), when)
    _say(run, plan.name, written)


def _say(run: _Run, name: str, written: dict[str, Any]) -> None:
    if run.json:
        typer.echo(jsonlib.dumps(written))
    else:
        file = run.out / f"{name}.md"
        Console().print(f"{written['n']} images measured: {file}")


def _command(run: _Run, name: str, options: Sequence[str]) -> str:
    """Write the command without any path of this machine."""
    parts = ["miad-gateway", "experiment", name, "--data", "DIR", "--n", str(run.n)]
    parts += ["--seed", str(run.seed), *options]
    return shlex.join(parts)


def _setup(run: _Run) -> Setup:
    from engine.experiments.bench import Setup
    from engine.models.ensemble import packaged_ensembles
    from engine.removal.remover import packaged_removers

    packaged = packaged_ensembles()
    folder = packaged.get(run.ensemble, Path(run.ensemble))
    if not folder.is_dir():
        raise InvalidParameter(
            f"no ensemble {run.ensemble!r}: give a directory or one of "
            f"{', '.join(packaged) or 'none packaged'}"
        )
    chosen = run.removers if run.removers is not None else packaged_removers().values()
    return Setup(
        data=run.data,
        ensemble=folder,
        removers=tuple(chosen),
        params=ProtectParams(seed=run.seed),
        device=run.device,
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
