"""A process that was asked to stop ends, whatever one of its threads is at."""

from __future__ import annotations

import signal
import subprocess
import sys

STUCK = """
import threading
from gateway.app import process

process.LONGEST_STOP_SECONDS = 0.2
process.wait_for_stop(lambda: print("ready", flush=True), lambda: None)
threading.Event().wait()
"""


def test_a_stop_that_hangs_is_cut_short_and_says_where_it_hung() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        told, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "stop-cut-short" in told
    assert "threading.py" in told  # where the main thread was
