"""Keep child processes running, and end them with their parent.

The supervisor holds the writing end of a pipe whose reading end each child
watches. However the supervisor ends, kill -9 included, the pipe closes and the
children go: no orphan keeps a port or goes on working.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from gateway.log import get_logger

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that lived so long starts again with the first wait."""

EXIT_ORPHANED = 75


@dataclass(frozen=True, kw_only=True)
class Child:
    """What to run; ``{lifeline}`` in an argument becomes the pipe's descriptor.

    ``descriptors``: others that it inherits.
    """

    name: str
    command: Sequence[str]
    descriptors: tuple[int, ...] = ()


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    wait_seconds: float = FIRST_WAIT_SECONDS
    due: float = field(default_factory=time.monotonic)


class Supervisor:
    """Starts children, starts them again when they end, stops them together.

    Parameters
    ----------
    children
        The processes.
    stop_seconds
        How long a stop waits before it kills.
    ended
        Told of every child that ends by itself, with its exit code, before it is
        started again; it may ask for a stop.
    """

    def __init__(
        self,
        children: Sequence[Child],
        stop_seconds: float,
        ended: Callable[[Child, int | None], None] = lambda _child, _code: None,
    ) -> None:
        self._ended = ended
        self._children = [_Running(child) for child in children]
        self._stop_seconds = stop_seconds
        self._events: SimpleQueue[_Running | None] = SimpleQueue()
        self._lifeline, self._hold = os.pipe()
        self._stopping = False

    def stop(self) -> None:
        """Ask `run` to end; may be called in any thread."""
        self._stopping = True
        self._events.put(None)

    def run(self) -> None:
        """Supervise until `stop`; returns when every child has ended."""
        try:
            while not self._stopping:
                self._start_due()
                self._wait_for_event()
        finally:
            self._end_all()
            os.close(self._lifeline)
            os.close(self._hold)

    def _start_due(self) -> None:
        now = time.monotonic()
        for running in self._children:
            if running.process is None and running.due <= now:
                self._start(running)

    def _start(self, running: _Running) -> None:
        command = [
            part.replace("{lifeline}", str(self._lifeline))
            for part in running.child.command
        ]
        running.process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            pass_fds=(self._lifeline, *running.child.descriptors),
            stdin=subprocess.DEVNULL,
        )
        running.started = time.monotonic()
        get_logger("supervisor").info(
            "started", child=running.child.name, pid=running.process.pid
        )
        threading.Thread(
            target=self._report_end, args=(running, running.process), daemon=True
        ).start()

    def _report_end(self, running: _Running, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._events.put(running)

    def _wait_for_event(self) -> None:
        waiting = [r.due for r in self._children if r.process is None]
        timeout = max(0.0, min(waiting) - time.monotonic()) if waiting else None
        try:
            ended = self._events.get(timeout=timeout)
        except Empty:
            return
        if ended is not None and not self._stopping:
            self._plan_restart(ended)

    def _plan_restart(self, ended: _Running) -> None:
        now = time.monotonic()
        if now - ended.started >= STEADY_SECONDS:
            ended.wait_seconds = FIRST_WAIT_SECONDS
        code = ended.process.returncode if ended.process is not None else None
        get_logger("supervisor").error(
            "ended", child=ended.child.name, code=code, again_in=ended.wait_seconds
        )
        self._ended(ended.child, code)
        ended.process = None
        ended.due = now + ended.wait_seconds
        ended.wait_seconds = min(2 * ended.wait_seconds, LONGEST_WAIT_SECONDS)

    def _end_all(self) -> None:
        """Ask all to end together; kill who has not in time, and say so.

        What a killed one had in hand is taken up again at the next start, as
        after a power cut.
        """
        alive = [
            (running.child.name, running.process)
            for running in self._children
            if running.process is not None
        ]
        for _, process in alive:
            process.terminate()
        deadline = time.monotonic() + self._stop_seconds
        for name, process in alive:
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                get_logger("supervisor").error(
                    "killed", child=name, after=self._stop_seconds
                )
                process.kill()
                process.wait()
            else:
                get_logger("supervisor").info("stopped", child=name, code=code)


def end_with_parent(lifeline: int) -> None:
    """End this process at once when the other end of the pipe closes.

    At once, as a power cut would: everything acknowledged is durable, and what
    was under way is taken up again.
    """

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


@contextmanager
def on_stop_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` at SIGTERM and SIGINT while the block lasts.

    In a thread of its own: a handler interrupts the main thread anywhere, also where
    it holds the very lock that ``act`` has to have, and would wait for itself.
    """
    asked: SimpleQueue[bool] = SimpleQueue()

    def handle(_number: int, _frame: object) -> None:
        asked.put(True)

    def watch() -> None:
        while asked.get():
            act()

    thread = threading.Thread(target=watch, name="stop-signal", daemon=True)
    thread.start()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        asked.put(False)
        thread.join()
