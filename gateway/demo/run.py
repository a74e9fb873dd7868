"""The demo's steps: send, wait, retrieve, try as a stranger, compare, report."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of
from gateway.demo.cases import demo_cases
from gateway.demo.identities import make_identities
from gateway.demo.nodes import StorageNode, move_study, send_cases, write_arrivals
from gateway.demo.outcome import (
    SUCCESS,
    Outcome,
    dciodvfy_errors,
    pictures_of,
    problems_of,
    row_of,
    summary_of,
)
from gateway.demo.report import write_json, write_report
from gateway.demo.site import (
    GATEWAY,
    MODALITY,
    OUTSIDE,
    RECOVERY,
    WORKSTATION,
    GatewayProcess,
    Ports,
    write_site,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from gateway.demo.cases import Case
    from gateway.demo.identities import Credentials
    from gateway.demo.report import Row
    from gateway.store.index import Index
    from gateway.store.rows import Protected

ARRIVAL_SECONDS = 900.0


def run_demo(report: Path, json_path: Path | None, console: Console) -> bool:
    """Run the main job on loopback and report on it.

    Parameters
    ----------
    report
        Directory for ``index.html``, its pictures and the received objects.
    json_path
        Where the table goes as data, when wanted.
    console
        Where progress and the table are printed.

    Returns
    -------
    bool
        Whether everything the demo promises happened.
    """
    cases = demo_cases()
    with tempfile.TemporaryDirectory(prefix="miad-demo-") as temporary:
        outcome = _main_job(cases, Path(temporary), console)
    files = write_arrivals(outcome.outside, report / "outside")
    complaints = dciodvfy_errors(files)
    rows = [row_of(case, outcome, complaints) for case in cases]
    pictures = [pictures_of(case, outcome) for case in cases]
    problems = problems_of(rows, outcome, complaints)
    summary = summary_of(rows, outcome, problems)
    page = write_report(report, rows, pictures, summary)
    if json_path is not None:
        write_json(json_path, rows, summary)
    _print(console, rows, summary, page)
    return not problems


def _main_job(cases: Sequence[Case], directory: Path, console: Console) -> Outcome:
    start = time.monotonic()
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        Elapsed(),
        console=console,
    )
    known = make_identities(directory / "pki")
    with (
        progress,
        StorageNode(OUTSIDE, tls=known.outside) as outside,
        StorageNode(WORKSTATION, tls=known.workstation) as station,
    ):
        site = write_site(
            directory,
            known,
            outside_port=outside.port,
            workstation_port=station.port,
        )
        data = directory / "data"
        with GatewayProcess(site, directory / "gateway.log") as gateway:
            ports = gateway.wait_for_ports(data)
            accepted = _send(cases, ports, known.modality, progress)
            settings = load_site(site)
            index = open_index_of(settings, open_keys_of(settings))
            _wait_for_arrivals(gateway, index, outside, len(cases), progress)
            _retrieve(cases, ports, known.workstation, progress)
            refused = _try_as_stranger(cases, ports, known.stranger, progress)
            protected = {
                case.sop_instance_uid: row
                for case in cases
                if (row := _protected(index, case)) is not None
            }
            index.close()
        return Outcome(
            cases=cases,
            accepted=accepted,
            outside=list(outside.arrivals),
            returned=list(station.arrivals),
            refused_studies=refused,
            protected=protected,
            seconds=time.monotonic() - start,
        )


def _send(
    cases: Sequence[Case], ports: Ports, own: Credentials, progress: Progress
) -> list[int]:
    task = progress.add_task("modality sends by C-STORE", total=len(cases))
    statuses = send_cases(
        cases, calling_ae=MODALITY, called_ae=GATEWAY, port=ports.receiver, tls=own
    )
    progress.update(task, completed=sum(s == SUCCESS for s in statuses))
    return statuses


def _wait_for_arrivals(
    gateway: GatewayProcess,
    index: Index,
    outside: StorageNode,
    wanted: int,
    progress: Progress,
) -> None:
    protecting = progress.add_task("gateway protects", total=wanted)
    arriving = progress.add_task("outside node receives", total=wanted)

    def settled() -> bool:
        states = index.counts()["instances"]
        held = states.get("held", 0)
        progress.update(protecting, completed=states.get("protected", 0))
        progress.update(arriving, completed=len(outside.arrivals))
        return len(outside.arrivals) + held >= wanted

    gateway.wait_until(settled, ARRIVAL_SECONDS)


def _studies(cases: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(case.study_instance_uid for case in cases))


def _retrieve(
    cases: Sequence[Case], ports: Ports, own: Credentials, progress: Progress
) -> None:
    studies = _studies(cases)
    task = progress.add_task("authorised node asks by C-MOVE", total=len(studies))
    for study in studies:
        move_study(
            study,
            calling_ae=WORKSTATION,
            called_ae=RECOVERY,
            port=ports.recovery,
            destination=WORKSTATION,
            tls=own,
        )
        progress.advance(task)


def _try_as_stranger(
    cases: Sequence[Case], ports: Ports, own: Credentials, progress: Progress
) -> frozenset[str]:
    """Claim to be the workstation, with a good certificate that is not its own."""
    studies = _studies(cases)
    task = progress.add_task("stranger asks by C-MOVE", total=len(studies))
    refused = set()
    for study in studies:
        status = move_study(
            study,
            calling_ae=WORKSTATION,
            called_ae=RECOVERY,
            port=ports.recovery,
            destination=WORKSTATION,
            tls=own,
        )
        if status != SUCCESS:
            refused.add(study)
        progress.advance(task)
    return frozenset(refused)


def _protected(index: Index, case: Case) -> Protected | None:
    instance = index.instance(case.sop_instance_uid)
    return None if instance is None else index.protected_of(instance.id)


def _print(
    console: Console, rows: Sequence[Row], summary: Mapping[str, Any], page: Path
) -> None:
    table = Table(title="What happened to each instance", show_lines=False)
    for heading in ("instance", "models said", "and now"):
        table.add_column(heading, overflow="fold")
    for heading in ("α", "x, y", "queries", "s", "SSIM"):
        table.add_column(heading, justify="right")
    for heading in ("valid", "recovered exactly", "stranger refused"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.name,
            row.before,
            row.after,
            f"{row.alpha / 255:.2f}",
            f"{row.x}, {row.y}",
            str(row.queries),
            f"{row.seconds:.1f}",
            f"{row.ssim:.3f}",
            _yes_no(row.valid),
            _yes_no(row.recovered_exactly),
            _yes_no(row.stranger_refused),
        )
    console.print(table)
    console.print(
        f"{summary['protected']} of {summary['sent']} protected, "
        f"{summary['misled']} misled, {summary['recovered']} recovered exactly, "
        f"{summary['refused']} studies refused to the stranger, "
        f"{summary['seconds']:.0f} s on {summary['machine']}"
    )
    for problem in summary["problems"]:
        console.print(f"[red]not as promised:[/red] {problem}")
    console.print(f"pictures: {page}")


def _yes_no(answer: bool | None) -> str:
    if answer is None:
        return "–"
    return "[green]yes[/green]" if answer else "[red]no[/red]"
