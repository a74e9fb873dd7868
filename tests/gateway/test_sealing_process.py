"""Processes that hold keys leave no core and nothing others may read."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HELD = """
import os, resource, sys
from gateway.sealing.process import harden_process
most = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
if sys.argv[1] == "harden":
    harden_process()
open("made", "w").close()
os.mkdir("folder")
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def child(folder: Path, how: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HELD, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        },
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def core_limit(pid: int) -> list[str]:
    limits = Path(f"/proc/{pid}/limits").read_text()
    (line,) = (each for each in limits.splitlines() if each.startswith("Max core"))
    return line.split()[4:6]


@LINUX
def test_a_hardened_process_is_closed_to_others(tmp_path: Path) -> None:
    with child(tmp_path, "harden") as process:
        assert core_limit(process.pid) == ["0", "0"]
        # The kernel gives the files of what is not dumpable to root (proc(5)).
        assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert dumpable(tmp_path, "harden") == 0
    assert dumpable(tmp_path, "leave") == 1


def dumpable(folder: Path, how: str) -> int:
    """What the kernel says of a process of that kind (PR_GET_DUMPABLE)."""
    code = (
        "import ctypes, sys\nfrom gateway.sealing.process import harden_process\n"
        "if sys.argv[1] == 'harden': harden_process()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, how],
        stdout=subprocess.PIPE,
        check=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        },
    )
    return int(done.stdout)


@LINUX
@pytest.mark.parametrize("signal_", [signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT])
def test_no_core_is_left(tmp_path: Path, signal_: signal.Signals) -> None:
    with child(tmp_path, "harden") as process:
        process.send_signal(signal_)
        status = os.waitpid(process.pid, 0)[1]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal_
    assert not os.WCOREDUMP(status)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "made"]


@LINUX
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="no cores here at all"
)
def test_without_it_there_would_be_a_core(tmp_path: Path) -> None:
    with child(tmp_path, "leave") as process:
        process.send_signal(signal.SIGABRT)
        status = os.waitpid(process.pid, 0)[1]
    assert os.WCOREDUMP(status)


@LINUX
def test_the_command_line_is_hardened_before_it_does_anything(tmp_path: Path) -> None:
    """Whatever the command: here one that waits for a lock on the data directory."""
    import fcntl

    data = tmp_path / "data"
    (data / "run").mkdir(parents=True)
    site = tmp_path / "site.toml"
    site.write_text(f'data_directory = "{data}"\n[vault]\nmaster_key = "env:NONE"\n')
    with (data / "run" / "serve.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.main", "serve", "--config", str(site)],
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            try:
                assert any(b"waiting-for-other" in line for line in process.stderr)
                assert core_limit(process.pid) == ["0", "0"]
                assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
            finally:
                process.kill()
