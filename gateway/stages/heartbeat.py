"""Who lives: each process shows it, others judge, and the lost do no harm.

Clocks of machines differ and jump. So a process is judged by its count of beats
in the index, and silence is measured by whoever looks, on a clock that only goes
forward. Times of silence in which one could not look do not count: after an
outage of the database nobody is lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from gateway.log import get_logger
from gateway.store.rows import Executor
from gateway.store.work import LIVE, Work

EXIT_LOST: Final = 76
BEATS_PER_SILENCE: Final = 10
"""How often a process shows itself in the time after which it counts as lost."""
LEASE: Final = 2 / 3
"""The part of that time for which a beat lets it act. The rest is what an effect
that has begun may take."""


def forward_clock() -> float:
    """Return seconds that only go forward, those of a machine's sleep included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Silence:
    """Measures how long others have not been heard of.

    Parameters
    ----------
    seconds
        Silence after which one counts as lost.
    longest_step
        Of the time between two looks no more counts: the others may have been
        kept from showing themselves by what kept this one from looking.
    clock
        Seconds that only go forward.
    """

    def __init__(
        self,
        seconds: float,
        longest_step: float,
        clock: Callable[[], float] = forward_clock,
    ) -> None:
        self._seconds = seconds
        self._longest_step = longest_step
        self._clock = clock
        self._looked: float | None = None
        self._quiet: dict[str, tuple[int, float]] = {}

    def lost(self, found: Iterable[Executor]) -> list[Executor]:
        """Look at all that live; return those that have been silent too long."""
        now = self._clock()
        since = now if self._looked is None else self._looked
        step = min(now - since, self._longest_step)
        self._looked = now
        before, self._quiet = self._quiet, {}
        lost = []
        for one in found:
            beats, quiet = before.get(one.id, (one.beats, -step))
            quiet = quiet + step if beats == one.beats else 0.0
            self._quiet[one.id] = (one.beats, quiet)
            if quiet >= self._seconds:
                lost.append(one)
        return lost


class Heartbeat:
    """Shows that this process lives, from a thread of its own.

    Parameters
    ----------
    work
        Where it is shown.
    executor
        What is shown of the process.
    silent_seconds
        After which others take it for lost.
    clock
        Seconds that only go forward.
    leave
        Ends the process at once, without any effect of its steps.
    """

    def __init__(
        self,
        work: Work,
        executor: Executor,
        silent_seconds: float,
        *,
        clock: Callable[[], float] = forward_clock,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._work = work
        self._executor = executor
        self._every = silent_seconds / BEATS_PER_SILENCE
        self._lease = silent_seconds * LEASE
        self._clock = clock
        self._leave = leave
        self._renewed = threading.Condition()
        self._until = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def id(self) -> str:
        """Of this run of the process."""
        return self._executor.id

    @property
    def every_seconds(self) -> float:
        """The time between two beats."""
        return self._every

    def start(self) -> None:
        """Take the place, and go on showing it."""
        now = self._clock()
        self._work.register(self._executor)
        self._renew(now)
        self._thread.start()

    def check(self) -> None:
        """Let an effect happen only while this process is taken to live.

        Waits while it cannot be shown; ends the process once others have taken
        up its work.

        Raises
        ------
        SQLAlchemyError
            The index cannot be asked.
        """
        with self._renewed:
            while self._clock() >= self._until and not self._stop.is_set():
                self._renewed.wait(self._every)
        if not self._work.is_live(self.id):
            self._end()

    def stop(self) -> None:
        """Say that this process ends: others may take up its work at once."""
        self._stop.set()
        self._thread.join(self._every * 2)
        self._work.stopped(self.id)

    def beat(self) -> None:
        """Show once that this process lives; end it if it counts as lost."""
        now = self._clock()
        try:
            lives = self._work.beat(self.id)
        except SQLAlchemyError as error:
            get_logger("heartbeat").warning("missed", error=type(error).__name__)
            return
        if lives:
            self._renew(now)
        elif not self._stop.is_set():
            self._end()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.beat()

    def _renew(self, shown_at: float) -> None:
        with self._renewed:
            self._until = shown_at + self._lease
            self._renewed.notify_all()

    def _end(self) -> None:
        get_logger("heartbeat").error("taken-for-lost", executor=self.id)
        self._leave(EXIT_LOST)


def living(found: Iterable[Executor]) -> list[Executor]:
    """Return those that are taken to live."""
    return [one for one in found if one.state == LIVE]
