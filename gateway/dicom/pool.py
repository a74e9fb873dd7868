"""Associations kept open for a while between jobs for the same peer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from pynetdicom.association import Association

from gateway.dicom.requestor import Peer, Requestor

MOST_IDLE: Final = 16
"""Of all peers together; above it the one that has waited longest is closed."""

MOST_IDLE_OF_ONE: Final = 2

RELEASE_SECONDS: Final = 2.0
"""For the answer to a release: nobody waits for it with work in hand."""

Contexts = frozenset[tuple[str, str]]


@dataclass(eq=False, kw_only=True)
class Held:
    """An association with what was proposed on it.

    Attributes
    ----------
    key
        Who calls whom.
    entity, association
        Established when it is held.
    proposed
        Pairs of SOP class and transfer syntax.
    used
        Whether it carried a job before.
    """

    key: tuple[str, Peer]
    entity: Requestor
    association: Association
    proposed: Contexts
    used: bool = False
    message_id: int = 0
    idle_until: float = field(default=0.0)

    @property
    def alive(self) -> bool:
        """Whether it looks established; the peer may have closed it this moment."""
        return bool(self.association.is_established)

    def next_message_id(self) -> int:
        """Return 1 to 65535, in turn."""
        self.message_id = self.message_id % 65_535 + 1
        return self.message_id

    def end(self) -> None:
        """Release the association, if there still is one, and close its socket."""
        if self.association.is_established:
            self.association.acse_timeout = RELEASE_SECONDS
            self.association.release()
        self.entity.close()


class AssociationPool:
    """Keeps associations until their time is over; threads share it.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._idle: list[Held] = []
        self._closed = False
        self._thread: threading.Thread | None = None

    def take(
        self, key: tuple[str, Peer], contexts: Iterable[tuple[str, str]]
    ) -> Held | None:
        """Take out an association on which these contexts were proposed."""
        wanted = frozenset(contexts)
        with self._changed:
            fitting = (
                held
                for held in reversed(self._idle)
                if held.key == key and held.alive and wanted <= held.proposed
            )
            found = next(fitting, None)
            if found is not None:
                self._idle.remove(found)
        return found

    def give_back(self, held: Held, idle_seconds: float) -> None:
        """Keep an association for so long, or end it."""
        if idle_seconds <= 0 or not held.alive:
            held.end()
            return
        held.used = True
        held.idle_until = self._clock() + idle_seconds
        with self._changed:
            surplus = [] if not self._closed else [held]
            if not self._closed:
                self._idle.append(held)
                surplus = self._surplus(held)
                self._start()
                self._changed.notify_all()
        for one in surplus:
            one.end()

    def close(self) -> None:
        """End all that are idle, and keep none any more."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        for held in idle:
            held.end()

    def _surplus(self, newest: Held) -> list[Held]:
        same = [held for held in self._idle if held.key == newest.key]
        surplus = same[:-MOST_IDLE_OF_ONE] or self._idle[:-MOST_IDLE]
        self._idle = [held for held in self._idle if held not in surplus]
        return surplus

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="AssociationPool", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        """End what nobody took in time, or what the peer has closed."""
        while True:
            with self._changed:
                if self._closed:
                    return
                now = self._clock()
                over = [h for h in self._idle if h.idle_until <= now or not h.alive]
                self._idle = [held for held in self._idle if held not in over]
                if not over:
                    ends = [held.idle_until for held in self._idle]
                    self._changed.wait(min(ends) - now if ends else None)
            for held in over:
                held.end()
