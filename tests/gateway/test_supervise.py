from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.supervise import Child, Supervisor
from tests.waiting import wait_until

# A child that says who it is, then waits until its lifeline or a signal ends it.
CHILD = """
import os, signal, sys
from gateway.supervise import end_with_parent
end_with_parent(int(sys.argv[2]))
with open(sys.argv[1], "a") as note:
    note.write(f"{os.getpid()}\\n")
signal.pause()
"""

STUBBORN = (
    CHILD.replace("signal.pause()", "")
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.pause()
"""
)

# A supervisor of its own process, for the test that kills it.
PARENT = """
import sys
from gateway.supervise import Child, Supervisor
command = [sys.executable, "-c", sys.argv[1], sys.argv[2], "{lifeline}"]
Supervisor([Child(name="child", command=command)], 5.0).run()
"""


def child(note: Path, code: str = CHILD) -> Child:
    command = [sys.executable, "-c", code, str(note), "{lifeline}"]
    return Child(name="child", command=command)


@contextmanager
def supervised(supervisor: Supervisor) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield thread
    finally:
        supervisor.stop()
        thread.join()


def pids(note: Path) -> list[int]:
    return [int(line) for line in note.read_text().split()] if note.exists() else []


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be reaped does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return False
    return fields[0] != "Z"


def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    with supervised(Supervisor([child(note)], 10.0)):
        wait_until(lambda: len(pids(note)) == 1)
        os.kill(pids(note)[0], signal.SIGKILL)
        wait_until(lambda: len(pids(note)) == 2)

    assert not any(is_alive(pid) for pid in pids(note))


def test_a_stop_ends_every_child(tmp_path: Path) -> None:
    notes = [tmp_path / "one", tmp_path / "two"]
    with supervised(Supervisor([child(note) for note in notes], 10.0)):
        wait_until(lambda: all(pids(note) for note in notes))

    assert not any(is_alive(pid) for note in notes for pid in pids(note))


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    with supervised(Supervisor([child(note, STUBBORN)], 0.5)):
        wait_until(lambda: bool(pids(note)))

    assert not is_alive(pids(note)[0])


def test_kill_9_of_the_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    command = [sys.executable, "-c", PARENT, CHILD, str(note)]
    with subprocess.Popen(command) as parent:
        wait_until(lambda: bool(pids(note)))
        parent.kill()

    wait_until(lambda: not is_alive(pids(note)[0]))


def test_a_lifeline_that_is_open_ends_nothing() -> None:
    reading, writing = os.pipe()
    code = (
        "import sys, threading\n"
        "from gateway.supervise import end_with_parent\n"
        "end_with_parent(int(sys.argv[1]))\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(reading)]
    with subprocess.Popen(
        command, pass_fds=(reading,), stdin=subprocess.PIPE
    ) as process:
        os.close(reading)
        process.communicate(b"")
        assert process.returncode == 0
    os.close(writing)
