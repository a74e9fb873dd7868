"""A whole gateway whose master key is nowhere on its disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.schema import Receiver
from gateway.app.receivers import processes_of as receiving_processes
from gateway.sealing.envelope import sealed_under
from gateway.sealing.master import key_id_of
from tests.gateway.test_app import SITE, answers, ports, processes_of, serving
from tests.gateway.test_sealing_keys import KEY, TEXT, private
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

NEVER_CLEAR = ("uid.key", "signer.pem", "index.key", "store.key", "master.key")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(f'{SITE}\n[vault]\nmaster_key = "env:HOSPITAL_KEY"\n')
    monkeypatch.setenv("HOSPITAL_KEY", TEXT)
    return path


def test_serve_hands_its_parts_the_key_and_leaves_it_nowhere(site: Path) -> None:
    secrets = site.parent / "data" / "secrets"
    private(secrets / "uid.key", b"of an earlier release, 32 octets")
    receiving = receiving_processes(Receiver())
    with serving(site) as process:
        wait_until(lambda: ports(site) is not None)
        first = ports(site)
        assert first is not None
        assert answers(first["plain_receiver"])
        os.kill(first["pid"], signal.SIGKILL)
        wait_until(lambda: (ports(site) or first)["pid"] != first["pid"])
        wait_until((secrets / "uid.key.sealed").exists)
        # serve, worker, auditor, and a receiver, alone or with those it looks after
        assert len(processes_of(site)) == 3 + 1 + (receiving if receiving > 1 else 0)
        process.terminate()
        assert process.wait() == 0
    assert not set(NEVER_CLEAR) & {path.name for path in secrets.iterdir()}
    sealed = list(secrets.glob("*.sealed"))
    assert sealed
    for path in sealed:
        assert sealed_under(path) == {key_id_of(KEY)}
    for path in site.parent.rglob("*"):
        if path.is_file() and path != site:
            octets = path.read_bytes()
            assert KEY not in octets, path
            assert TEXT.encode() not in octets, path


def test_without_its_key_a_site_says_so(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOSPITAL_KEY")
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "receiver", "--config", str(site)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "HOSPITAL_KEY is not set" in done.stderr
    assert "Traceback" not in done.stderr
