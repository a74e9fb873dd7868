"""A clock that setting the machine's clock back does not turn back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import structlog

from gateway.access.ledger import CLOCK_RESET, Books, ClockMark, recorded
from gateway.store.clock import utc_now

LOG = structlog.get_logger(component="clock")

NOTED_EVERY: Final = timedelta(seconds=10)
"""How far the time moves on before it is written down again."""
TOLERATED: Final = timedelta(minutes=5)
"""A clock further off than this has jumped."""
TOLERATED_STOPPED: Final = timedelta(hours=12)
"""The same for the time this process did not run, which may be an outage."""


@dataclass(frozen=True, kw_only=True)
class Jump:
    """The machine's clock was set.

    Attributes
    ----------
    direction
        ``back``: grants end as if it had not been. ``forward``: what ended
        meanwhile has ended, until a person resets the clock.
    seconds
        How far.
    stopped
        Whether this process did not run: an outage looks the same.
    """

    direction: Literal["back", "forward"]
    seconds: int
    stopped: bool


class TrustedClock:
    """Never earlier than the latest time ever seen, by any process of the site.

    It goes on from there with the monotonic clock. The latest time is kept in
    the database, authenticated, so that a restart does not forget it.

    Parameters
    ----------
    books
        Where it is kept.
    wall
        The machine's clock: aware.
    monotonic
        Seconds that nobody can set.
    on_jump
        Told of jumps, each once.
    """

    def __init__(
        self,
        books: Books,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        on_jump: Callable[[Jump], None] = lambda _jump: None,
    ) -> None:
        self._books = books
        self._wall = wall
        self._monotonic = monotonic
        self._on_jump = on_jump
        self._lock = threading.Lock()
        self._epoch = 0
        self._latest: datetime | None = None
        self._at = 0.0
        self._behind = False

    def now(self) -> datetime:
        """Return the time, aware, in UTC; it is noted from time to time.

        Raises
        ------
        AccessTampered
            The latest time seen is not what was recorded.
        """
        with self._books.reading() as view:
            mark = view.clock()
        return self.at(mark)

    def at(self, mark: ClockMark | None) -> datetime:
        """Return the time, given the latest one that was kept."""
        with self._lock:
            moment, jump = self._advance(mark)
            due = mark is None or moment - parsed(mark.latest) >= NOTED_EVERY
        if jump is not None:
            self._tell(jump)
        if due:
            with self._books.changing() as change:
                change.set_clock(ClockMark(epoch=_epoch(mark), latest=recorded(moment)))
        return moment

    def reset(self, who: str, reason: str) -> datetime:
        """Take the machine's time as it is, after a wrong jump forward.

        What ended by the wrong time is in force again.
        """
        moment = self._wall().astimezone(UTC)
        with self._books.changing() as change:
            epoch = _epoch(change.clock()) + 1
            latest = recorded(moment)
            body = {"epoch": epoch, "to": latest, "who": who, "reason": reason}
            change.append("grants", CLOCK_RESET, "", body, latest)
            change.set_clock(ClockMark(epoch=epoch, latest=latest))
        return moment

    def _advance(self, mark: ClockMark | None) -> tuple[datetime, Jump | None]:
        wall, ticks = self._wall().astimezone(UTC), self._monotonic()
        expected, stopped = self._expected(mark, ticks), self._latest is None
        jump = None
        if expected is not None:
            jump = self._jump(wall - expected, stopped)
        moment = wall if expected is None else max(wall, expected)
        self._latest, self._at = moment, ticks
        self._epoch = max(self._epoch, _epoch(mark))
        return moment, jump

    def _expected(self, mark: ClockMark | None, ticks: float) -> datetime | None:
        """Return what time it is at least; None: that is not known."""
        kept = parsed(mark.latest) if mark is not None else None
        if self._latest is None or _epoch(mark) > self._epoch:  # or reset since
            return kept
        if _epoch(mark) < self._epoch:  # read before the reset
            kept = None
        own = self._latest + timedelta(seconds=ticks - self._at)
        return own if kept is None else max(own, kept)

    def _jump(self, ahead: timedelta, stopped: bool) -> Jump | None:
        was_behind, self._behind = self._behind, ahead < -TOLERATED
        if self._behind:
            if was_behind:
                return None
            back = -int(ahead.total_seconds())
            return Jump(direction="back", seconds=back, stopped=stopped)
        if ahead > (TOLERATED_STOPPED if stopped else TOLERATED):
            forward = int(ahead.total_seconds())
            return Jump(direction="forward", seconds=forward, stopped=stopped)
        return None

    def _tell(self, jump: Jump) -> None:
        LOG.warning(
            "clock jumped",
            direction=jump.direction,
            seconds=jump.seconds,
            stopped=jump.stopped,
        )
        self._on_jump(jump)


def _epoch(mark: ClockMark | None) -> int:
    return mark.epoch if mark is not None else 0


def parsed(text: str) -> datetime:
    """Return the moment that `timestamp` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
