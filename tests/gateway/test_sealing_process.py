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
from typing import Any

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HELD = """
import os, resource, signal, sys
from gateway.sealing.process import harden_process
most = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
# Whoever started this in the background has it ignore some.
for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
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
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


NOBODY = 65534

PROBED = """
import ctypes, os, sys
from gateway.sealing.process import harden_process
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a service that never was root
if sys.argv[1] == "harden":
    harden_process()
print("ready", flush=True)
sys.stdin.readline()
"""


@LINUX
@pytest.mark.parametrize(("how", "readable"), [("leave", True), ("harden", False)])
def test_others_of_the_same_user_cannot_look_into_it(how: str, readable: bool) -> None:
    """Neither the environment of its start nor its memory, without being root."""
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    options: dict[str, Any] = as_nobody if os.getuid() == 0 else {}
    with subprocess.Popen(
        [sys.executable, "-c", PROBED, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "SECRET_OF_THE_TEST": "visible"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            for name, shown in (("environ", b"SECRET_OF_THE_TEST"), ("maps", b"stack")):
                done = subprocess.run(
                    ["cat", f"/proc/{process.pid}/{name}"],
                    **options,
                    capture_output=True,
                    check=False,
                )
                assert (shown in done.stdout) is readable
        finally:
            process.kill()


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
    site.write_text(
        f'data_directory = "{data}"\n[vault]\nmaster_key = "env:NONE"\n'
        "[receiver]\nplain_port = 0\n[recovery]\nplain_port = 0\n"
    )
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
            finally:
                process.kill()
