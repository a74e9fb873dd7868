"""What the file system that holds a file does beyond POSIX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
NAME_COMES_WITH_CONTENT: Final = frozenset({"ext4"})
"""fsync of a file makes durable the names that it was given before: it commits the
transaction that gave them, or without a journal writes its directory, too
(fs/ext4/fsync.c of Linux). Others may; the test that cuts the power has ext4."""


class NamesDurable:
    """Tells where fsync of a file does for its name as well; asked once a device.

    Parameters
    ----------
    mounts
        A table as of proc_pid_mountinfo(5); where there is none, nothing is known.
    """

    def __init__(self, mounts: Path = MOUNTS) -> None:
        self._mounts = mounts
        self._known: dict[int, bool] = {}

    def with_content(self, descriptor: int) -> bool:
        """Whether it does where an open file lies."""
        device = os.fstat(descriptor).st_dev
        known = self._known.get(device)
        if known is None:
            known = self._known[device] = self._look(device)
        return known

    def _look(self, device: int) -> bool:
        wanted = f"{os.major(device)}:{os.minor(device)}"
        try:
            lines = self._mounts.read_text("utf-8", "surrogateescape").splitlines()
        except OSError:
            return False
        kinds = set()
        for line in lines:
            mount, _, filesystem = line.partition(" - ")
            if mount.split()[2:3] == [wanted]:
                kinds.add(filesystem.split()[0])
        return bool(kinds) and kinds <= NAME_COMES_WITH_CONTENT
