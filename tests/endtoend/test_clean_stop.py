"""SIGTERM under load, and an upgrade of what an earlier build left half done."""

from __future__ import annotations

import json
import tarfile
import threading
import time
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.dicom.rawstore import OutboundObject
from gateway.errors import GatewayError
from gateway.store.part10 import FileMeta, encode_head
from tests.endtoend.support import OUTSIDE, WORKSTATION, Gateway, Ports, StorageNode
from tests.gateway.scp import encoded, example, send

VECTORS = Path(__file__).parents[1] / "vectors"
SENDERS = 4
STOP_SECONDS = 60.0
"""`worker.stop_seconds` and some: what a service manager has to allow."""

KEPT = """
[[routing.rules]]
name = "stays"
when = 'true'
destinations = ["outside"]
protect = true
non_images = "drop"
"""


def objects(sender: int) -> list[OutboundObject]:
    """As many as a sender has time for, each with a UID of its own."""
    item = example("CT_small.dcm")
    assert isinstance(item.data, bytes)
    meta = FileMeta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
    )
    made = []
    for number in range(400):
        dataset = dcmread(BytesIO(encode_head(meta) + item.data))
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{sender}.{number}"
        dataset.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.{sender}"
        made.append(encoded(dataset))
    return made


class Sender(threading.Thread):
    """Sends until the gateway goes; remembers what was acknowledged."""

    def __init__(self, number: int, port: int) -> None:
        super().__init__()
        self.items = objects(number)
        self.port = port
        self.acknowledged: list[str] = []

    def run(self) -> None:
        for start in range(0, len(self.items), 5):
            some = self.items[start : start + 5]
            for item in some:
                try:
                    (status,) = send(self.port, item)
                except (GatewayError, OSError, AssertionError, ValueError):
                    return
                if status != 0:
                    return
                self.acknowledged.append(item.sop_instance_uid)


@pytest.mark.slow
def test_a_stop_under_load_loses_nothing(tmp_path: Path) -> None:
    outside, station = StorageNode(OUTSIDE), StorageNode(WORKSTATION)
    with outside, station:
        ports = Ports(outside=outside.port, workstation=station.port)
        gateway = Gateway(tmp_path, ports, KEPT)
        with gateway:
            senders = [Sender(n, gateway.ports.receiver) for n in range(1, SENDERS + 1)]
            for sender in senders:
                sender.start()
            gateway.wait(lambda: sum(len(s.acknowledged) for s in senders) >= 40)
            begun = time.monotonic()
            code = gateway.stop(STOP_SECONDS)
            took = time.monotonic() - begun
            for sender in senders:
                sender.join(60)
            assert code == 0
            assert took < STOP_SECONDS
            log = gateway.log.read_text()
            assert "killed" not in log
            assert not (gateway.data / "run" / "ports.json").exists()
            with closing(gateway.index()) as index:
                sent = {uid for s in senders for uid in s.acknowledged}
                known = {uid for uid in sent if index.instance(uid) is not None}
                assert len(sent) >= 40
                assert known == sent
    assert list((gateway.data / "store" / "incoming").iterdir()) == []
    ends = [
        json.loads(line)["process"]
        for line in (gateway.data / "audit" / "audit.jsonl").read_text().splitlines()
        if json.loads(line)["action"] == "stop"
    ]
    assert sorted(ends) == ["auditor", "receiver", "serve", "worker"]


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_jobs_of_an_earlier_build_are_taken_over(tmp_path: Path, revision: str) -> None:
    """It was killed while a study was owed to a node that was down."""
    told = json.loads((VECTORS / f"site-{revision}.json").read_text())
    outside, station = StorageNode(OUTSIDE), StorageNode(WORKSTATION)
    with outside, station:
        ports = Ports(outside=outside.port, workstation=station.port)
        gateway = Gateway(tmp_path, ports)
        gateway.data.mkdir(mode=0o700)
        with tarfile.open(VECTORS / f"site-{revision}.tar.xz") as packed:
            packed.extractall(gateway.data, filter="data")
        for path in (gateway.data / "secrets").iterdir():
            path.chmod(0o600)
        with gateway:
            gateway.wait(lambda: len(outside.arrivals) >= len(told["owed"]))
            with closing(gateway.index()) as index:
                gateway.wait(
                    lambda: {r.state for r in index.revisions()} == {"delivered"}
                )
                owed = [index.instance(uid) for uid in told["owed"]]
                parts = [index.protected_of(i.id) for i in owed if i is not None]
            assert gateway.stop(STOP_SECONDS) == 0
        arrived = {
            str(dcmread(BytesIO(a.part10), stop_before_pixels=True).SOPInstanceUID)
            for a in outside.arrivals
        }
        assert arrived == {part.sop_instance_uid for part in parts if part is not None}
