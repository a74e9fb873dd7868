"""The demo's steps: send, wait, retrieve, try as a stranger, compare, report."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from gateway.demo.cases import demo_cases
from gateway.demo.nodes import (
    StorageNode,
    data_set_of,
    move_study,
    send_cases,
    write_arrivals,
)
from gateway.demo.report import Pictures, Row, write_json, write_report
from gateway.demo.site import (
    GATEWAY,
    MODALITY,
    OUTSIDE,
    RECOVERY,
    STRANGER,
    WORKSTATION,
    GatewayProcess,
    Ports,
    write_site,
)
from gateway.store.index import open_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from gateway.demo.cases import Case
    from gateway.demo.nodes import Arrival
    from gateway.store.index import Index
    from gateway.store.rows import Protected

ARRIVAL_SECONDS = 900.0
SUCCESS = 0x0000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the nodes saw."""

    cases: Sequence[Case]
    accepted: Sequence[int]
    outside: Sequence[Arrival]
    returned: Sequence[Arrival]
    refused_studies: frozenset[str]
    protected: Mapping[str, Protected]
    seconds: float


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
    complaints = _dciodvfy(files)
    rows = [_row(case, outcome, complaints) for case in cases]
    pictures = [_pictures(case, outcome) for case in cases]
    problems = _problems(rows, outcome, complaints)
    summary = _summary(rows, outcome, problems)
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
    with progress, StorageNode(OUTSIDE) as outside, StorageNode(WORKSTATION) as station:
        site = write_site(
            directory, outside_port=outside.port, workstation_port=station.port
        )
        data = directory / "data"
        with GatewayProcess(site, directory / "gateway.log") as gateway:
            ports = gateway.wait_for_ports(data)
            accepted = _send(cases, ports, progress)
            index = open_index(data / "index.sqlite")
            _wait_for_arrivals(gateway, index, outside, len(cases), progress)
            _retrieve(cases, ports, progress)
            refused = _try_as_stranger(cases, ports, progress)
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


