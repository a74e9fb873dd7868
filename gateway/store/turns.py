"""Who writes to one SQLite file takes turns: threads of a process, and processes.

SQLite decides who may write. Whoever finds it locked sleeps there, longer each time
(1, 2, 5, 10 ms and on), while a commit takes two; and sleeps without having begun, so
that nothing can be added to what it will write. Here it asks again at once.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from gateway.store.durable import FILE_MODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIRST_PAUSE_SECONDS: Final = 0.0003
LONGEST_PAUSE_SECONDS: Final = 0.005


class Turns:
    """Turns at writing one file.

    They only spare waiting: after so long, and where there can be no lock, SQLite
    decides alone.

    Parameters
    ----------
    path
        The SQLite file; the lock lies beside it.
    patience_seconds
        How long another process is waited for.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        path: Path,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path.with_name(f"{path.name}-turn")
        self._patience = patience_seconds
        self._clock = clock
        self._threads = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Have the turn until the block is left."""
        with self._threads:
            lock = self._open()
            try:
                if lock is not None:
                    self._wait(lock)
                yield
            finally:
                if lock is not None:
                    os.close(lock)  # releases it

    def _open(self) -> int | None:
        """Open the lock anew: a process that was forked would share it."""
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        except OSError:  # no room, or read-only
            return None

    def _wait(self, lock: int) -> None:
        deadline = self._clock() + self._patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock() >= deadline:
                    return
            except OSError:  # the file system has no locks
                return
            else:
                return
            time.sleep(pause)
            pause = min(1.2 * pause, LONGEST_PAUSE_SECONDS)
