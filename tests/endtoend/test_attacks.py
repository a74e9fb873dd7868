"""Attacks on a real gateway process: others are served, memory stays bounded.

The figures asserted here are those that docs/security.md states.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE

from gateway.demo.nodes import send_cases
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.status import StoreStatus
from tests.endtoend.attacks import (
    MEBIBYTE,
    Process,
    silent,
    slow_data,
    slow_handshakes,
    slow_requests,
)
from tests.endtoend.peers import dcmtk
from tests.endtoend.support import GATEWAY, MODALITY, Gateway, Ports
from tests.endtoend.test_bad_input import case, image
from tests.gateway.pki_cases import pki_of
from tests.gateway.raw_peer import VERIFICATION
from tests.gateway.scp import encoded, send
from tests.gateway.test_limits_data_sets import bomb, nested

pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.timeout(600)]

SERVED_SECONDS = 10.0
"""Within which a well-behaved peer is served during an attack, on a busy machine."""
MOST_GROWTH_BYTES = 96 * MEBIBYTE
"""Of a process during an attack, over its memory before."""

LIMITS = """
[limits]
request_seconds = 5.0
handshake_seconds = 5.0
pdu_seconds = 5.0

[tls]
certificate = "{certificate}"
key = "{key}"
authorities = ["{authority}"]

