"""``python -m benchmarks.corpus``: run, viewer and sheets."""

from __future__ import annotations

import fnmatch
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.corpus.find import NoCorpus, find_corpus, spread
from benchmarks.corpus.page import summary_lines, write_page
from benchmarks.corpus.passage import Options
from benchmarks.corpus.readers import ToolsMissing
from benchmarks.corpus.run import Result, read_result, run_corpus
from benchmarks.corpus.viewer import Comparison, compare_all, read_comparisons
from gateway.errors import GatewayError

WIDE_COLUMNS = 160

app = typer.Typer(no_args_is_help=True, add_completion=False)

DirectoryArgument = Annotated[
    Path, typer.Argument(file_okay=False, help="Folder of a corpus run.")
]
PageOption = Annotated[
    Path | None,
    typer.Option(dir_okay=False, help="The page; corpus.md in the folder by default."),
]


@app.command("run")
def run(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for all that is made.")
    ],
    page: PageOption = None,
    limit: Annotated[
        int, typer.Option(min=0, help="So many files of many kinds only; 0: all.")
    ] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Files that match a pattern only.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Gateways at a time.")] = 1,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="16 marks tried, one step of δ: a smoke run."),
    ] = False,
    stand_in: Annotated[
        bool,
        typer.Option("--stand-in", help="One random mark, no engine: minutes."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Take finished rounds as an earlier run left."),
    ] = False,
) -> None:
    """Send every file through a gateway and back; exit 1 if a promise is broken."""
    console = _console()
    signal.signal(signal.SIGTERM, _leave)
    try:
        files = [f for f in find_corpus() if _wanted(f.name, only or ["*"])]
        chosen = spread(files, limit) if limit else files
        options = Options(quick=quick, stand_in=stand_in, resume=resume)
        result = run_corpus(chosen, out, options, jobs, console)
    except (NoCorpus, ToolsMissing, GatewayError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    compared = compare_all(result, out, console)
    _finish(result, compared, page or out / "corpus.md", console)


@app.command("viewer")
def viewer(directory: DirectoryArgument, page: PageOption = None) -> None:
    """Render what a run protected with DCMTK again, and compare."""
    console = _console()
    result = read_result(directory)
    compared = compare_all(result, directory, console)
    _finish(result, compared, page or directory / "corpus.md", console)


@app.command("page")
def page_(directory: DirectoryArgument, page: PageOption = None) -> None:
    """Write the page of a run again."""
    path = page or directory / "corpus.md"
    write_page(read_result(directory), read_comparisons(directory), path)


@app.command("sheets")
def sheets(
    directory: DirectoryArgument,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the sheets.")],
    page: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="The page; sheets.md beside the sheets."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Rows per sheet.")] = 6,
) -> None:
    """Draw a contact sheet per modality: original, protected, difference."""
    from benchmarks.corpus.sheets import write_sheets

    console = _console()
    drawn = write_sheets(
        read_result(directory),
        directory,
        out,
        page=page or out / "sheets.md",
        examples=examples,
    )
    for path in drawn:
        console.print(str(path))


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End as by Ctrl-C: gateways that were started are ended first."""
    raise KeyboardInterrupt


def _wanted(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _finish(
    result: Result, compared: list[Comparison], page: Path, console: Console
) -> None:
    write_page(result, compared, page)
    for what, figure in summary_lines(result.rows).items():
        console.print(f"{what}: {figure}")
    beyond = [one.file for one in compared if not one.holds]
    seen = len(compared) - len(beyond)
    console.print(f"grey objects a viewer shows within ±1: {seen} of {len(compared)}")
    for problem in result.broken:
        console.print(f"[red]not as promised:[/red] {problem}")
    for file in beyond:
        console.print(f"[red]not as promised:[/red] {file}: a viewer shows otherwise")
    console.print(f"page: {page}")
    if result.broken or beyond:
        raise typer.Exit(1)


def _console() -> Console:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    return Console() if sys.stdout.isatty() else Console(width=WIDE_COLUMNS)


if __name__ == "__main__":
    app()
