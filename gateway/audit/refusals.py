"""Refusals in the audit trail, without letting a peer fill it.

Whoever is refused may come again at once, thousands of times. The first
refusals of an address in a minute are recorded whole; the others of that minute
are counted, and the count is recorded when the minute is over.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.audit.log import AuditLog, Field, Personal

WINDOW_SECONDS: Final = 60.0
WHOLE_LINES: Final = 60
"""Of one address in a window."""
MOST_ADDRESSES: Final = 1000
"""With lines of their own in a window; the others are counted together."""
OTHERS: Final = "(others)"


@dataclass
class _Window:
    started: float
    whole: Counter[str] = field(default_factory=Counter)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)


class RefusalLog:
    """Records refusals of peers, few of them whole.

    Parameters
    ----------
    audit
        The trail.
    clock
        Seconds that never go back.
    """

    def __init__(
        self, audit: AuditLog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._window = _Window(clock())

    def note(self, action: str, address: str, **fields: Field | Personal) -> bool:
        """Record or count a refusal.

        Parameters
        ----------
        action
            What was refused: ``connection``, ``association``, ...
        address
            Of the peer.
        fields
            Anything else for the line, no patient attribute.

        Returns
        -------
        bool
            Whether the line was written whole: then the log may say so too.
        """
        self.flush()
        with self._lock:
            window = self._window
            known = address in window.whole or len(window.whole) < MOST_ADDRESSES
            if not known or window.whole[address] >= WHOLE_LINES:
                window.counted[action, address if known else OTHERS] += 1
                return False
            window.whole[address] += 1
        self.audit.note(action, "refused", peer_address=address, **fields)
        return True

    def flush(self, *, now: bool = False) -> None:
        """Record the counts of a window that is over; ``now``: in any case."""
        with self._lock:
            time_now = self._clock()
            if not now and time_now - self._window.started < WINDOW_SECONDS:
                return
            over, self._window = self._window, _Window(time_now)
        for (action, address), count in over.counted.items():
            self.audit.note(
                action, "refused", peer_address=address, further_refusals=count
            )
