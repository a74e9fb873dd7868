"""Several that receive, on one listening socket: spreading, and bounds over all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from config.load import load_site
from config.schema import Receiver, Site
from gateway.app.openers import open_index_of, open_keys_of, open_store_of
from gateway.app.receivers import processes_of
from gateway.audit.log import AuditLog
from gateway.dicom.counts import (
    CONNECTIONS,
    SLOTS,
    SharedCounts,
    clear_counts,
    make_counts,
)
from gateway.dicom.listener import Parts, Records, Running, Share, listen
from gateway.dicom.ports import bind_ports
from gateway.dicom.rawstore import OutboundObject
from tests.gateway.raw_peer import ACCEPT, REJECT, RawPeer, echo, pdu, raw_peer, request
from tests.gateway.scp import Restorer, access_of, encoded, node, send, site, small
from tests.waiting import wait_until


@pytest.fixture
def counts() -> Iterator[int]:
    descriptor = make_counts(2)
    yield descriptor
    os.close(descriptor)


def test_each_sees_what_the_other_counts_until_it_has_ended(counts: int) -> None:
    ours, theirs = SharedCounts(counts, 0), SharedCounts(counts, 1)
    theirs.change("receive", 2)
    theirs.change("192.0.2.1", 1)
    theirs.change("receive", -1)
    assert ours.elsewhere("receive") == 1
    assert ours.elsewhere("192.0.2.1") == 1
    assert ours.elsewhere("192.0.2.2") == 0
    assert theirs.elsewhere("receive") == 0
    clear_counts(counts, 1)
    assert ours.elsewhere("receive") == 0


def test_who_has_more_connections_than_the_idlest_living_is_ahead(counts: int) -> None:
    ours = SharedCounts(counts, 0)
    ours.change(CONNECTIONS, 3)
    assert ours.ahead() == 0  # nobody else lives
    theirs = SharedCounts(counts, 1)
    assert ours.ahead() == 3
    theirs.change(CONNECTIONS, 2)
    assert (ours.ahead(), theirs.ahead()) == (1, -1)
    clear_counts(counts, 1)
    assert ours.ahead() == 0


def test_more_keys_than_there_are_slots_do_no_harm(counts: int) -> None:
    ours, theirs = SharedCounts(counts, 0), SharedCounts(counts, 1)
    keys = [f"key {number}" for number in range(SLOTS + 10)]
    for key in keys:
        theirs.change(key, 1)
    assert sum(ours.elsewhere(key) for key in keys) == SLOTS
    for key in keys:
        theirs.change(key, -1)
    theirs.change("another", 1)
    assert ours.elsewhere("another") == 1


def test_as_many_processes_as_processors_unless_set() -> None:
    assert processes_of(Receiver(processes=3)) == 3
    assert 1 <= processes_of(Receiver()) <= 4


class Pair:
    """Two receivers as two processes have them, in one."""

    def __init__(self, settings: Site, stack: ExitStack, counts: int) -> None:
        keys = open_keys_of(settings)
        index = open_index_of(settings, keys)
        stack.callback(index.close)
        self.audit = AuditLog(settings.data_directory / "audit" / "audit.jsonl")
        parts = Parts(
            store=open_store_of(settings, keys),
            index=index,
            audit=self.audit,
            records=Records(restore=Restorer(), verify=lambda _row: True),
            access=access_of(settings, index, self.audit),
        )
        sockets = bind_ports(settings)
        self.port = sockets["plain_receiver"].getsockname()[1]
        self.counts = [SharedCounts(counts, number) for number in (0, 1)]
        self.running: list[Running] = []
        for number in (0, 1):
            share = Share(
                number=number,
                counts=self.counts[number],
                sockets={name: s.dup() for name, s in sockets.items()},
            )
            self.running.append(listen(settings, parts, share))
            stack.callback(self.running[-1].stop)
        for listening in sockets.values():
            listening.close()

    def loads(self) -> list[int]:
        return [self.counts[1 - number].elsewhere(CONNECTIONS) for number in (0, 1)]

    def refusals(self) -> list[object]:
        return [e["why"] for e in self.audit.entries() if "why" in e]


@contextmanager
def pair(directory: Path, counts: int, **receiver: int) -> Iterator[Pair]:
    nodes = [node("MODALITY", "store"), node("OTHER", "store")]
    settings = site(directory, receiver=dict(receiver), nodes=nodes)
    with ExitStack() as stack:
        yield Pair(settings, stack, counts)


def associated(stack: ExitStack, port: int, calling: bytes = b"MODALITY") -> RawPeer:
    peer = stack.enter_context(raw_peer(port))
    peer.send(request(calling=calling))
    assert peer.receive()[0] == ACCEPT
    return peer


def rejected(port: int, calling: bytes = b"MODALITY") -> bytes:
    with raw_peer(port) as peer:
        peer.send(request(calling=calling))
        kind, body = peer.receive()
        assert kind == REJECT
        return body[1:]


def test_associations_spread_and_bounds_hold_over_both(
    tmp_path: Path, counts: int
) -> None:
    with pair(tmp_path, counts, max_associations=6) as both, ExitStack() as stack:
        three = [associated(stack, both.port) for _ in range(3)]
        # A node has half of all, however they are spread.
        assert rejected(both.port) == bytes([2, 3, 2])
        wait_until(lambda: sum(both.loads()) == 3)
        assert sorted(both.loads()) == [1, 2]
        others = [associated(stack, both.port, b"OTHER") for _ in range(3)]
        wait_until(lambda: sum(both.loads()) == 6)
        assert sorted(both.loads()) == [3, 3]
        assert both.refusals() == ["too-many-associations-of-node"]
        for peer in (*three, *others):
            peer.send(echo())
            assert peer.receive()[0] == 4
        # Who was told that it is released has its place back at once.
        three[0].send(pdu(5, bytes(4)))
        assert three[0].receive()[0] == 6
        three[0] = associated(stack, both.port)


def test_the_total_holds_over_both(tmp_path: Path, counts: int) -> None:
    bounds = {"max_associations": 3, "max_associations_per_node": 3}
    with pair(tmp_path, counts, **bounds) as both, ExitStack() as stack:
        peers = [associated(stack, both.port) for _ in range(3)]
        assert rejected(both.port, b"OTHER") == bytes([2, 3, 2])
        assert both.refusals() == ["too-many-associations"]
        peers[0].connection.close()
        wait_until(lambda: sum(both.loads()) == 2)
        associated(stack, both.port, b"OTHER")


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
"""


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


