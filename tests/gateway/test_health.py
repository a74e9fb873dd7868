from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.app.places import Places
from gateway.cli.main import build_app


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text("data_directory = 'data'\n")
    (tmp_path / "data" / "run").mkdir(parents=True)
    return path


def health(site: Path, process: str = "receiver") -> Result:
    return CliRunner().invoke(build_app(), ["health", process, "--config", str(site)])


@contextmanager
def running(site: Path, process: str) -> Iterator[Places]:
    """What a process of that name holds while it runs."""
    places = Places(site.parent / "data")
    with places.lock(process).open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield places


def test_what_does_not_run_is_not_well(site: Path) -> None:
    assert (health(site).exit_code, health(site).stderr) == (
        1,
        "receiver: does not run\n",
    )
    with running(site, "receiver"):
        pass
    assert health(site).exit_code == 1


def test_a_worker_is_well_while_it_runs(site: Path) -> None:
    with running(site, "worker-1"):
        assert health(site, "worker-1").exit_code == 0
        assert health(site, "worker-0").exit_code == 1


def test_a_receiver_is_well_when_all_its_ports_answer(site: Path) -> None:
    with (
        running(site, "receiver") as places,
        socket.create_server(("127.0.0.1", 0)) as s,
    ):
        assert "does not listen yet" in health(site).stderr
        ports = {"receiver": s.getsockname()[1], "plain_receiver": None, "pid": 1}
        places.ports.write_text(json.dumps(ports))
        assert health(site).exit_code == 0
        s.close()
        told = health(site)
        assert told.exit_code == 1
        assert "takes no connection" in told.stderr
