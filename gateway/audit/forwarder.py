"""Sends the trail to a collector; the trail itself is the spool.

Lines go out in order as they are written. Only what a collector has read for
certain is passed by the cursor; after a connection that broke, or a kill -9,
everything behind the cursor goes out again: at least once, never less. A
collector that is away for days finds all lines when it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.audit.chain import Field, Line, Link
from gateway.audit.collector import Connect, Delivery
from gateway.audit.cursor import Cursor
from gateway.audit.log import AuditLog
from gateway.audit.segments import Follower, has_line
from gateway.errors import AuditBroken, StoreFull
from gateway.log import described

LOG = structlog.get_logger(component="audit")

Translate = Callable[[Line], bytes]

BROKEN: Final = "audit-broken"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast and how long.

    Attributes
    ----------
    poll_seconds
        How often to look for new lines.
    window_lines, window_seconds
        After so many lines, or so long after the first, the collector has to
        confirm; so many may go out twice.
    retry_first_seconds, retry_cap_seconds
        Waits after failures: doubled from the first to the cap.
    """

    poll_seconds: float = 0.5
    window_lines: int = 1000
    window_seconds: float = 10.0
    retry_first_seconds: float = 1.0
    retry_cap_seconds: float = 60.0


class Forwarder:
    """Brings lines to a collector.

    Parameters
    ----------
    audit
        The trail.
    cursor
        The last line that the collector has for certain.
    connect
        Returns a new connection to it, or raises OSError.
    translate
        Makes of a line the frames that are sent; empty: nothing is.
    timeout_seconds
        How long a write, and the end of a connection, may take.
    """

    def __init__(
        self,
        audit: AuditLog,
        cursor: Cursor,
        connect: Connect,
        translate: Translate,
        *,
        timeout_seconds: float = 30.0,
        pace: Pace | None = None,
    ) -> None:
        self._audit = audit
        self._cursor = cursor
        self._connect = connect
        self._translate = translate
        self._timeout = timeout_seconds
        self._pace = pace or Pace()
        self._reached = True
        self._follower: Follower | None = None

    def run(self, stop: threading.Event) -> None:
        """Forward until told to stop."""
        try:
            self._run(stop)
        finally:
            self.close()

    def close(self) -> None:
        """Let the trail go; `forward` takes it up again at the cursor."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _run(self, stop: threading.Event) -> None:
        wait = self._pace.retry_first_seconds
        while not stop.is_set():
            try:
                idle = not self.forward(stop)
            except (OSError, StoreFull) as error:
                self._tell(error)
                stop.wait(wait)
                wait = min(2 * wait, self._pace.retry_cap_seconds)
            except AuditBroken as error:
                wait = self._reported(error, wait, stop)
            else:
                wait = self._pace.retry_first_seconds
                if idle:
                    stop.wait(self._pace.poll_seconds)

    def forward(self, stop: threading.Event) -> bool:
        """Send one window, if there is anything; the cursor passes it at the end.

        Returns
        -------
        bool
            Whether there was.

        Raises
        ------
        OSError
            It is not certain that the collector has it.
        AuditBroken
            The trail is not the one that was sent before, or was changed.
        """
        try:
            follower = self._follower = self._follower or self._begin()
            lines = follower.read()
            if lines:
                self._send_window(follower, lines, stop)
                self._cursor.save(follower.last)
                self._tell_back(follower.last)
        except BaseException:
            self.close()  # whatever went wrong: again from the cursor
            raise
        return bool(lines)

    def _begin(self) -> Follower:
        """Return a reader of what comes after the cursor."""
        begin = self._cursor.load()
        if not has_line(self._audit.path, begin):
            raise AuditBroken(
                f"Line {begin.count} of {self._audit.path} is not the one that was"
                " sent to the collector: the trail was cut or made anew",
                self._audit.path,
                begin.count,
            )
        return Follower(self._audit.path, begin)

    def _send_window(
        self, follower: Follower, lines: list[Line], stop: threading.Event
    ) -> None:
        """Send lines as they come, and have the collector confirm them."""
        frames = self._frames(lines)
        delivery: Delivery | None = None
        sent = 0
        end = time.monotonic() + self._pace.window_seconds
        try:
            while True:
                if frames:
                    delivery = delivery or Delivery(self._connect(), self._timeout)
                    delivery.send(frames)
                sent += len(lines)
                full = sent >= self._pace.window_lines
                if full or stop.is_set() or time.monotonic() >= end:
                    break
                lines = _read_more(follower)
                frames = self._frames(lines)
                if not lines:
                    if delivery is None:
                        return  # nothing of these lines leaves
                    delivery.check()
                    stop.wait(self._pace.poll_seconds)
            if delivery is not None:
                delivery.confirm()
        finally:
            if delivery is not None:
                delivery.abandon()

    def _frames(self, lines: list[Line]) -> bytes:
        return b"".join(self._translate(line) for line in lines)

    def _tell(self, error: Exception) -> None:
        """Log the first failure of a row."""
        if self._reached:
            LOG.warning("collector-away", error=described(error))
            self._reached = False

    def _tell_back(self, link: Link) -> None:
        if not self._reached:
            LOG.info("collector-back", line=link.count)
            self._reached = True

    def _reported(
        self, error: AuditBroken, wait: float, stop: threading.Event
    ) -> float:
        """Report a broken trail, and go on; wait where not even that can be."""
        try:
            self._cursor.save(record_broken(self._audit, error))
        except (OSError, AuditBroken) as second:
            LOG.error("audit-broken", error=str(second))  # noqa: TRY400
            stop.wait(wait)
            return min(2 * wait, self._pace.retry_cap_seconds)
        return self._pace.retry_first_seconds


def record_broken(audit: AuditLog, error: AuditBroken) -> Link:
    """Put an alarm into the trail, and return the place before it.

    Who follows the trail goes on there: what lies between is for ``audit
    verify``, and for people.

    Raises
    ------
    OSError, AuditBroken
        Not even that can be written.
    """
    LOG.error("audit-broken", error=str(error))
    before: list[Link] = []

    def make(last: Link, _at: str) -> dict[str, Field]:
        before.append(last)
        return {"error": str(error), "line": error.line}

    audit.record_over(BROKEN, make, "failure")
    return before[0]


def _read_more(follower: Follower) -> list[Line]:
    """Return the next lines; where the trail is broken, that shows next time."""
    try:
        return follower.read()
    except AuditBroken:
        return []
