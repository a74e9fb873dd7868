"""Associations that end badly, and calls that say nothing, leave nothing behind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pynetdicom import build_role
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from gateway.dicom import command
from gateway.dicom.message import send_message
from tests.gateway.scp import (
    CT_IMAGE,
    EXPLICIT,
    WORKSTATION,
    Gateway,
    associated,
    encoded,
    gateway,
    send,
    site,
    small,
)
from tests.gateway.test_find import STUDY_ROOT, identifier
from tests.waiting import wait_until

ROUNDS = 200
OWN_THREADS = 4  # two listeners; who reminds of certificates, and who reports
C_GET_RQ = 0x0010
GET = "1.2.840.10008.5.1.4.1.2.2.3"
VERIFICATION = "1.2.840.10008.1.1"


def abort_at_once(running: Gateway) -> None:
    """A peer that associates and hangs up."""
    with associated(
        running.recovery_port, [(STUDY_ROOT, EXPLICIT)], WORKSTATION, "MIAD-RECOVERY"
    ) as association:
        assert association.is_established
        association.abort()


def abort_in_a_find(running: Gateway) -> None:
    """A peer that hangs up while it is being answered."""
    query = identifier("STUDY", StudyInstanceUID="", StationName="")
    with associated(
        running.recovery_port, [(STUDY_ROOT, EXPLICIT)], WORKSTATION, "MIAD-RECOVERY"
    ) as association:
        next(iter(association.send_c_find(query, STUDY_ROOT)))
        association.abort()


def abort_in_a_get(running: Gateway) -> None:
    """A peer that hangs up while objects are being sent to it."""
    query = encode(identifier("STUDY", StudyInstanceUID="1.2.3"), False, True)
    assert query is not None
    request = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(GET)),
        (command.COMMAND_FIELD, command.us(C_GET_RQ)),
        (command.MESSAGE_ID, command.us(1)),
        (command.PRIORITY, command.us(0)),
        (command.COMMAND_DATA_SET_TYPE, command.us(command.DATA_SET_PRESENT)),
    ]
    with associated(
        running.recovery_port,
        [(GET, EXPLICIT), (CT_IMAGE, EXPLICIT)],
        WORKSTATION,
        "MIAD-RECOVERY",
        ext_neg=[build_role(CT_IMAGE, scp_role=True)],
    ) as association:
        association._reactor_checkpoint.clear()  # so that nobody answers
        send_message(association, 1, request, query)
        _, sent = association.dimse.get_msg(block=True)
        assert isinstance(sent, C_STORE)
        association.abort()
        association._reactor_checkpoint.set()


def echo(running: Gateway) -> None:
    """A monitor that verifies."""
    with associated(running.port, [(VERIFICATION, EXPLICIT)]) as association:
        assert association.send_c_echo().Status == 0x0000


def connect_only(running: Gateway) -> None:
    """A load balancer's check: a connection without a word."""
    for port in (running.port, running.recovery_port):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass


def talk_nonsense(running: Gateway) -> None:
    """A scanner that speaks another protocol."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as probe:
        probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(OSError):
            probe.recv(64)


def held() -> tuple[int, int]:
    """Threads and open sockets of this process."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(entry.readlink()))
    return threading.active_count(), sum(link.startswith("socket:") for link in links)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors")
def test_nothing_is_left_of_calls_that_end_badly(tmp_path: Path) -> None:
    calls: tuple[Callable[[Gateway], None], ...] = (
        abort_at_once,
        abort_in_a_find,
        abort_in_a_get,
        echo,
        connect_only,
        talk_nonsense,
    )
    threads = threading.active_count()
    with gateway(site(tmp_path)) as running:
        send(running.port, *(encoded(small(f"1.2.3.{n}")) for n in range(5)))
        for call in calls:
            call(running)
        wait_until(lambda: threading.active_count() == threads + OWN_THREADS)
        before = held()
        for number in range(ROUNDS):
            calls[number % len(calls)](running)
        wait_until(lambda: held() == before)
        assert send(running.port, encoded(small("1.2.3.99"))) == [0x0000]
