"""Limits of an association, tried octet by octet over a real socket."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator

import pytest

from config.schema import Limits
from gateway.dicom.pdu_checks import MOST_SYNTAXES, MOST_USER_ITEMS
from gateway.dicom.status import FindStatus
from tests.gateway.raw_peer import (
    ABORT,
    ACCEPT,
    IMPLICIT,
    REJECT,
    RELEASED,
    RawPeer,
    command,
    context,
    echo,
    item,
    pdu,
    raw_peer,
    request,
    user_items,
    value,
)
from tests.gateway.scp import Gateway, encoded, gateway, send, site, small
from tests.waiting import wait_until

FIND_MODEL = b"1.2.840.10008.5.1.4.1.2.2.1"
LIMITS = {
    "request_seconds": 1.0,
    "pdu_seconds": 1.0,
    "max_command_bytes": 2048,
    "max_identifier_bytes": 4096,
    "unidentified_connections": 8,
    "requests_per_second": 50.0,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("limits")
    limits = Limits.model_validate(LIMITS)
    settings = site(directory).model_copy(update={"limits": limits})
    with gateway(settings) as listening:
        yield listening
        wait_until(lambda: not threads())


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if "AcceptorThread" in t.name]


def still_serves(running: Gateway) -> None:
    """Another peer is answered."""
    with raw_peer(running.port, "127.0.0.2") as peer:
        peer.send(request(calling=b"OTHER"))
        assert peer.receive()[0] == REJECT
    with raw_peer(running.port) as peer:
        peer.associate()
        peer.send(echo())
        assert peer.receive()[0] == 4


NO_REQUESTS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "release first": pdu(5, bytes(4)),
    "4 GiB request": struct.pack(">BBL", 1, 0, 0xFFFFFFFF),
    "empty request": pdu(1, b""),
    "short request": pdu(1, bytes(60)),
    "item behind the end": request(contexts=b"\x20\0\xff\xff\1\0\0\0"),
    "even context": request(contexts=context(2)),
    "context twice": request(contexts=context(1) + context(1)),
    "many syntaxes": request(
        contexts=context(1, syntaxes=[IMPLICIT] * (MOST_SYNTAXES + 1))
    ),
    "many user items": request(
        users=user_items(*[item(0x52, b"1.2")] * MOST_USER_ITEMS)
    ),
    "overlong UID": request(contexts=context(1, b"1." + b"2" * 100)),
    "UID of other octets": request(contexts=context(1, b"1.2.\xff\xfe")),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_association_request_is_aborted(running: Gateway, name: str) -> None:
    with raw_peer(running.port) as peer:
        peer.send(NO_REQUESTS[name])
        assert peer.ends() == [ABORT]
    still_serves(running)


@pytest.mark.parametrize(
    ("titles", "reason"),
    [
        ({"calling": b"MODA\x00LITY"}, 3),
        ({"calling": b"MOD\r\nALITY"}, 3),
        ({"calling": b"M\\ODALITY"}, 3),
        ({"calling": "MODALITÄT".encode()}, 3),
        ({"calling": b" " * 16}, 3),
        ({"called": b"MIAD\x1b[2J"}, 7),
    ],
)
def test_an_ae_title_with_other_characters_is_rejected(
    running: Gateway, titles: dict[str, bytes], reason: int
) -> None:
    with raw_peer(running.port) as peer:
        peer.send(request(**titles))
        kind, body = peer.receive()
        assert (kind, body[1:]) == (REJECT, bytes([1, 1, reason]))


def test_a_request_that_dribbles_must_come_whole_in_time(
    running: Gateway,
) -> None:
    started = time.monotonic()
    with raw_peer(running.port) as peer:
        for octet in request():
            try:
                peer.send(bytes([octet]))
            except OSError:
                break
            if peer_has_ended(peer, 0.05):
                break
        assert peer.ends() in ([ABORT], [])
    assert 0.8 < time.monotonic() - started < 5.0


def peer_has_ended(peer: RawPeer, seconds: float) -> bool:
    peer.connection.settimeout(seconds)
    try:
        return peer.connection.recv(10) != b"never"
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        peer.connection.settimeout(20)


def test_a_silent_client_is_sent_away(running: Gateway) -> None:
    with raw_peer(running.port) as peer:
        assert peer.ends() == [ABORT]


def test_a_pdu_that_dribbles_must_come_whole_in_time(running: Gateway) -> None:
    with raw_peer(running.port) as peer:
        peer.associate()
        started = time.monotonic()
        for octet in echo():
            try:
                peer.send(bytes([octet]))
            except OSError:
                break
            if peer_has_ended(peer, 0.1):
                break
        assert time.monotonic() - started < 5.0
    still_serves(running)


BROKEN = {
    "unknown type": pdu(9, b"x"),
    "4 GiB PDU": struct.pack(">BBL", 4, 0, 0xFFFFFFF0),
    "value without control header": pdu(4, struct.pack(">LB", 1, 1)),
    "value of length 0": pdu(4, struct.pack(">L", 0)),
    "value behind the end": pdu(4, struct.pack(">LBB", 500, 1, 3) + b"x"),
    "value cut short": pdu(4, b"\0\0\0"),
    "second request": request(),
    "answer to nothing": pdu(2, request()[6:]),
    "command above the limit": pdu(4, value(1, 1, bytes(2049))),
    "many empty fragments of a command": pdu(4, value(1, 1, bytes(512)) * 5),
    "data without command": pdu(4, value(1, 2, b"data")),
    "command in two contexts": pdu(4, value(1, 1, b"x") + value(3, 1, b"y")),
    "no command set": pdu(4, value(1, 3, b"garbage!")),
    "N-EVENT-REPORT": pdu(4, value(1, 3, command(0x0100))),
    "N-DELETE": pdu(4, value(1, 3, command(0x0150))),
    "unknown command": pdu(4, value(1, 3, command(0x7777))),
    "command within data": pdu(
        4, value(1, 3, command(0x0020, data_set=True)) + value(1, 3, command(0x0030))
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pdu_ends_the_association_and_nothing_else(
    running: Gateway, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with raw_peer(running.port) as peer:
        peer.associate()
        peer.send(BROKEN[name])
        assert peer.ends() == [ABORT]
    still_serves(running)
    written = capfd.readouterr()
    assert "Traceback" not in written.out + written.err
    assert "association aborted" in written.out + written.err


def test_requests_that_wait_for_no_answer_are_bounded(running: Gateway) -> None:
    with raw_peer(running.port) as peer:
        peer.associate()
        peer.send(echo() * 500)
        kinds = peer.ends()
        assert kinds.pop() == ABORT
        assert set(kinds) <= {4}
        assert len(kinds) < 200
    still_serves(running)


def test_an_identifier_above_the_limit_is_answered_and_the_association_lives(
    running: Gateway,
) -> None:
    with raw_peer(running.recovery_port) as peer:
        find = context(1, FIND_MODEL)
        peer.send(request(b"WORKSTATION", b"MIAD-RECOVERY", contexts=find))
        assert peer.receive()[0] == ACCEPT
        ask = command(0x0020, data_set=True, e0002=FIND_MODEL + b"\0", e0700=b"\0\0")
        peer.send(pdu(4, value(1, 3, ask)))
        for _ in range(20):
            peer.send(pdu(4, value(1, 0, bytes(8000))))
        peer.send(pdu(4, value(1, 2, b"")))
        _, body = peer.receive()
        status = struct.pack("<HHLH", 0, 0x0900, 2, FindStatus.UNABLE_TO_PROCESS)
        assert status in body
        peer.send(pdu(5, bytes(4)))
        assert peer.receive()[0] == RELEASED


def test_requests_are_slowed_down_to_their_rate(running: Gateway) -> None:
    with raw_peer(running.port) as peer:
        peer.associate()
        started = time.monotonic()
        for _ in range(75):  # a burst of 50, then 25 at 50 a second
            peer.send(echo())
            assert peer.receive()[0] == 4
        assert time.monotonic() - started > 0.4


def test_silent_connections_never_lock_others_out(running: Gateway) -> None:
    silent = [raw_peer(running.port) for _ in range(30)]
    for one in silent:
        one.__enter__()
    try:
        started = time.monotonic()
        still_serves(running)
        assert send(running.port, encoded(small("1.2.3.77"))) == [0]
        assert time.monotonic() - started < 10.0
    finally:
        for one in silent:
            one.__exit__(None, None, None)


def test_refusals_are_in_the_trail(running: Gateway) -> None:
    with raw_peer(running.port, "127.0.0.9") as peer:
        peer.send(NO_REQUESTS["HTTP"])
        assert peer.ends() == [ABORT]
    refused = running.audited("connection", "refused")
    assert [e["reason"] for e in refused if e["peer_address"] == "127.0.0.9"] == [
        "the first PDU is no association request"
    ]
