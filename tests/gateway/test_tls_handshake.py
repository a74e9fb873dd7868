"""The handshake on real sockets: who gets in, and by which name others do not."""

from __future__ import annotations

import contextlib
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
from gateway.tls.handshake import (
    TlsSocket,
    has_come,
    secure_accepted,
    secure_requested,
    wrap_accepted,
)
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
    assert server.peers[0].names == {"modality.test", "modality"}
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


def test_another_authority_can_be_trusted_beside_the_first(pki: Pki) -> None:
    both = [pki.authority.certificate, pki.other.certificate]
    lists = [pki.authority.crl, pki.other.crl]
    server = Server(identity_of(pki, authorities=both, revocation_lists=lists))
    with server.listening():
        assert call(server, client_context(pki, pki.unknown)) == b"hi"
        assert call(server, client_context(pki, pki.modality)) == b"hi"

    assert server.peers == [pki.unknown.peer, pki.modality.peer]


def test_what_is_not_tls_is_told_as_such(server: Server) -> None:
    associate = b"\x01\x00\x00\x00\x00\x44" + bytes(68)  # an A-ASSOCIATE-RQ in clear
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as plain:
        plain.sendall(associate)
        assert server.done.acquire(timeout=SECONDS)

    assert [failure.reason for failure in server.failures] == ["not-tls"]


def test_one_who_hangs_up_is_told_as_such(server: Server) -> None:
    socket.create_connection(("127.0.0.1", server.port), SECONDS).close()
    assert server.done.acquire(timeout=SECONDS)

    assert [failure.reason for failure in server.failures] == ["peer-left"]


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(server: Server, pki: Pki, option: str) -> None:
    s_client(server, pki, option, "-cipher", "ALL:@SECLEVEL=0")

    assert [failure.reason for failure in server.failures] == ["version-too-old"]


def test_1_3_alone_refuses_1_2(pki: Pki) -> None:
    server = Server(identity_of(pki, minimum_version="1.3"))
    with server.listening():
        s_client(server, pki, "-tls1_2")

        assert [failure.reason for failure in server.failures] == ["version-too-old"]
        assert "TLSv1.3" in s_client(server, pki, "-tls1_3")


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_every_suite_of_the_standard_is_spoken_and_no_other(
    tmp_path: Path, kind: str
) -> None:
    pki = pki_of(tmp_path)
    if kind == "RSA":
        pki.authority.node("gateway", dns=[HOST], key_type="rsa")
    server = Server(identity_of(pki))
    wanted = {suite for suite in SUITES if f"-{kind}-" in suite}
    with server.listening():
        spoken = {s for s in wanted if f"Cipher    : {s}" in one_suite(server, pki, s)}
        accepted = len(server.peers)
        for suite in ("AES256-GCM-SHA384", f"ECDHE-{kind}-AES256-SHA384"):
            one_suite(server, pki, suite)

    assert spoken == wanted
    assert accepted == len(wanted)
    assert {failure.reason for failure in server.failures} == {"no-shared-cipher"}


def one_suite(server: Server, pki: Pki, suite: str) -> str:
    return s_client(server, pki, "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0")


def s_client(server: Server, pki: Pki, *options: str, sent: bytes = b"") -> str:
    """Run openssl s_client with the modality's certificate."""
    node = pki.modality
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}"]
    command += ["-cert", str(node.certificate), "-key", str(node.key)]
    command += ["-CAfile", str(pki.authority.certificate), *options]
    made = subprocess.run(
        command, input=sent, capture_output=True, timeout=SECONDS, check=False
    )
    assert server.done.acquire(timeout=SECONDS)
    return (made.stdout + made.stderr).decode(errors="replace")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_silence_and_half_a_handshake_end_at_the_deadline(
    pki: Pki, sent: bytes
) -> None:
    server = Server(identity_of(pki), seconds=0.3)
    with (
        server.listening(),
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as silent,
    ):
        silent.sendall(sent)
        assert server.done.acquire(timeout=SECONDS)

    assert [failure.reason for failure in server.failures] == ["handshake-timeout"]


def test_the_deadline_is_for_the_whole_handshake(pki: Pki) -> None:
    """A byte now and then does not put it off."""
    server = Server(identity_of(pki), seconds=0.5)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    with (
        server.listening(),
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as slow,
    ):
        for octet in hello[:100]:
            slow.sendall(bytes([octet]))
            if server.done.acquire(timeout=0.1):
                break
        else:
            pytest.fail("ten seconds of single bytes were waited for")

    assert [failure.reason for failure in server.failures] == ["handshake-timeout"]


def test_no_session_is_taken_up_again_with_1_3(server: Server, pki: Pki) -> None:
    shown = s_client(server, pki, "-tls1_3", "-sess_out", "/dev/null")

    assert "New Session Ticket arrived" not in shown
    assert "Post-Handshake" not in shown


