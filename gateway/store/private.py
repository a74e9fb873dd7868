"""Keep what processes write to the disk out of reach of others."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.store.durable import DIRECTORY_MODE

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def close_to_others(directory: Path) -> None:
    """Make a data directory, or close it to everyone but its owner.

    What lies in it is then out of reach, whatever its own mode.

    Raises
    ------
    ConfigurationError
        Others can reach it, and its mode cannot be changed.
    """
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & OTHERS:
        return
    try:
        directory.chmod(DIRECTORY_MODE)
    except OSError as error:
        raise ConfigurationError(
            f"data directory {directory} has mode {mode:04o}: others may reach it, "
            f"and it is not this user's; run as its owner: chmod 700 {directory}"
        ) from error
    get_logger("site").warning("data-directory-closed-to-others", was=f"{mode:04o}")


def use_private_temporary(directory: Path) -> None:
    """Have this process, and libraries in it, make temporary files there.

    Those of an earlier run are removed. What the gateway writes there is sealed and
    has no name (``gateway.store.spool``); SQLite, Python's ``tempfile`` and native
    libraries look at ``TMPDIR``.
    """
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(mode=DIRECTORY_MODE, parents=True)
    os.environ["TMPDIR"] = str(directory.absolute())
    tempfile.tempdir = None  # looked up anew
