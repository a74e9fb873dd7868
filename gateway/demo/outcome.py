"""What the demo saw, held against what it promises."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.demo.nodes import data_set_of
from gateway.demo.report import Pictures, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.demo.cases import Case
    from gateway.demo.nodes import Arrival
    from gateway.store.rows import Protected

SUCCESS = 0x0000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the nodes saw.

    Attributes
    ----------
    cases, accepted
        What was sent, and the C-STORE status of each.
    outside, returned
        What arrived at the outside node and at the authorised one, in order.
    refused_studies
        Study Instance UIDs that the stranger did not get.
    protected
        Rows of the index, by original SOP Instance UID.
    seconds
        Wall time of it all.
    """

    cases: Sequence[Case]
    accepted: Sequence[int]
    outside: Sequence[Arrival]
    returned: Sequence[Arrival]
    refused_studies: frozenset[str]
    protected: Mapping[str, Protected]
    seconds: float


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
        and back.data_set == data_set_of(case.part10)
    )


def dciodvfy_errors(files: Sequence[Path]) -> dict[str, list[str]]:
    """Collect the errors that dciodvfy names.

    Parameters
    ----------
    files
        Part 10 files, each named by its SOP Instance UID.

    Returns
    -------
    dict[str, list[str]]
        By SOP Instance UID; empty where the tool is not installed.
    """
    beside = Path(sys.executable).parent / "dciodvfy"
    tool = str(beside) if beside.exists() else shutil.which("dciodvfy")
    if tool is None:
        return {}
    found = {}
    for file in files:
        done = subprocess.run(  # noqa: S603 - a fixed tool on our own files
            [tool, str(file)],
            capture_output=True,
            text=True,
            errors="replace",  # it quotes values, of any character set
            check=False,
        )
        lines = (done.stdout + done.stderr).splitlines()
        found[file.stem] = [line for line in lines if line.startswith("Error")]
    return found


def row_of(case: Case, outcome: Outcome, complaints: Mapping[str, list[str]]) -> Row:
    """Say what happened to one instance; its first frame stands for all."""
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


def pictures_of(case: Case, outcome: Outcome) -> Pictures | None:
    """Gather what the page shows of one instance; None if none arrived."""
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


def problems_of(
    rows: Sequence[Row], outcome: Outcome, complaints: Mapping[str, list[str]]
) -> list[str]:
    """List every promise of the demo that did not hold, in words.

    Parameters
    ----------
    rows
        One per case.
    outcome
        What the nodes saw.
    complaints
        From `dciodvfy_errors`.
    """
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
    sent = {data_set_of(case.part10) for case in outcome.cases}
    if originals & set(outside) or any(a.data_set in sent for a in outcome.outside):
        problems.append("an unprotected original arrived outside")
    if len(outside) != len(set(outside)):
        problems.append("an object arrived outside twice")
    problems += [
        f"dciodvfy on {uid}: {line}"
        for uid, lines in complaints.items()
        for line in lines
    ]
    return problems


def summary_of(
    rows: Sequence[Row], outcome: Outcome, problems: Sequence[str]
) -> dict[str, Any]:
    """Sum up the table for its heading and for machines."""
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