[routing]
rules = []
"""


@dataclass
class Target:
    """The gateway under attack, and what it has acknowledged."""

    gateway: Gateway
    port: int
    """Without TLS."""
    tls_port: int
    supervisor: Process
    receiver: Process
    worker: Process
    acknowledged: list[str] = field(default_factory=list)

    def echo(self) -> None:
        entity = AE("STORESCU")
        entity.add_requested_context(VERIFICATION.decode())
        association = entity.associate("127.0.0.1", self.port, ae_title=GATEWAY)
        assert association.is_established
        assert association.send_c_echo().Status == 0
        association.release()

    def store(self) -> None:
        good = case("good", image())
        sent = send_cases(
            [good], calling_ae=MODALITY, called_ae=GATEWAY, port=self.port
        )
        assert sent == [0]
        self.acknowledged.append(good.sop_instance_uid)

    def store_with_dcmtk(self, directory: Path) -> None:
        good = case("good", image())
        path = directory / "good.dcm"
        path.write_bytes(good.part10)
        options = ("-aet", "STORESCU", "-aec", GATEWAY)
        done = dcmtk("storescu", *options, "127.0.0.1", str(self.port), str(path))
        assert done.returncode == 0, done.stderr
        self.acknowledged.append(good.sop_instance_uid)

    def incoming(self) -> list[Path]:
        """Objects that have not come whole."""
        return [*(self.gateway.data / "store" / "incoming").rglob("*.*")]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("attacks")
    pki = pki_of(directory / "pki")
    rules = LIMITS.format(
        certificate=pki.gateway.certificate,
        key=pki.gateway.key,
        authority=pki.authority.certificate,
    )
    gateway = Gateway(directory, Ports(outside=1, workstation=1), rules)
    text = gateway.config.read_text()
    gateway.config.write_text(
        text.replace("plain_port = 0", "plain_port = 0\nport = 0")
    )
    with gateway:
        known = json.loads((gateway.data / "run" / "ports.json").read_text())
        supervisor = Process(known["pid"]).parent()
        target = Target(
            gateway,
            known["plain_receiver"],
            known["receiver"],
            supervisor,
            supervisor.child("receiver"),
            supervisor.child("worker"),
        )
        target.echo()
        target.store()
        yield target
        everything_acknowledged_is_stored(target)


def everything_acknowledged_is_stored(target: Target) -> None:
    index = target.gateway.index()
    for uid in target.acknowledged:
        stored = index.instance(uid)
        assert stored is not None
        assert target.gateway.stored(stored.path)
    index.close()


ATTACKS: dict[str, Callable[[Target], AbstractContextManager[None]]] = {
    "silent clients": lambda t: silent(t.port, 20),
    "slow association requests": lambda t: slow_requests(t.port, 20),
    "slow data": lambda t: slow_data(t.port, 10),
    "slow handshakes": lambda t: slow_handshakes(t.tls_port, 20),
    "1000 half-open associations of 200 addresses": lambda t: silent(
        t.port, 1000, "127.0.3.{}"
    ),
    "1000 half-open associations of one address": lambda t: silent(
        t.port, 1000, "127.0.4.1"
    ),
    "200 half-open handshakes of 200 addresses": lambda t: silent(
        t.tls_port, 200, "127.0.5.{}"
    ),
    "as many silent clients as an address may have, the sender's own": lambda t: silent(
        t.port, 64
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_served_during_an_attack(
    target: Target, name: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    before = target.receiver
    threads, sockets, memory = before.threads, before.sockets, before.memory_bytes
    before.forget_peak()
    with ATTACKS[name](target):
        started = time.monotonic()
        target.echo()
        target.store()
        served = time.monotonic() - started
        target.store_with_dcmtk(tmp_path)
    growth = target.receiver.peak_bytes - memory
    record_property("served_seconds", round(served, 2))
    record_property("growth_mebibytes", round(growth / MEBIBYTE, 1))
    assert served < SERVED_SECONDS
    assert growth < MOST_GROWTH_BYTES
    target.gateway.wait(
        lambda: (
            (target.receiver.threads, target.receiver.sockets)
            <= (threads + 1, sockets + 1)
        ),
        30,
    )
    assert target.incoming() == []


def hostile(
    data: bytes, uid: str, syntax: str = ExplicitVRLittleEndian
) -> OutboundObject:
    return OutboundObject(
        sop_class_uid=SecondaryCaptureImageStorage,
        sop_instance_uid=uid,
        transfer_syntax_uid=syntax,
        data=data,
    )


def identified(uid: str, **changes: object) -> bytes:
    """The encoded head of an image."""
    return bytes(encoded(image(SOPInstanceUID=uid, PixelData=None, **changes)).data)


def behind(uid: str, element: bytes) -> bytes:
    """The element behind all that identifies the object."""
    return identified(uid) + element


BIG = struct.pack("<HH2sHL", 0x0029, 0x1010, b"OB", 0, 0xFFFFFFFE) + b"short"
EARLY = struct.pack("<HH2sHL", 0x0007, 0x1010, b"OB", 0, 0xFFFFFFFE)


def deflated_bomb(uid: str) -> bytes:
    """The head of an image, and then 1.2 GiB of zeros in a private element."""
    size = 1228 * MEBIBYTE
    element = struct.pack("<HH2sHL", 0x0029, 0x1010, b"OB", 0, size)
    return bomb(size, behind(uid, element))


REFUSED: dict[str, tuple[Callable[[str], OutboundObject], StoreStatus]] = {
    "element of 4 GiB": (
        lambda uid: hostile(EARLY + identified(uid), uid),
        StoreStatus.CANNOT_UNDERSTAND,
    ),
    "10,000 sequences before the identifiers": (
        lambda uid: hostile(
            nested(10_000, implicit=False, order="<", defined=False).replace(
                struct.pack("<HH", 0x0040, 0x0555), struct.pack("<HH", 0x0008, 0x1140)
            ),
            uid,
        ),
        StoreStatus.CANNOT_UNDERSTAND,
    ),
    "bomb that is no data set": (
        lambda uid: hostile(bomb(1 << 30), uid, DeflatedExplicitVRLittleEndian),
        StoreStatus.CANNOT_UNDERSTAND,
    ),
    "path in the request's UID": (
        lambda _: hostile(identified("1.2.3"), "../../../etc/passwd"),
        StoreStatus.INVALID_SOP_INSTANCE,
    ),
    "NUL in the request's UID": (
        lambda _: hostile(identified("1.2.3"), "1.2\0.3"),
        StoreStatus.INVALID_SOP_INSTANCE,
    ),
    "overlong UID": (
        lambda _: hostile(identified("1.2.3"), "1." + "2" * 100),
        StoreStatus.INVALID_SOP_INSTANCE,
    ),
    "path in the study UID": (
        lambda uid: hostile(identified(uid, StudyInstanceUID="1.2/../../x"), uid),
        StoreStatus.CANNOT_UNDERSTAND,
    ),
    "line feed in the series UID": (
        lambda uid: hostile(identified(uid, SeriesInstanceUID="1.2.3\n4"), uid),
        StoreStatus.CANNOT_UNDERSTAND,
    ),
    "digits of another script": (
        lambda uid: hostile(
            identified(uid, StudyInstanceUID="1.2.STUDY").replace(
                b"1.2.STUDY", "1.2.\u0663\u0664x".encode().ljust(9, b"x")
            ),
            uid,
        ),
        StoreStatus.CANNOT_UNDERSTAND,
    ),
}

HELD: dict[str, tuple[Callable[[str], OutboundObject], str]] = {
    "element of 4 GiB behind the identifiers": (
        lambda uid: hostile(behind(uid, BIG), uid),
        "",
    ),
    "10,000 sequences of undefined length": (
        lambda uid: hostile(
            behind(uid, nested(10_000, implicit=False, order="<", defined=False)), uid
        ),
        "unreadable",
    ),
    "10,000 sequences of defined length": (
        lambda uid: hostile(
            behind(uid, nested(10_000, implicit=False, order="<", defined=True)), uid
        ),
        "",
    ),
    "deflated bomb": (
        lambda uid: hostile(deflated_bomb(uid), uid, DeflatedExplicitVRLittleEndian),
        "unreadable",
    ),
}


# pydicom warns of the bad UIDs that this test makes on purpose.
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:Value exceeds")
@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_object_is_refused_and_the_next_is_stored(
    target: Target, name: str
) -> None:
    make, status = REFUSED[name]
    outbound = make(generate_uid())
    memory = target.receiver.memory_bytes
    target.receiver.forget_peak()
    assert send(target.port, outbound, calling="STORESCU") == [status]
    target.store()
    assert target.receiver.peak_bytes - memory < MOST_GROWTH_BYTES
    assert target.incoming() == []


@pytest.mark.parametrize("name", HELD)
def test_a_hostile_object_is_held_by_a_worker_that_goes_on(
    target: Target, name: str, record_property: Callable[..., None]
) -> None:
    make, reason = HELD[name]
    outbound = make(generate_uid())
    processes = (target.receiver, target.worker)
    memory = [one.memory_bytes for one in processes]
    for one in processes:
        one.forget_peak()
    assert send(target.port, outbound, calling="STORESCU") == [0]
    target.acknowledged.append(outbound.sop_instance_uid)
    index = target.gateway.index()
    target.gateway.wait(
        lambda: (
            (i := index.instance(outbound.sop_instance_uid)) is not None
            and i.state == "held"
        ),
        120,
    )
    held = index.instance(outbound.sop_instance_uid)
    assert held is not None
    assert held.reason.startswith(reason)
    index.close()
    growth = [o.peak_bytes - m for o, m in zip(processes, memory, strict=True)]
    record_property("growth_mebibytes", [round(g / MEBIBYTE, 1) for g in growth])
    assert max(growth) < MOST_GROWTH_BYTES


def test_nothing_of_it_left_a_traceback_or_killed_a_process(target: Target) -> None:
    log = target.gateway.log.read_text("utf-8", "replace")
    assert "Traceback" not in log
    assert "again_in" not in log  # no child had to be started again
    assert Process(target.receiver.pid).parent() == target.supervisor
    assert Process(target.worker.pid).parent() == target.supervisor
    assert target.receiver.threads < 20


def test_no_secret_is_on_a_command_line_or_in_an_environment(target: Target) -> None:
    secrets = [
        path.read_bytes()
        for path in (target.gateway.data / "secrets").rglob("*")
        if path.is_file()
    ]
    assert secrets
    for process in (target.supervisor, target.receiver, target.worker):
        shown = process.command_line + process.environment
        for secret in secrets:
            assert secret not in shown
            assert secret.hex().encode() not in shown
        assert b"PRIVATE KEY" not in shown
