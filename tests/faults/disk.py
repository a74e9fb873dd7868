"""A small disk of its own for a data directory: one that can really be full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


def may_mount() -> bool:
    """Whether this process may mount."""
    return os.geteuid() == 0 and Path("/proc/filesystems").read_text().find("tmpfs") > 0


@contextmanager
def mounted(folder: Path, *how: str) -> Iterator[Path]:
    """Mount a disk, named and described as to mount(8), in a folder; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", *how, str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def small(size_mib: int) -> tuple[str, ...]:
    """Describe an empty disk of a size."""
    return ("-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs")


@contextmanager
def filled(folder: Path, leave_bytes: int) -> Iterator[None]:
    """Fill a disk up but for some octets, for as long as the block lasts."""
    filler = folder / "filler"
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    with filler.open("wb") as stream:
        left = max(0, free - leave_bytes)
        while left > 0:
            left -= stream.write(bytes(min(left, MIB)))
    try:
        yield
    finally:
        filler.unlink()
