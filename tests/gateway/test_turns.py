"""Turns at writing one SQLite file."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.store.turns import Turns
from tests.waiting import wait_until

HOLDS = """
import sys
from pathlib import Path
from gateway.store.turns import Turns

with Turns(Path(sys.argv[1]), 60.0)():
    print("has it", flush=True)
    sys.stdin.read()
"""


def test_a_process_waits_for_another_and_goes_on_when_it_is_killed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "index.sqlite"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has it\n"
        passed = threading.Event()

        def write() -> None:
            with Turns(path, 60.0)():
                passed.set()

        waiting = threading.Thread(target=write)
        waiting.start()
        assert not passed.wait(0.2)
        other.kill()
        assert passed.wait(30)
        waiting.join()


def test_patience_ends_and_sqlite_decides(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    now = iter([0.0, 0.0, 10.0, 61.0])
    with Turns(path, 60.0)(), Turns(path, 60.0, lambda: next(now))():
        assert list(now) == []


def test_where_no_lock_can_be_made_nobody_waits(tmp_path: Path) -> None:
    with Turns(tmp_path / "absent" / "index.sqlite", 60.0)():
        pass
    assert list(tmp_path.iterdir()) == []


def test_threads_take_turns_and_a_failure_ends_one(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "index.sqlite", 60.0)
    inside: list[int] = []
    most: list[int] = []

    def write(number: int) -> None:
        with turns():
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with pytest.raises(ValueError, match="in the block"), turns():
        raise ValueError("in the block")
    threads = [threading.Thread(target=write, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(most) == 20)
    assert max(most) == 1
