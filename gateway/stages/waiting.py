"""Work that takes room waits until there is some, rather than fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gateway.errors import StoreFull
from gateway.store.space import Space

Made = TypeVar("Made")


class Waiting:
    """Waits outside the gate, so that a stop does not wait for the disk.

    Parameters
    ----------
    space
        Says whether there is room; None: always.
    """

    def __init__(self, space: Space | None) -> None:
        self._space = space

    def wait(self) -> None:
        """Return when new objects may be made."""
        if self._space is not None:
            self._space.wait()

    def until_done(self, make: Callable[[], Made]) -> Made:
        """Make something; each time there was no room after all, later again.

        A full disk is no fault of what is made: it is not held for it.

        Raises
        ------
        StoreFull
            Only where nothing says whether there is room.
        """
        while True:
            self.wait()
            try:
                return make()
            except StoreFull:
                if self._space is None:
                    raise
                self._space.refuse()
