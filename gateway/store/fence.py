"""Keeps work on objects and their erasure apart, across processes of a site."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.store.durable import FILE_MODE, make_directory
from gateway.store.locks import connected, lock_number

if TYPE_CHECKING:
    from gateway.store.server import Server

POLL_SECONDS: Final = 0.05
TIMED_OUT: Final = "55P03"
"""SQLSTATE lock_not_available: lock_timeout has passed."""
UNENDING: Final = (
    "work that is under way does not end; nothing new begins with what is to be "
    "erased: give the command again"
)


class Fence:
    """Any number may work, or one may erase.

    Who wants to erase is waited for by new work, so that it gets its turn.

    Parameters
    ----------
    path
        Folder of its two lock files, on a local disk; made when absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work while the block lasts; waits while somebody erases."""
        with self._open("turn") as turn, self._open("work") as work:
            fcntl.flock(turn, fcntl.LOCK_SH)
            fcntl.flock(work, fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)
            yield

    @contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """Have nobody else work while the block lasts.

        Raises
        ------
        GatewayError
            Work that was under way did not end in time.
        """
        until = time.monotonic() + seconds
        with self._open("turn") as turn, self._open("work") as work:
            for descriptor in (turn, work):
                _lock_before(descriptor, until)
            yield

    def close(self) -> None:
        """Close what it keeps open between two uses."""

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        make_directory(self._path)
        kind = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        descriptor = os.open(self._path / name, kind, FILE_MODE)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class SharedFence(Fence):
    """The same on all machines of a site: an advisory lock of their server.

    PostgreSQL lets who comes later wait behind who waits to erase (13.3.5), and
    gives a lock up when its connection ends.

    Parameters
    ----------
    server
        That all machines of the site use.
    """

    def __init__(self, server: Server) -> None:
        self._patience = server.patience_seconds
        self._engine = create_engine(
            server.url, isolation_level="AUTOCOMMIT", **server.engine_options
        )
        self._number = {"number": lock_number("fence")}

    @override
    @contextmanager
    def working(self) -> Iterator[None]:
        with connected(self._engine, self._patience) as connection:
            connection.execute(
                text("SELECT pg_advisory_lock_shared(:number)"), self._number
            )
            yield
            try:
                connection.execute(
                    text("SELECT pg_advisory_unlock_shared(:number)"), self._number
                )
            except DBAPIError:
                # The server gave the lock up; what was done is done.
                get_logger("fence").warning("lock-lost")
                connection.invalidate()

    @override
    @contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        with connected(self._engine, self._patience) as connection:
            limit = {"limit": f"{max(1, round(seconds * 1000))}ms"}
            connection.execute(
                text("SELECT set_config('lock_timeout', :limit, false)"), limit
            )
            try:
                connection.execute(
                    text("SELECT pg_advisory_lock(:number)"), self._number
                )
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != TIMED_OUT:
                    raise
                raise GatewayError(UNENDING) from None
            yield
            connection.execute(text("SELECT 1"))  # raises where the lock was lost
            connection.invalidate()  # with its setting, and its lock

    @override
    def close(self) -> None:
        self._engine.dispose()


def _lock_before(descriptor: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise GatewayError(UNENDING) from None
            time.sleep(POLL_SECONDS)
        else:
            return
