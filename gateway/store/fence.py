"""Keeps work on objects and their erasure apart, across processes of one machine."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError
from gateway.store.durable import FILE_MODE, make_directory

POLL_SECONDS: Final = 0.05


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

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        make_directory(self._path)
        kind = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        descriptor = os.open(self._path / name, kind, FILE_MODE)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _lock_before(descriptor: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise GatewayError(
                    "work that is under way does not end; nothing new begins with "
                    "what is to be erased: give the command again"
                ) from None
            time.sleep(POLL_SECONDS)
        else:
            return
