"""The processes of a gateway, as a service manager meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE

from gateway.supervise import EXIT_ORPHANED
from tests.waiting import wait_until

SITE = """\
data_directory = "data"

[receiver]
processes = 2
plain_port = 0

[recovery]
plain_port = 0

[[nodes]]
name = "modality"
ae_titles = ["MODALITY"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = 11130
plain = true

[[routing.rules]]
name = "all"
when = "true"
destinations = ["outside"]
protect = true
"""

PROCESSES = 6
"""serve, worker, auditor, receiver, and two that receive."""

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return path


@contextmanager
def serving(site: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (site.parent / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.main", "serve", "--config", str(site)],
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not processes_of(site))


def ports(site: Path) -> dict[str, Any] | None:
    path = site.parent / "data" / "run" / "ports.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found


def processes_of(site: Path) -> list[int]:
    """Return the processes whose command line names this site."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(site).encode() in command:
                found.append(int(entry.name))
    return found


def answers(port: int) -> bool:
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", port, ae_title="MIAD-GATEWAY")
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0


def test_serve_listens_and_stops_cleanly(site: Path) -> None:
    with serving(site) as process:
        wait_until(lambda: ports(site) is not None)
        found = ports(site)
        assert found is not None
        assert answers(found["plain_receiver"])
        assert len(processes_of(site)) == PROCESSES

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

        assert ports(site) is None
        assert processes_of(site) == []


def test_a_killed_receiver_is_started_again(site: Path) -> None:
    with serving(site):
        wait_until(lambda: ports(site) is not None)
        before = ports(site)
        assert before is not None
        os.kill(before["pid"], signal.SIGKILL)
        wait_until(lambda: (ports(site) or before)["pid"] != before["pid"])
        after = ports(site)
        assert after is not None
        assert answers(after["plain_receiver"])


def test_kill_9_of_serve_leaves_no_process_and_a_new_one_starts(site: Path) -> None:
    with serving(site) as process:
        wait_until(lambda: len(processes_of(site)) == PROCESSES)
        process.kill()
        process.wait()
        wait_until(lambda: not processes_of(site))
    with serving(site):
        wait_until(lambda: ports(site) is not None)
        found = ports(site)
        assert found is not None
        wait_until(lambda: answers((ports(site) or found)["plain_receiver"]))


RECEIVER = """
import json, os, signal, sys, threading
from pathlib import Path
from gateway.app.receiver import run_receiver
from tests.waiting import wait_until

site, ports, note = map(Path, sys.argv[1:])

def report():
    wait_until(ports.exists)
    note.write_text(json.dumps(sorted(sys.modules)))
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=report).start()
run_receiver(site)
"""


def test_the_receiving_process_never_loads_torch(site: Path, tmp_path: Path) -> None:
    note = tmp_path / "modules.json"
    run = tmp_path / "data" / "run" / "ports.json"
    command = [sys.executable, "-c", RECEIVER, str(site), str(run), str(note)]

    subprocess.run(command, check=True, timeout=60)

    modules = set(json.loads(note.read_text()))
    assert "gateway.dicom.listener" in modules
    assert not modules & {"torch", "timm", "torchvision", "dbos", "sklearn"}


@pytest.mark.parametrize("part", ["receiver", "worker", "auditor", "web"])
def test_a_child_ends_with_its_supervisor_before_it_loads_anything(
    part: str, tmp_path: Path
) -> None:
    """Loading takes seconds; so long a part left behind would keep its lock."""
    ours, others = os.pipe()
    os.close(others)
    missing = tmp_path / "missing.toml"  # would be told of by who goes on
    command = [sys.executable, "-m", "gateway.cli.main", part]
    options = ["--config", str(missing), "--lifeline", str(ours)]
    ended = subprocess.run(
        [*command, *options],
        pass_fds=(ours,),
        capture_output=True,
        check=False,
        timeout=60,
    )
    os.close(ours)
    assert ended.returncode == EXIT_ORPHANED, ended.stderr.decode()
