"""Keeps what a process holds in memory out of files, dumps and other eyes."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

PR_SET_DUMPABLE: Final = 4
"""<linux/prctl.h>; see prctl(2)."""

OWNER_ONLY: Final = 0o077


def harden_process() -> None:
    """Make this process leave no core dump and no file that others may read.

    On Linux other processes of the same user can no longer trace it either, nor
    read its memory and first environment in ``/proc`` (prctl(2), ptrace(2)); root
    still can. Children inherit the limit and the mask; each program calls this
    for itself when it starts.
    """
    os.umask(OWNER_ONLY)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A core handler that the kernel pipes to takes no notice of the limit,
        # but dumps no process that is not dumpable (core(5)).
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
