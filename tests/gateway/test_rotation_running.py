"""Rotation beside a receiver that goes on receiving."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of, open_store_of
from gateway.sealing.census import take_census
from tests.gateway.scp import encoded, send, small
from tests.waiting import wait_until

SITE = """\
data_directory = "data"
[receiver]
plain_port = 0
[recovery]
plain_port = 0
[[nodes]]
name = "modality"
ae_titles = ["MODALITY"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]
"""

pytestmark = pytest.mark.slow


@contextmanager
def receiving(config: Path) -> Iterator[int]:
    """Run the receiver as a process of its own; gives its port."""
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    process = subprocess.Popen([*command, "--config", str(config)])
    ports = config.parent / "data" / "run" / "ports.json"
    try:
        wait_until(ports.exists)
        yield json.loads(ports.read_text())["plain_receiver"]
    finally:
        process.terminate()
        assert process.wait(60) == 0


def rotate(config: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "gateway.cli.main", "keys", "rotate", "--json"]
    ended = subprocess.run(
        [*command, "--config", str(config)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told: dict[str, object] = json.loads(ended.stdout)
    return told


def test_a_receiver_goes_on_under_the_new_key(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text(SITE)
    enough, sent = threading.Event(), 0
    with receiving(config) as port:

        def modality() -> None:
            nonlocal sent
            while not enough.is_set():
                objects = [encoded(small(f"1.2.3.{sent}.{n}")) for n in range(1, 6)]
                assert send(port, *objects) == [0] * 5
                sent += 1

        sender = threading.Thread(target=modality)
        sender.start()
        try:
            wait_until(lambda: sent > 0)
            first = rotate(config)["key_id"]
            second = rotate(config)["key_id"]
            before = sent
            wait_until(lambda: sent > before)
        finally:
            enough.set()
            sender.join()

    census = take_census(tmp_path / "data")
    assert first != second
    assert set(census.under) == {second}
    site = load_site(config)
    keys = open_keys_of(site)
    store, index = open_store_of(site, keys), open_index_of(site, keys)
    try:
        received = index.instances_in_state("received")
        assert len(received) == 5 * sent
        for instance in received:
            digest = store.digest(instance.path, data_set=True)
            assert digest == instance.sha256
    finally:
        index.close()
