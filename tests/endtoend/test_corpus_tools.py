"""A few files of the corpus through a whole gateway and back, by the one command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.corpus.readers import TOOLS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in TOOLS),
        reason="DCMTK or GDCM not installed",
    ),
]

FILES = {
    "*/chrFren.dcm": "protected",
    "*/MR_truncated.dcm": "held",
    "*/rtplan.dcm": "held",
    "*/DICOMDIR-empty.dcm": "refused",  # the same UID as the next: a second round
    "*/DICOMDIR-implicit": "refused",
    "*/bad_sequence.dcm": "refused",
    "*/JPEGLSNearLossless_08.dcm": "refused",
    "*/UN_sequence.dcm": "refused",
    "*/empty_charset_LEI.dcm": "unsendable",
}


def corpus(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.corpus", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


def test_a_corpus_run_keeps_every_promise_and_draws_its_sheets(tmp_path: Path) -> None:
    run, sheets = tmp_path / "run", tmp_path / "sheets"
    patterns = [word for name in FILES for word in ("--only", name)]
    done = corpus("run", "--quick", "--out", str(run), *patterns)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((run / "corpus.json").read_text("utf-8"))["files"]
    outcomes = {f"*/{row['file'].split('/')[-1]}": row["outcome"] for row in rows}
    assert outcomes == FILES
    for row in rows:
        if row["outcome"] == "protected":
            assert row["recovered"] is True
            assert row["objects"] == len(row["protected"]) == 1
            assert (run / row["original"]).is_file()
            assert row["record_octets"] > 0
            assert 1 <= row["alpha"] <= 255
        elif row["outcome"] != "unsendable":
            assert " " in row["message"], "no fault is named"
    assert {row["round"] for row in rows} == {0, 1, 2}
    page = (run / "corpus.md").read_text("utf-8")
    assert "Every promise held for every file." in page
    assert "1 of 1 grey objects" in page
    drawn = corpus("sheets", str(run), "--out", str(sheets))
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert [path.name for path in sheets.glob("*.png")] == ["OT.png"]
