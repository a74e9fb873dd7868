"""The handshake on real sockets: who gets in, and by which name others do not."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from config.schema import MoveDestination, Tls
from gateway.errors import ConfigurationError, HandshakeFailed
from gateway.tls.certificates import PeerCertificate
from gateway.tls.contexts import SUITES
from gateway.tls.handshake import TlsSocket, secure_accepted, wrap_accepted
from gateway.tls.identity import TlsIdentity
from tests.gateway.pki_cases import (
    DAY,
    HOST,
    Authority,
    NodeFiles,
    Pki,
    client_context,
    now,
    period,
    pki_of,
)

SECONDS = 10.0


def no_secret(source: str) -> bytes:
    raise ConfigurationError(f"no secret at {source}")


def identity_of(pki: Pki, **settings: object) -> TlsIdentity:
    return TlsIdentity(Tls.model_validate(pki.tls(**settings)), no_secret)


@dataclass
class Server:
    """Accepts one connection after the other; keeps what came of each."""

    identity: TlsIdentity
    seconds: float = SECONDS
    port: int = 0
    peers: list[PeerCertificate] = field(default_factory=list)
    failures: list[HandshakeFailed] = field(default_factory=list)
    serve: Callable[[TlsSocket], None] = lambda connection: connection.sendall(b"hi")
    done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @contextmanager
    def listening(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            connection = wrap_accepted(self.identity.contexts.server, accepted)
            try:
                self.peers.append(secure_accepted(connection, self.seconds, now()))
                self.serve(connection)
            except HandshakeFailed as failure:
                self.failures.append(failure)
            finally:
                connection.close()
                self.done.release()


def call(server: Server, context: ssl.SSLContext) -> bytes:
    """Connect as a client and read until the end."""
    with (
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=HOST) as connection,
    ):
        found = b""
        while piece := connection.recv(1024):
            found += piece
        return found


@pytest.fixture
def server(pki: Pki) -> Iterator[Server]:
    made = Server(identity_of(pki))
    with made.listening():
        yield made


def refused(server: Server, context: ssl.SSLContext) -> HandshakeFailed:
    """Connect in vain; the client is told, and the server knows why."""
    with pytest.raises(OSError):  # noqa: PT011  # the alert, or a reset after it
        call(server, context)
    assert server.done.acquire(timeout=SECONDS)
    assert server.peers == []
    (failure,) = server.failures
    return failure


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_good_certificate_says_who_calls(
    server: Server, pki: Pki, version: str
) -> None:
    context = client_context(pki, pki.modality)
    context.maximum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[version]

    assert call(server, context) == b"hi"

    assert server.peers == [pki.modality.peer]
    assert server.peers[0].names == ("modality.test", "modality")
    assert server.peers[0].subject == "CN=modality"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "no-certificate"),
        ("unknown", "unknown-authority"),
        ("expired", "certificate-expired"),
        ("revoked", "certificate-revoked"),
    ],
)
def test_a_bad_certificate_is_refused_by_name(
    server: Server,
    pki: Pki,
    name: str | None,
    reason: str,
    version: ssl.TLSVersion,
) -> None:
    node: NodeFiles | None = None if name is None else getattr(pki, name)
    context = client_context(pki, node)
    context.maximum_version = version

    assert refused(server, context).reason == reason