def test_renegotiation_is_refused(pki: Pki) -> None:
    def echo(connection: TlsSocket) -> None:
        connection.settimeout(SECONDS)
        with contextlib.suppress(OSError):  # the client takes the no for an error
            while piece := connection.recv(100):
                connection.sendall(piece)

    server = Server(identity_of(pki), serve=echo)
    with server.listening():
        shown = s_client(server, pki, "-tls1_2", sent=b"R\n")

    assert "RENEGOTIATING" in shown
    assert "no renegotiation" in shown
    assert len(server.peers) == 1  # the first handshake was good


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_stale_list_refuses_everyone(tmp_path: Path, version: ssl.TLSVersion) -> None:
    pki = pki_of(tmp_path)
    pki.authority.write_crl(period(-3 * DAY, -DAY))
    server = Server(identity_of(pki))
    context = client_context(pki, pki.modality)
    context.maximum_version = version
    with server.listening():
        failure = refused(server, context)

    assert failure.reason == "revocation-list-expired"


def test_without_lists_revocation_is_not_known(tmp_path: Path) -> None:
    pki = pki_of(tmp_path)
    server = Server(identity_of(pki, revocation_lists=[]))
    with server.listening():
        assert call(server, client_context(pki, pki.revoked)) == b"hi"


# files that change while the gateway runs


@dataclass
class Clock:
    """Seconds that a test lets pass."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Changing:
    """An identity whose files a test changes."""

    pki: Pki
    clock: Clock = field(default_factory=Clock)
    reports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = TlsIdentity(
            Tls.model_validate(self.pki.tls()),
            no_secret,
            report=self.reports.append,
            monotonic=self.clock,
        )
        self.server = Server(self.identity)

    def later(self) -> None:
        self.clock.seconds += 1.0

    def reason(self, node: NodeFiles) -> str | None:
        """Why a node is refused; None: it is not."""
        self.server.failures.clear()
        try:
            assert call(self.server, client_context(self.pki, node)) == b"hi"
        except OSError:
            assert self.server.done.acquire(timeout=SECONDS)
            (failure,) = self.server.failures
            return failure.reason
        assert self.server.done.acquire(timeout=SECONDS)
        return None


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Changing]:
    made = Changing(pki_of(tmp_path))
    with made.server.listening():
        yield made


def test_a_new_list_counts_from_the_next_connection(changing: Changing) -> None:
    pki = changing.pki
    assert changing.reason(pki.stranger) is None

    pki.authority.revoke(pki.stranger)
    changing.later()

    assert changing.reason(pki.stranger) == "certificate-revoked"
    assert changing.reason(pki.modality) is None
    assert changing.reports == [""]


def test_a_new_authority_counts_from_the_next_connection(changing: Changing) -> None:
    pki = changing.pki
    assert changing.reason(pki.unknown) == "unknown-authority"

    append(pki.authority.certificate, pki.other.certificate)
    changing.later()
    assert changing.reason(pki.unknown) == "unknown-authority"  # its list is missing
    (fault,) = changing.reports
    assert "no list in revocation_lists is of CN=Other Authority" in fault


def append(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + other.read_bytes())


def test_a_new_certificate_is_shown_from_the_next_connection(
    changing: Changing,
) -> None:
    pki = changing.pki
    before = shown_by(changing)

    pki.authority.node("gateway", dns=[HOST])
    assert shown_by(changing) == before  # looked at once a second at most
    changing.later()

    assert shown_by(changing) == pki.gateway.peer.sha256 != before


def shown_by(changing: Changing) -> str:
    context = client_context(changing.pki, changing.pki.modality)
    port = changing.server.port
    with (
        socket.create_connection(("127.0.0.1", port), SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=HOST) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        assert connection.recv(2) == b"hi"
    return PeerCertificate.from_der(der).sha256


def replace_key(pki: Pki) -> None:
    pki.gateway.key.write_bytes(pki.archive.key.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda pki: pki.gateway.certificate.write_text("no"), "no certificate in PEM"),
        (lambda pki: pki.gateway.key.unlink(), "cannot be read: No such file"),
        (lambda pki: pki.gateway.key.chmod(0o640), "run: chmod 600"),
        (replace_key, "is not that of"),
        (lambda pki: pki.authority.crl.write_text("no"), "no revocation list in PEM"),
    ],
)
def test_bad_files_leave_everything_as_it_was(
    changing: Changing, spoil: Callable[[Pki], None], told: str
) -> None:
    before = shown_by(changing)

    spoil(changing.pki)
    for _ in range(3):
        changing.later()
        assert shown_by(changing) == before

    (fault,) = changing.reports  # once, however often they are looked at
    assert told in fault

    changing.pki.authority.node("gateway", dns=[HOST])
    changing.pki.authority.write_crl()
    changing.later()
    assert shown_by(changing) == changing.pki.gateway.peer.sha256
    assert changing.reports[1:] == [""]


def test_a_connection_outlives_the_files_it_was_made_with(
    changing: Changing,
) -> None:
    reached, may_go_on = threading.Event(), threading.Event()

    def patient(connection: TlsSocket) -> None:
        reached.set()
        assert may_go_on.wait(SECONDS)
        connection.sendall(b"still here")

    changing.server.serve = patient
    pki = changing.pki
    with (
        socket.create_connection(("127.0.0.1", changing.server.port), SECONDS) as raw,
        client_context(pki, pki.stranger).wrap_socket(
            raw, server_hostname=HOST
        ) as connection,
    ):
        assert reached.wait(SECONDS)
        pki.authority.revoke(pki.stranger)
        changing.later()
        assert changing.identity.contexts is not None  # taken up
        may_go_on.set()
        assert connection.recv(100) == b"still here"
    assert changing.reports == [""]


def test_a_session_does_not_outlive_its_list(tmp_path: Path) -> None:
    """TLS 1.2 can take a session up without showing the certificate again."""
    pki = pki_of(tmp_path)
    end = period(-DAY, DAY)
    pki.authority.write_crl(end)
    clock, today = Clock(), [now()]
    identity = TlsIdentity(
        Tls.model_validate(pki.tls()),
        no_secret,
        monotonic=clock,
        clock=lambda: today[0],
    )
    first = identity.contexts

    today[0] = end.end
    clock.seconds += 1

    assert identity.contexts is not first


# whom this side calls


def expected(**settings: object) -> MoveDestination:
    values: dict[str, object] = {"ae_title": "X", "host": "127.0.0.1", "port": 1}
    return MoveDestination.model_validate(values | settings)


@pytest.mark.parametrize(
    ("settings", "node", "reason"),
    [
        ({}, "archive", None),
        ({"tls_name": "archive.test"}, "archive", None),
        ({"tls_name": "archive.test"}, "workstation", "wrong-name"),
        ({"tls_name": "archive"}, "archive", "wrong-name"),  # a common name only
        ({"tls_name": "modality.test"}, "expired", "certificate-expired"),
        ({"tls_name": "modality.test"}, "revoked", "certificate-revoked"),
        ({"tls_name": "modality.test"}, "unknown", "unknown-authority"),
        ({"certificates": ["archive"]}, "archive", None),
        ({"certificates": ["archive"]}, "workstation", "wrong-certificate"),
        ({"certificates": ["unknown"]}, "unknown", None),  # pinned is enough
        ({"certificates": ["expired"]}, "expired", "certificate-expired"),
        ({"certificates": ["revoked"]}, "revoked", "certificate-revoked"),
    ],
)
def test_a_peer_is_called_only_if_it_is_the_expected_one(
    pki: Pki, settings: dict[str, object], node: str, reason: str | None
) -> None:
    shows: NodeFiles = getattr(pki, node)
    for kind in ("fingerprint", "certificate"):
        names = settings.get("certificates", [])
        assert isinstance(names, list)
        pins = [getattr(getattr(pki, name), kind) for name in names]
        peer = identity_of(pki).requested(
            expected(**(settings | {"certificates": pins}))
        )
        with stranger_listening(shows) as port:
            raw = socket.create_connection(("127.0.0.1", port), SECONDS)
            if reason is None:
                secure_requested(raw, peer, SECONDS).close()
            else:
                with pytest.raises(HandshakeFailed) as caught:
                    secure_requested(raw, peer, SECONDS)
                assert caught.value.reason == reason


@contextmanager
def stranger_listening(node: NodeFiles) -> Iterator[int]:
    """A TLS server with a node's certificate, for one connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(node.certificate, node.key)

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            try:
                context.wrap_socket(accepted, server_side=True).close()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


