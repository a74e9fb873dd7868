"""Waits for the disk once for many files."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def sync_all(paths: Iterable[Path]) -> None:
    """Wait until the disk has all that was written to the files.

    One syncfs(2) for each file system they are on: hundreds of files for the
    price of one. Since Linux 5.8 it tells of errors of the disk. Elsewhere all
    file systems are synced.

    Raises
    ------
    OSError
        The disk did not take something.
    """
    devices: dict[int, Path] = {}
    for path in paths:
        try:
            devices.setdefault(path.stat().st_dev, path)
        except FileNotFoundError:
            continue  # removed meanwhile
    if devices and sys.platform != "linux":
        os.sync()
        return
    for path in devices.values():
        # The folder: the file may be gone by now, the file system is not.
        _syncfs(path.parent)


def _syncfs(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)
