"""A door every step goes through, so that a stop ends between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from gateway.store.fence import Fence


class Gate:
    """Counts the steps inside; once closed, nobody else comes in.

    A step that comes to a closed gate waits there for the end of the process:
    raising would be recorded as its result, returning would be a lie.

    Parameters
    ----------
    fence
        Keeps erasure away from steps, and steps from erasure.
    """

    def __init__(self, fence: Fence | None = None) -> None:
        self._fence = fence
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Be inside for as long as the block lasts."""
        with self._fence.working() if self._fence else nullcontext(), self._counted():
            yield

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self, timeout_seconds: float) -> bool:
        """Let nobody in any more and wait for those inside.

        Returns
        -------
        bool
            Whether all came out in time.
        """
        with self._changed:
            self._closed = True
            return self._changed.wait_for(
                lambda: self._inside == 0, timeout=timeout_seconds
            )