# what `select` does not see


def test_data_and_its_absence_are_told_without_waiting(pki: Pki) -> None:
    """Half a record is no data; the rest of a decrypted one is."""
    ours, theirs = socket.socketpair()
    context = client_context(pki, pki.modality)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    server = wrap_accepted(identity_of(pki).contexts.server, ours)
    thread = threading.Thread(target=secure_accepted, args=(server, SECONDS, now()))
    thread.start()
    shake_hands(client, incoming, outgoing, theirs)
    thread.join()

    assert not server.readable()
    client.write(b"0123456789")
    record = outgoing.read()
    theirs.sendall(record[:7])
    assert not server.readable()
    theirs.sendall(record[7:])
    assert server.readable()
    assert server.recv(4) == b"0123"
    assert server.readable()  # nothing is left on the socket
    assert server.recv(100) == b"456789"
    assert not server.readable()
    assert server.gettimeout() == SECONDS
    theirs.close()
    assert server.readable()
    assert server.recv(1) == b""
    server.close()


def test_a_closed_socket_is_an_error_and_not_a_wait() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    with pytest.raises(OSError, match="closed"):
        has_come(ours)


def shake_hands(
    client: ssl.SSLObject,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    wire: socket.socket,
) -> None:
    for _ in range(10):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            wire.sendall(outgoing.read())
            incoming.write(wire.recv(1 << 16))
        else:
            wire.sendall(outgoing.read())
            return
    pytest.fail("no end of the handshake")


def test_authority_of_a_test_is_what_openssl_takes(pki: Pki) -> None:
    assert isinstance(pki.authority, Authority)
    for node in (pki.gateway, pki.modality, pki.workstation, pki.archive):
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile"]
        files = [pki.authority.certificate, "-CRLfile", pki.authority.crl]
        subprocess.run(
            [*command, *files, node.certificate], check=True, capture_output=True
        )
