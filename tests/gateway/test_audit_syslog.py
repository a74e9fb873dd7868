"""The trail brought to a collector: real TLS, and everything that can break."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from config.schema import Collector as Settings
from config.schema import Tls
from gateway.audit.auditor import Translator
from gateway.audit.chain import START
from gateway.audit.compose import connect_to
from gateway.audit.cursor import Cursor
from gateway.audit.forwarder import Forwarder, Pace
from gateway.audit.log import AuditLog
from gateway.audit.mapping import Source
from gateway.audit.sealer import AesFieldSealer
from gateway.audit.syslog import Header, frame
from gateway.tls.identity import TlsIdentity
from tests.gateway.collector import Collector, server_context
from tests.gateway.pki_cases import NodeFiles, Pki
from tests.gateway.test_audit_messages import SCHEMA
from tests.waiting import wait_until

KEY = bytes(range(32))
HEADER = Header(
    hostname="host.test",
    app_name="miad-gateway",
    process_id="17",
    message_id="DICOM+RFC3881",
)
PACE = Pace(
    poll_seconds=0.02,
    window_lines=50,
    window_seconds=0.3,
    retry_first_seconds=0.02,
    retry_cap_seconds=0.1,
)
HEAD = re.compile(
    rb"<(\d+)>1 (\S+) host\.test miad-gateway 17 DICOM\+RFC3881 - \xef\xbb\xbf<"
)


@dataclass
class Sender:
    """A trail, and a forwarder that runs beside the test."""

    folder: Path
    tls: str
    port: int

    @property
    def audit(self) -> AuditLog:
        return AuditLog(self.folder / "audit.jsonl", sealer=AesFieldSealer(KEY))

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.folder / "forwarded.json")

    def fill(self, count: int) -> None:
        for number in range(count):
            patient = {"id": f"P{number}", "name": "DOE^JANE", "studies": {"1.2": 1}}
            self.audit.record(
                "export",
                "success",
                destination="cloud",
                ae_title="AI",
                sop_instance_uid=f"2.25.{number}",
                personal={"patients": [patient]},
            )

    def forwarder(self, **settings: object) -> Forwarder:
        collector = Settings.model_validate(
            {"host": "127.0.0.1", "port": self.port, "timeout_seconds": 5} | settings
        )
        identity = TlsIdentity(Tls.model_validate_json(self.tls), lambda _: b"")
        return Forwarder(
            self.audit,
            self.cursor,
            lambda: connect_to(identity, collector),
            Translator(Source(name="site"), HEADER, AesFieldSealer(KEY)),
            timeout_seconds=collector.timeout_seconds,
            pace=PACE,
        )

    @contextmanager
    def running(self, **settings: object) -> Iterator[None]:
        stop = threading.Event()
        forwarder = self.forwarder(**settings)
        thread = threading.Thread(target=forwarder.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

    def is_done(self) -> bool:
        """Whether the collector has all, for certain."""
        return self.cursor.load() == self.audit.verify()


@pytest.fixture
def collector(pki: Pki) -> Collector:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = server_context(pki.archive, pki.authority.certificate)
    return Collector(context, port)


@pytest.fixture
def sender(tmp_path: Path, pki: Pki, collector: Collector) -> Sender:
    tls = Tls.model_validate(pki.tls()).model_dump_json()
    return Sender(tmp_path, tls, collector.port)


def in_order_once(lines: list[int]) -> list[int]:
    """Return the lines in the order in which each came first."""
    return list(dict.fromkeys(lines))


def test_lines_arrive_in_order_valid_and_from_the_gateway_certificate(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(120)
    with collector.running(), sender.running():
        wait_until(sender.is_done)
        sender.fill(3)
        wait_until(sender.is_done)
    assert collector.lines() == list(range(1, 124))
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    for message in collector.messages:
        head = HEAD.match(message)
        assert head is not None
        assert head[1] == b"85"
        assert re.fullmatch(rb"2\d{3}-[01]\d-[0-3]\dT[\d:]{8}\.\d{6}\+00:00", head[2])
        xml = message[message.index(b"\xef\xbb\xbf") + 3 :]
        assert schema.validate(etree.fromstring(xml))
    assert b"DOE^JANE" in collector.messages[0]
    assert all("gateway" in subject for subject in collector.subjects)


def test_lines_arrive_while_a_connection_lasts(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(1)
    with collector.running(), sender.running():
        wait_until(lambda: collector.lines() == [1])
        sender.fill(1)
        wait_until(lambda: collector.lines() == [1, 2])
        wait_until(sender.is_done)


def test_a_collector_that_is_away_gets_everything_later(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(60)
    with sender.running():
        sender.fill(60)
        assert sender.cursor.load() == START
        with collector.running():
            wait_until(sender.is_done)
    assert collector.lines() == list(range(1, 121))


def test_a_collector_that_breaks_off_again_and_again_misses_nothing(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(130)
    collector.reset_after = 20
    with sender.running():
        for _ in range(3):
            with collector.running():
                collector.taken.clear()
                assert collector.taken.wait(30)
            assert not sender.is_done()
        collector.reset_after = None
        with collector.running():
            wait_until(sender.is_done)
    assert in_order_once(collector.lines()) == list(range(1, 131))
    assert len(collector.lines()) > 130


def test_what_a_killed_collector_had_not_read_is_sent_again(
    sender: Sender, collector: Collector
) -> None:
    """It took the octets from the network, but its program never read them."""
    sender.fill(30)
    with socket.create_server(("127.0.0.1", collector.port)) as server:
        with sender.running():
            plain, _ = server.accept()
            secure = collector.context.wrap_socket(plain, server_side=True)
            wait_until(lambda: has_octets(secure))
            secure.close()
            wait_until(lambda: can_accept(server))
        assert sender.cursor.load() == START
    with sender.running(), collector.running():
        wait_until(sender.is_done)
    assert collector.lines() == list(range(1, 31))


def has_octets(connection: socket.socket) -> bool:
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    descriptor = socket.socket(fileno=os.dup(connection.fileno()))
    with descriptor:
        try:
            return bool(descriptor.recv(1, flags))
        except BlockingIOError:
            return False


def can_accept(server: socket.socket) -> bool:
    server.settimeout(0.01)
    try:
        server.accept()[0].close()
    except TimeoutError:
        return False
    return True


def test_a_collector_that_closes_without_a_word_counts_if_it_read_all(
    sender: Sender, collector: Collector
) -> None:
    collector.answers = False
    sender.fill(10)
    with collector.running(), sender.running():
        wait_until(sender.is_done)
    assert collector.lines() == list(range(1, 11))


def test_a_killed_sender_goes_on_where_it_is_certain(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(400)
    code = f"""
