"""``miad-gateway protect`` and ``recover``: the same without a gateway, on files."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from engine.errors import EngineError
from gateway.cli.enclosed import (
    CertificateOption,
    EnclosedOptions,
    KeyOption,
    PassphraseOption,
    SignerOption,
)
from gateway.cli.options import JsonOption
from gateway.errors import GatewayError, Unprotectable

if TYPE_CHECKING:
    from gateway.cli.traces import TraceFiles
    from gateway.stages.offline import Job, OfflineSite
    from gateway.stages.protect import ProtectedObject

EXIT_FAILURE: Final = 1

FilesArgument = Annotated[
    list[Path],
    typer.Argument(exists=True, help="Files, and folders searched to the bottom."),
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", file_okay=False, help="Folder for results.")
]
SiteOption = Annotated[
    Path | None,
    typer.Option("--site", file_okay=False, help="Site directory: secrets and vault."),
]
EnsembleOption = Annotated[
    str | None,
    typer.Option(
        "--ensemble",
        help="Judge every file by this ensemble, whatever the site's conditions say; "
        "see miad-gateway models list.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace results and records that are there.")
]

TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        dir_okay=False,
        metavar="FILE.json",
        help="Write how each mark's place was searched, and a drawing FILE.png that "
        "shows the image; further frames get FILE-2, FILE-3 and so on.",
    ),
]

app = typer.Typer(no_args_is_help=True)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one file.

    ``status`` is ``protected``, ``recovered``, ``held`` (with ``reason``),
    ``failed``, or ``skipped`` for files in a folder that are not DICOM. ``further``
    names the other files where frames became files of their own, ``traces`` those
    that tell the searches, one per frame.
    """

    input: str
    status: str
    output: str = ""
    reason: str = ""
    message: str = ""
    report: dict[str, Any] | None = None
    further: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is missing."""
        return self.status in {"protected", "recovered", "skipped"}


@app.command()
def protect(  # noqa: PLR0913 - the options of a typer command are its arguments
    files: FilesArgument,
    output: OutputOption,
    *,
    site: SiteOption = None,
    ensemble: EnsembleOption = None,
    trace: TraceOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Protect files; keys go into the site's vault.

    Exit code 1 when a file could not be protected.
    """
    from gateway.stages.offline import FileProtection, Outputs, find_files
    from gateway.stages.protectors import Protectors, judged_by

    place = _site(site)
    traces = _traces(trace, force=force)
    jobs = list(find_files(files))
    settings = place.protection()
    if ensemble is not None:
        settings = judged_by(settings, ensemble)
    work = FileProtection(
        protection=settings,
        protectors=Protectors(settings),
        uids=place.uids(),
        vault=place.vault(),
        outputs=Outputs(output, [job.path for job in jobs], force=force),
        force=force,
        traces=traces is not None,
    )
    with _bar("protecting", len(jobs)) as bar:
        answers = [
            bar.done(
                _answer(
                    job, lambda job: _protected(work.protect(job, bar.tell), traces)
                )
            )
            for job in jobs
        ]
    _finish(answers, json=json)


@app.command()
def recover(  # noqa: PLR0913 - the options of a typer command are its arguments
    files: FilesArgument,
    output: OutputOption,
    *,
    site: SiteOption = None,
    key: KeyOption = None,
    certificate: CertificateOption = None,
    signer: SignerOption = None,
    key_passphrase_env: PassphraseOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Recover the originals of protected files, octet for octet.

    From the site's vault, or with --key from the keys that travel in the files.
    Exit code 1 when one did not come back.
    """
    from gateway.stages.offline import FileRecovery, Outputs, find_files, record_in

    opening = EnclosedOptions(key, certificate, signer, key_passphrase_env)
    opening.check(vault_named=site is not None)
    jobs = list(find_files(files))
    outputs = Outputs(output, [job.path for job in jobs], force=force)
    records = opening.records() if key else record_in(_site(site).vault())
    work = FileRecovery(records, outputs, [job.path for job in jobs])
    with _bar("recovering", len(jobs)) as bar:
        answers = [
            bar.done(_answer(job, lambda job: _recovered(work.recover(job))))
            for job in jobs
        ]
    opening.tell_signers()
    _finish(answers, json=json)


def _site(given: Path | None) -> OfflineSite:
    from gateway.stages.offline import OfflineSite, default_site

    return default_site() if given is None else OfflineSite(given)


def _traces(first: Path | None, *, force: bool) -> TraceFiles | None:
    """Open the files for traces, before any work is done."""
    if first is None:
        return None
    from gateway.cli.traces import TraceFiles

    try:
        return TraceFiles(first, force=force)
    except GatewayError as error:
        raise typer.BadParameter(str(error), param_hint="--trace") from error


def _protected(
    result: tuple[list[Path], ProtectedObject], traces: TraceFiles | None
) -> dict[str, Any]:
    paths, made = result
    names = traces.write(made) if traces else []
    return {
        "status": "protected",
        "output": str(paths[0]),
        "further": [str(path) for path in paths[1:]],
        "report": made.report,
        "traces": names,
    }


def _recovered(path: Path) -> dict[str, Any]:
    return {"status": "recovered", "output": str(path)}


def _answer(job: Job, work: Callable[[Job], dict[str, Any]]) -> Answer:
    """Do the work for one file; what goes wrong there stops no other."""
    name = str(job.path)
    try:
        if job.skipped:
            return Answer(input=name, status="skipped", reason="not-dicom")
        return Answer(input=name, **work(job))
    except Unprotectable as error:
        return Answer(
            input=name, status="held", reason=error.reason, message=str(error)
        )
    except (GatewayError, EngineError, OSError) as error:
        reason = type(error).__name__
        return Answer(input=name, status="failed", reason=reason, message=str(error))


class _Bar:
    """Progress over files, and inside each over frames and search steps."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._title = title
        self._task = progress.add_task(title, total=total, inner="")

    def tell(self, stage: str, done: int, total: int) -> None:
        """Show where inside a file the work is."""
        self._progress.update(self._task, inner=f"{stage} {done}/{total}")

    def done(self, answer: Answer) -> Answer:
        """Count a file."""
        self._progress.update(self._task, advance=1, inner=Path(answer.input).name)
        return answer


@contextmanager
def _bar(title: str, total: int) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[inner]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress, title, total)


def _finish(answers: Sequence[Answer], *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps([asdict(answer) for answer in answers]))
    else:
        _show(answers)
    if not answers or not all(answer.good for answer in answers):
        raise typer.Exit(EXIT_FAILURE)


def _show(answers: Sequence[Answer]) -> None:
    table = Table("file", "answer", "result")
    for answer in answers:
        detail = answer.output or ": ".join(
            filter(None, (answer.reason, answer.message))
        )
        table.add_row(answer.input, answer.status, detail)
    Console().print(table)
