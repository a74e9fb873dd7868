"""The jobs' database before its library brings it up: copied, or refused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

from dbos._migration import sqlite_migrations

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.store.clock import utc_now
from gateway.store.durable import FILE_MODE, make_directory, sync_directory
from gateway.store.upgrade import BACKUPS, KEPT, alone_with

KNOWN: Final = len(sqlite_migrations)
"""The newest version that this library knows."""


def check_jobs(path: Path, clock: Callable[[], datetime] = utc_now) -> None:
    """Copy the jobs' database if its library is about to change it.

    Parameters
    ----------
    path
        An SQLite file, or where one is going to be.
    clock
        Names the copy.

    Raises
    ------
    ConfigurationError
        A newer library has written it: its jobs would be misread.
    """
    if not path.exists():
        return
    with alone_with(path), closing(sqlite3.connect(path)) as jobs:
        version = _version(jobs)
        if version > KNOWN:
            raise ConfigurationError(
                f"the jobs' database is at version {version}, and this program knows "
                f"versions up to {KNOWN}: a newer version has written it. Start that "
                "version; or stop everything and move jobs.sqlite away: what is "
                "pending is taken up again from the index"
            )
        if 0 < version < KNOWN:
            _copy(jobs, path, f"{version}-{clock():%Y%m%dT%H%M%SZ}")


def _version(jobs: sqlite3.Connection) -> int:
    try:
        row = jobs.execute("SELECT max(version) FROM dbos_migrations").fetchone()
    except sqlite3.OperationalError:  # killed while it was made
        return 0
    return int(row[0] or 0)


def _copy(jobs: sqlite3.Connection, path: Path, mark: str) -> None:
    folder = path.parent / BACKUPS
    make_directory(folder)
    final = folder / f"{path.stem}-{mark}{path.suffix}"
    draft = folder / f".{final.name}.draft"
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    with closing(sqlite3.connect(draft)) as target:
        jobs.backup(target)
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(final)
    sync_directory(folder)
    for old in sorted(folder.glob(f"{path.stem}-*{path.suffix}"))[:-KEPT]:
        old.unlink()
    get_logger("jobs").info("jobs-copied", backup=final.name)