import sys, threading
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
import pickle
sender = pickle.loads(bytes.fromhex(sys.argv[1]))
sender.forwarder().run(threading.Event())
"""
    handed = pickle.dumps(sender).hex()
    for wanted in (60, 200):
        collector.hold_after = wanted
        with collector.running():
            child = subprocess.Popen([sys.executable, "-c", code, handed])
            wait_until(lambda wanted=wanted: len(collector.messages) == wanted)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait(30) == -signal.SIGKILL
    assert not sender.is_done()
    collector.hold_after = None
    with collector.running(), sender.running():
        wait_until(sender.is_done)
    assert in_order_once(collector.lines()) == list(range(1, 401))


@pytest.mark.parametrize("shown", ["unknown", "modality", "expired"])
def test_a_collector_that_is_not_the_one_gets_nothing(
    sender: Sender, collector: Collector, pki: Pki, shown: str
) -> None:
    node: NodeFiles = getattr(pki, shown)
    sender.fill(3)
    collector.context = server_context(node, pki.authority.certificate)
    reasons = r"unknown-authority|wrong-name|certificate-expired"
    with collector.running(), pytest.raises(OSError, match=reasons):
        sender.forwarder().forward(threading.Event())
    assert collector.messages == []
    assert sender.cursor.load() == START


def test_a_pinned_collector_is_known_by_its_certificate(
    sender: Sender, collector: Collector, pki: Pki
) -> None:
    sender.fill(3)
    collector.context = server_context(pki.modality, pki.authority.certificate)
    with collector.running():
        with sender.running(certificates=[pki.modality.certificate]):
            wait_until(sender.is_done)
        sender.fill(1)
        other = sender.forwarder(certificates=[pki.archive.certificate])
        with pytest.raises(OSError, match="wrong-certificate"):
            other.forward(threading.Event())
    assert collector.lines() == [1, 2, 3]


def test_a_trail_that_was_cut_is_told_to_the_collector(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(10)
    with collector.running(), sender.running():
        wait_until(sender.is_done)
    lines = sender.audit.path.read_bytes().splitlines(keepends=True)
    sender.audit.path.write_bytes(b"".join(lines[:5]))
    with collector.running(), sender.running():
        wait_until(lambda: len(collector.messages) > 10)
        wait_until(sender.is_done)
    alarm = collector.messages[10]
    assert b'csd-code="110113"' in alarm
    assert b'EventOutcomeIndicator="12"' in alarm
    assert b"cut or made anew" in alarm


def test_lines_before_a_changed_one_arrive_and_an_alarm_after(
    sender: Sender, collector: Collector
) -> None:
    sender.fill(10)
    octets = sender.audit.path.read_bytes()
    sender.audit.path.write_bytes(octets.replace(b"2.25.6", b"2.25.7", 1))
    with collector.running(), sender.running():
        wait_until(lambda: 11 in collector.lines())
        wait_until(lambda: sender.cursor.load().count == 11)
    assert collector.lines() == [*range(1, 7), 11]
    assert b"Line 7 of" in collector.messages[-1]


def test_frames_count_octets_and_fields_are_printable() -> None:
    header = Header(
        hostname="h\u00f6st name", app_name="a" * 99, process_id="", message_id="X"
    )
    framed = frame(header, "2026-01-02T12:00:00+00:00", "<é/>".encode())
    length, _, message = framed.partition(b" ")
    assert int(length) == len(message)
    assert message == (
        b"<85>1 2026-01-02T12:00:00+00:00 h_st_name "
        + b"a" * 48
        + b" - X - \xef\xbb\xbf<\xc3\xa9/>"
    )