@contextmanager
def receiving(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run two receiving processes; the parent, and the port."""
    config.write_text(SITE)
    ports = config.parent / "data" / "run" / "ports.json"
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    with subprocess.Popen([*command, "--config", str(config)]) as process:
        try:
            wait_until(ports.exists, 300)
            yield process, json.loads(ports.read_text())["plain_receiver"]
        finally:
            process.kill()
    assert not ports.exists()


def send_while_one_dies(parent: int, port: int) -> list[OutboundObject]:
    """Send twelve objects, kill -9 a process at the fifth; what was acknowledged."""
    before = children_of(parent)
    acknowledged = []
    for number in range(12):
        if number == 4:
            os.kill(before[0], signal.SIGKILL)
        if number == 8:
            wait_until(lambda: len(children_of(parent)) == 2, 300)
        item = encoded(small(f"1.2.3.{number}"))
        try:
            assert send(port, item) == [0]
        except AssertionError:
            assert number == 4  # it had the connection
        else:
            acknowledged.append(item)
    after = children_of(parent)
    assert before[0] not in after
    assert before[1] in after
    return acknowledged


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_loses_nothing_acknowledged(
    tmp_path: Path,
) -> None:
    config = tmp_path / "site.toml"
    with receiving(config) as (process, port):
        acknowledged = send_while_one_dies(process.pid, port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    assert len(acknowledged) >= 11
    settings = load_site(config, environ={})
    keys = open_keys_of(settings)
    index, store = open_index_of(settings, keys), open_store_of(settings, keys)
    for item in acknowledged:
        row = index.instance(item.sop_instance_uid)
        assert row is not None
        assert store.read_data_set(row.path)[0] == item.data
    index.close()
    trail = AuditLog(tmp_path / "data" / "audit" / "audit.jsonl")
    actions = [entry["action"] for entry in trail.entries()]  # each line is checked
    assert (actions.count("start"), actions.count("stop")) == (1, 1)


@pytest.mark.slow
def test_a_process_that_cannot_start_ends_all_with_its_code(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text(SITE + '[vault]\nmaster_key = "env:NOT_THERE"\n')
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    ended = subprocess.run(
        [*command, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode in {1, 2}
    assert "NOT_THERE" in ended.stderr