def _send(cases: Sequence[Case], ports: Ports, progress: Progress) -> list[int]:
    task = progress.add_task("modality sends by C-STORE", total=len(cases))
    statuses = send_cases(
        cases, calling_ae=MODALITY, called_ae=GATEWAY, port=ports.receiver
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


def _retrieve(cases: Sequence[Case], ports: Ports, progress: Progress) -> None:
    studies = _studies(cases)
    task = progress.add_task("authorised node asks by C-MOVE", total=len(studies))
    for study in studies:
        move_study(
            study,
            calling_ae=WORKSTATION,
            called_ae=RECOVERY,
            port=ports.recovery,
            destination=WORKSTATION,
        )
        progress.advance(task)


def _try_as_stranger(
    cases: Sequence[Case], ports: Ports, progress: Progress
) -> frozenset[str]:
    studies = _studies(cases)
    task = progress.add_task("stranger asks by C-MOVE", total=len(studies))
    refused = set()
    for study in studies:
        status = move_study(
            study,
            calling_ae=STRANGER,
            called_ae=RECOVERY,
            port=ports.recovery,
            destination=OUTSIDE,
        )
        if status != SUCCESS:
            refused.add(study)
        progress.advance(task)
    return frozenset(refused)


def _protected(index: Index, case: Case) -> Protected | None:
    instance = index.instance(case.sop_instance_uid)
    return None if instance is None else index.protected_of(instance.id)


def _arrival(outcome: Outcome, case: Case) -> Arrival | None:
    row = outcome.protected.get(case.sop_instance_uid)
    for arrival in outcome.outside:
        if row is not None and arrival.sop_instance_uid == row.sop_instance_uid:
            return arrival
    return None


def _returned(outcome: Outcome, case: Case) -> Arrival | None:
    for arrival in outcome.returned:
        if arrival.sop_instance_uid == case.sop_instance_uid:
            return arrival
    return None


def _recovered_exactly(outcome: Outcome, case: Case) -> bool:
    back = _returned(outcome, case)
    return (
        back is not None
        and back.transfer_syntax_uid == case.transfer_syntax_uid
        and _sha256(back.data_set) == _sha256(data_set_of(case.part10))
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _dciodvfy(files: Sequence[Path]) -> dict[str, list[str]]:
    """Errors that dciodvfy names, by SOP Instance UID; empty when it is absent."""
    beside = Path(sys.executable).parent / "dciodvfy"
    tool = str(beside) if beside.exists() else shutil.which("dciodvfy")
    if tool is None:
        return {}
    found = {}
    for file in files:
        done = subprocess.run(  # noqa: S603 - a fixed tool on our own files
            [tool, str(file)], capture_output=True, text=True, check=False
        )
        lines = (done.stdout + done.stderr).splitlines()
        found[file.stem] = [line for line in lines if line.startswith("Error")]
    return found


def _row(case: Case, outcome: Outcome, complaints: Mapping[str, list[str]]) -> Row:
    protected = outcome.protected.get(case.sop_instance_uid)
    frame: Mapping[str, Any] = protected.report["frames"][0] if protected else {}
    uid = protected.sop_instance_uid if protected else ""
    return Row(
        name=case.name,
        sop_class_uid=case.sop_class_uid,
        protected_sop_instance_uid=uid,
        objective=frame.get("objective", "held"),
        before=_said(frame, "before"),
        after=_said(frame, "after"),
        misled=_label(frame, "before") != _label(frame, "after"),
        displacement=frame.get("displacement"),
        alpha=frame.get("alpha", 0),
        x=frame.get("x", 0),
        y=frame.get("y", 0),
        queries=frame.get("queries", 0),
        seconds=sum(frame.get("seconds", {}).values()),
        ssim=frame.get("ssim", 0.0),
        psnr=frame.get("psnr") or 0.0,
        valid=not complaints[uid] if uid in complaints else None,
        recovered_exactly=_recovered_exactly(outcome, case),
        stranger_refused=case.study_instance_uid in outcome.refused_studies,
    )


def _label(frame: Mapping[str, Any], when: str) -> str:
    return str(frame.get(when, {}).get("label", "")).replace("_", " ")


def _said(frame: Mapping[str, Any], when: str) -> str:
    answer = frame.get(when)
    if not answer:
        return "–"
    return f"{_label(frame, when)} {max(answer['ensemble']):.2f}"


def _pictures(case: Case, outcome: Outcome) -> Pictures | None:
    outside = _arrival(outcome, case)
    back = _returned(outcome, case)
    row = outcome.protected.get(case.sop_instance_uid)
    if outside is None or row is None:
        return None
    boxes = row.report["frames"][0]["lesion_boxes"]
    return Pictures(
        original=(data_set_of(case.part10), case.transfer_syntax_uid),
        protected=(outside.data_set, outside.transfer_syntax_uid),
        recovered=(back.data_set, back.transfer_syntax_uid) if back else None,
        boxes=[(b["x0"], b["y0"], b["x1"], b["y1"]) for b in boxes],
    )


def _problems(
    rows: Sequence[Row], outcome: Outcome, complaints: Mapping[str, list[str]]
) -> list[str]:
    """Every promise of the demo that did not hold, in words."""
    originals = {case.sop_instance_uid for case in outcome.cases}
    outside = [arrival.sop_instance_uid for arrival in outcome.outside]
    problems = [
        f"{row.name}: {what}"
        for row in rows
        for what, holds in (
            ("was not protected", row.protected_sop_instance_uid != ""),
            ("did not arrive outside", row.protected_sop_instance_uid in outside),
            ("was not recovered byte for byte", row.recovered_exactly),
            ("was given to a stranger", row.stranger_refused),
        )
        if not holds
    ]
    if any(status != SUCCESS for status in outcome.accepted):
        problems.append(f"C-STORE answered {[hex(s) for s in outcome.accepted]}")
    if originals & set(outside):
        problems.append("an unprotected original arrived outside")
    if len(outside) != len(set(outside)):
        problems.append("an object arrived outside twice")
    problems += [
        f"dciodvfy on {uid}: {line}"
        for uid, lines in complaints.items()
        for line in lines
    ]
    return problems


def _summary(
    rows: Sequence[Row], outcome: Outcome, problems: Sequence[str]
) -> dict[str, Any]:
    return {
        "sent": len(outcome.cases),
        "protected": len(outcome.outside),
        "recovered": sum(row.recovered_exactly for row in rows),
        "refused": len(outcome.refused_studies),
        "misled": sum(row.misled for row in rows),
        "seconds": outcome.seconds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}",
        "problems": list(problems),
    }


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
