"""The named points exist, and what is ordered at one is done once, there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.faults.launcher import VARIABLE, Controls, Order, role_of
from tests.faults.points import POINTS, Point
from tests.faults.site import BOOTSTRAP, ROOT

SYNC = "incoming.sync:before"

WRITE = """
import sys
from pathlib import Path
from gateway.store.durable import write_durably
for number in range(int(sys.argv[2])):
    try:
        write_durably(Path(sys.argv[1]), b"octets")
    except Exception as error:
        print(type(error).__name__)
print("end")
"""


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_is_a_function_of_the_product(point: Point) -> None:
    holder = import_module(point.module)
    *classes, name = point.function.split(".")
    for one in classes:
        holder = getattr(holder, one)
    assert callable(vars(holder)[name])


def test_names_say_when() -> None:
    assert len({point.name for point in POINTS}) == len(POINTS)
    for point in POINTS:
        assert point.name.endswith(f":{point.when}")


def write(folder: Path, times: int = 1) -> subprocess.CompletedProcess[str]:
    """A process under test that writes a file durably, so often."""
    own = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(BOOTSTRAP)]),
        VARIABLE: str(folder / "points"),
    }
    return subprocess.run(
        [sys.executable, "-c", WRITE, str(folder / "file"), str(times)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **own},
    )


def test_nothing_ordered_nothing_done(tmp_path: Path) -> None:
    controls = Controls(tmp_path / "points")
    done = write(tmp_path)
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert not controls.fired(SYNC)


def test_a_process_dies_exactly_there_and_only_once(tmp_path: Path) -> None:
    controls = Controls(tmp_path / "points")
    controls.arm(SYNC, Order(action="kill"))
    assert write(tmp_path).returncode == -signal.SIGKILL
    assert controls.fired(SYNC)
    assert not (tmp_path / "file").exists()
    assert write(tmp_path).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"octets"


def test_errors_come_as_the_operating_system_gives_them(tmp_path: Path) -> None:
    controls = Controls(tmp_path / "points")
    controls.arm("os.fsync:before", Order(action="ENOSPC", skip=1))
    done = write(tmp_path, times=3)
    assert done.stdout.splitlines() == ["StoreFull", "end"]


def test_an_order_may_stay(tmp_path: Path) -> None:
    controls = Controls(tmp_path / "points")
    controls.arm(SYNC, Order(action="EROFS", always=True))
    done = write(tmp_path, times=3)
    assert done.stdout.splitlines() == ["OSError"] * 3 + ["end"]
    assert controls.disarm(SYNC)
    assert write(tmp_path).stdout == "end\n"


def test_an_order_for_another_kind_of_process_is_left_alone(tmp_path: Path) -> None:
    controls = Controls(tmp_path / "points")
    controls.arm(SYNC, Order(action="kill", role="worker"))
    assert write(tmp_path).returncode == 0
    assert not controls.fired(SYNC)
    assert role_of(["python", "-m", "gateway.cli.main", "worker", "--slot"]) == "worker"
