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

TICKING = """
import threading
from gateway.app import process

def tick():
    print("ticks", flush=True)
    threading.Event().wait()

process.TICK_SECONDS = 0.01
process.wait_for_stop(lambda: None, tick)
"""

# The signal comes while the main thread holds the lock that acting on it needs.
HOLDING = """
import os, signal, threading, time
from gateway.supervise import on_stop_signal

lock = threading.Lock()
acted = threading.Event()

def act():
    with lock:
        acted.set()

with on_stop_signal(act):
    with lock:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    assert acted.wait(30)
"""


def test_a_stop_signal_does_not_wait_for_the_thread_it_interrupts() -> None:
    subprocess.run([sys.executable, "-c", HOLDING], check=True, timeout=60)


def stopped(script: str, first: str) -> tuple[int, str]:
    """Ask a process to stop once it has said this; its exit code and what it told."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == f"{first}\n"
        child.send_signal(signal.SIGTERM)
        told, _ = child.communicate(timeout=60)
    return child.returncode, told


def test_a_stop_does_not_wait_for_the_clock() -> None:
    code, told = stopped(TICKING, "ticks")
    assert code == 0
    assert "stop-cut-short" not in told


def test_a_stop_that_hangs_is_cut_short_and_says_where_it_hung() -> None:
    code, told = stopped(STUCK, "ready")
    assert code == 0
    assert "stop-cut-short" in told
    assert "threading.py" in told  # where the main thread was
