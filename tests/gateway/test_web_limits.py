"""Peers that are slow, silent, many or malformed: others are served meanwhile."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.audit.refusals import WHOLE_LINES
from gateway.store.part10 import FileMeta, encode_head
from tests.gateway.pki_cases import Pki, client_context
from tests.gateway.scp import CT_IMAGE, EXPLICIT, encoded, example, small
from tests.gateway.seeding import protect
from tests.gateway.web_cases import ANY, STOW, Web, serving, settings
from tests.waiting import wait_until

BOTH_LENGTHS = (
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)
SHORT = {"handshake_seconds": 0.6, "request_seconds": 0.6, "pdu_seconds": 0.5}


@pytest.fixture
def web(tmp_path: Path, pki: Pki) -> Iterator[Web]:
    with serving(settings(tmp_path, pki, limits=SHORT), pki) as running:
        yield running


def is_served(web: Web) -> bool:
    with web.client(web.pki.archive) as client:
        return client.get("/protected/studies").status_code in {200, 204}


def refusals(web: Web) -> list[str]:
    wait_until(lambda: bool(web.audited("association", "refused")))
    return [line.get("why", "") for line in web.audited("association", "refused")]


def is_closed(connection: socket.socket) -> bool:
    """Read to the end; the end must come."""
    connection.settimeout(20)
    try:
        while connection.recv(65536):
            pass
    except (ConnectionError, ssl.SSLError):
        pass
    return True


def test_a_silent_client_is_let_go(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.running.port)) as silent:
        assert is_served(web)
        assert is_closed(silent)
    assert refusals(web) == ["handshake-timeout"]


def test_a_handshake_drop_by_drop_is_let_go(web: Web) -> None:
    """Each octet comes in time, the whole does not."""
    outgoing = ssl.MemoryBIO()
    context = client_context(web.pki, web.pki.archive)
    hello = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    octets = outgoing.read()
    with socket.create_connection(("127.0.0.1", web.running.port)) as slow:
        ended = threading.Event()
        for octet in octets:
            try:
                slow.sendall(bytes([octet]))
            except ConnectionError:
                break
            if ended.wait(0.05):
                break
        assert is_closed(slow)
    assert refusals(web) == ["handshake-timeout"]


def test_who_asks_nothing_is_let_go(web: Web) -> None:
    with web.socket(web.pki.archive) as silent:
        assert is_served(web)
        assert is_closed(silent)
    assert refusals(web) == ["request-too-slow"]


def test_a_head_drop_by_drop_is_let_go(web: Web) -> None:
    """Slow loris: also on a connection that was used before."""
    with web.socket(web.pki.archive) as slow:
        slow.sendall(b"GET /protected/studies HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"204" in slow.recv(4096)
        slow.sendall(b"GET /protected/studies HTTP/1.1\r\nHost: x\r\n")
        pause = threading.Event()
        for number in range(200):
            try:
                slow.sendall(f"X-{number}: y\r\n".encode())
            except OSError:
                break
            pause.wait(0.05)
        else:
            pytest.fail("two hundred headers in ten seconds were waited for")
    assert refusals(web) == ["request-too-slow"]


def test_a_body_drop_by_drop_is_let_go(web: Web) -> None:
    head = (
        f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {STOW['Content-Type']}\r\n"
        "Content-Length: 100000\r\n\r\n--BOUNDARY\r\n"
        "Content-Type: application/dicom\r\n\r\n"
    )
    with web.socket(web.pki.modality) as slow:
        slow.sendall(head.encode())
        pause = threading.Event()
        for _ in range(200):
            try:
                slow.sendall(b"x")
            except OSError:
                break
            pause.wait(0.05)
        else:
            pytest.fail("two hundred octets in ten seconds were waited for")
    assert refusals(web) == ["body-too-slow"]
    wait_until(lambda: bool(web.audited("store", "refused")))
    assert not list((web.store.root / "incoming").iterdir())


def test_who_takes_no_answer_is_let_go(web: Web) -> None:
    instance = web.receive(example("US1_J2KR.dcm"))
    row = protect(instance, web.store, web.index, web.vault)
    path = f"/protected/studies/{row.study_instance_uid}"
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", web.running.port))
    context = client_context(web.pki, web.pki.archive)
    with context.wrap_socket(plain, server_hostname="localhost") as idle:
        for _ in range(20):  # more than the sockets between hold
            idle.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert refusals(web) == ["answer-not-taken"]
        assert is_served(web)
    wait_until(lambda: bool(web.audited("get-end", "failure")))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000,
        b"GET /" + b"a" * 40_000,
        BOTH_LENGTHS,
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://elsewhere/protected/studies HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(web: Web, request_bytes: bytes) -> None:
    with web.socket(web.pki.archive) as connection:
        connection.sendall(request_bytes)
        connection.settimeout(20)
        answer = connection.recv(4096)
    status = answer.split(b" ")[1]
    assert status in {b"400", b"403", b"404", b"405"}, answer
    assert is_served(web)
    if status == b"400":
        assert refusals(web) == ["request-invalid"]


def test_half_open_connections_keep_nobody_out(tmp_path: Path, pki: Pki) -> None:
    limits: dict[str, Any] = {"unidentified_connections": 32, "connection_burst": 2000}
    limits |= {"connections_per_address": 1000}
    with ExitStack() as stack:
        web = stack.enter_context(serving(settings(tmp_path, pki, limits=limits), pki))
        for _ in range(300):
            half = socket.create_connection(("127.0.0.1", web.running.port))
            stack.enter_context(half)
        for _ in range(3):
            assert is_served(web)


def test_counted_refusals_are_recorded_at_the_end(tmp_path: Path, pki: Pki) -> None:
    with serving(settings(tmp_path, pki), pki) as web:
        with web.client(pki.stranger) as client:
            for _ in range(WHOLE_LINES + 10):
                assert client.get("/protected/studies").status_code == 403
        assert len(web.audited("association", "refused")) == WHOLE_LINES
    lines = web.audited("association", "refused")
    assert (len(lines), lines[-1]["further_refusals"]) == (WHOLE_LINES + 1, 10)


def test_an_address_has_so_many_connections(tmp_path: Path, pki: Pki) -> None:
    limits = {"connections_per_address": 4}
    with ExitStack() as stack:
        web = stack.enter_context(serving(settings(tmp_path, pki, limits=limits), pki))
        for _ in range(4):
            open_one = stack.enter_context(web.client(pki.archive))
            assert open_one.get("/protected/studies").status_code == 204
        with web.client(pki.archive) as one_more, pytest.raises(httpx.TransportError):
            one_more.get("/protected/studies")
        assert open_one.get("/protected/studies").status_code == 204
        (line,) = web.audited("connection", "refused")
        assert line["reason"] == "too-many-connections"


def test_too_many_at_once_are_told_to_come_later(tmp_path: Path, pki: Pki) -> None:
    few = {"max_connections": 2}
    with ExitStack() as stack:
        web = stack.enter_context(serving(settings(tmp_path, pki, web=few), pki))
        first = stack.enter_context(web.client(pki.archive))
        assert first.get("/protected/studies").status_code == 204
        second = stack.enter_context(web.client(pki.archive))
        assert second.get("/protected/studies").status_code == 503


def test_a_stop_lets_a_request_finish(tmp_path: Path, pki: Pki) -> None:
    with serving(settings(tmp_path, pki), pki) as web:
        instance = web.receive(example("CT_small.dcm"))
        row = protect(instance, web.store, web.index, web.vault)
        path = f"/protected/studies/{row.study_instance_uid}"
        client = web.client(pki.archive)
        with client.stream("GET", path, headers={"Accept": ANY}) as answer:
            stopping = threading.Thread(target=web.running.stop)
            stopping.start()
            body = answer.read()
        assert body.endswith(b"--\r\n")
        stopping.join(30)
        assert not stopping.is_alive()
        with pytest.raises(httpx.ConnectError), web.client(pki.archive) as late:
            late.get("/protected/studies")
        client.close()


def test_memory_stays_while_a_large_object_comes(tmp_path: Path, pki: Pki) -> None:
    """192 MiB are taken in; the process does not grow by a third of that."""
    large = encoded(small("1.2.3.4", EncapsulatedDocument=bytes(1 << 20)))
    assert isinstance(large.data, bytes)
    head = large.data[: -(1 << 20)]
    # The length of the last element says 192 MiB; they are made as they go.
    size = 192 << 20
    head = head[:-4] + size.to_bytes(4, "little")
    with (
        serving(settings(tmp_path, pki), pki) as web,
        web.client(pki.modality) as client,
    ):
        before = _peak_kib()
        answer = client.post("/studies", content=_pieces(head, size), headers=STOW)
        assert answer.status_code == 200
        grown = _peak_kib() - before
    assert grown < (64 << 10), f"{grown} KiB"


def _pieces(head: bytes, size: int) -> Iterator[bytes]:
    meta = FileMeta(
        sop_class_uid=CT_IMAGE, sop_instance_uid="1.2.3.4", transfer_syntax_uid=EXPLICIT
    )
    yield b"--BOUNDARY\r\nContent-Type: application/dicom\r\n\r\n"
    yield encode_head(meta) + head
    for _ in range(size >> 20):
        yield bytes(1 << 20)
    yield b"\r\n--BOUNDARY--\r\n"


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
