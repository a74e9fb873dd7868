"""The handshake, under one deadline, and why it failed, by name."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from typing_extensions import override

from gateway.errors import HandshakeFailed
from gateway.tls.certificates import PeerCertificate

AHEAD_BYTES: Final = 1 << 14  # a TLS record (RFC 8446 5.1)
LINGER_SECONDS: Final = 0.5
LINGER_READS: Final = 16

# Failures that no alert goes out for.
NOTHING_SAID: Final = frozenset({"handshake-timeout", "peer-left"})

# X509_V_ERR_..., openssl-verification-options(1)
_VERIFY_REASONS: Final = {
    2: "unknown-authority",
    3: "no-revocation-list",
    9: "certificate-not-yet-valid",
    10: "certificate-expired",
    11: "revocation-list-not-yet-valid",
    12: "revocation-list-expired",
    18: "unknown-authority",
    19: "unknown-authority",
    20: "unknown-authority",
    21: "unknown-authority",
    23: "certificate-revoked",
    26: "certificate-not-for-this-use",
    62: "wrong-name",
    64: "wrong-name",
    66: "weak-key",
    67: "weak-key",
    68: "weak-signature",
}

# SSL_R_..., what is no TLS or not the TLS that is spoken here.
_PROTOCOL_REASONS: Final = {
    "HTTP_REQUEST": "not-tls",
    "HTTPS_PROXY_REQUEST": "not-tls",
    "WRONG_VERSION_NUMBER": "not-tls",
    "UNKNOWN_PROTOCOL": "not-tls",
    "UNEXPECTED_MESSAGE": "not-tls",
    "BAD_RECORD_TYPE": "not-tls",
    "RECORD_LAYER_FAILURE": "not-tls",
    "UNSUPPORTED_PROTOCOL": "version-too-old",
    "VERSION_TOO_LOW": "version-too-old",
    "INAPPROPRIATE_FALLBACK": "version-too-old",
    "TLSV1_ALERT_PROTOCOL_VERSION": "peer-refused-version",
    "NO_SHARED_CIPHER": "no-shared-cipher",
    "NO_SHARED_GROUPS": "no-shared-cipher",
    "NO_SUITABLE_KEY_SHARE": "no-shared-cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no-shared-cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "EE_KEY_TOO_SMALL": "weak-key",
    "CA_KEY_TOO_SMALL": "weak-key",
    "CA_MD_TOO_WEAK": "weak-signature",
}

# Alerts (RFC 8446 6.2) with which a peer says no to this side's certificate.
_REFUSED_BY_PEER: Final = (
    "CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)


class TlsSocket(ssl.SSLSocket):
    """A TLS connection that can tell without waiting whether data has come.

    `select` sees records, not data: part of a record, or a record without data
    such as a session ticket, would make the next read wait; and data that was
    decrypted with the record before is not seen by it at all.
    """

    _ahead = b""
    _ended = False

    def readable(self) -> bool:
        """Whether `recv` would return at once: with data, or with the end.

        Raises
        ------
        OSError
            The connection broke, or the peer's alert.
        """
        if self._ahead or self._ended:
            return True
        if not self.pending() and not has_come(self):
            return False
        waits = self.gettimeout()
        self.settimeout(0)
        try:
            self._ahead = super().recv(AHEAD_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        finally:
            self.settimeout(waits)
        self._ended = not self._ahead
        return True

    @override
    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return what came, at most ``buflen`` octets; nothing at the end."""
        if self._ahead:
            taken, self._ahead = self._ahead[:buflen], self._ahead[buflen:]
            return taken
        return b"" if self._ended else super().recv(buflen, flags)

    def say_goodbye(self) -> None:
        """Send close_notify (RFC 8446 6.1) if that needs no waiting.

        Only from the thread that reads and writes.
        """
        with contextlib.suppress(OSError, ValueError):
            self.settimeout(0)
            self.unwrap()

    @override
    def shutdown(self, how: int) -> None:
        """End the connection under whoever uses it, without a word in clear.

        `SSLSocket.shutdown` forgets the keys first, and what another thread sends
        just then would leave unencrypted.
        """
        socket.socket.shutdown(self, how)


def has_come(connection: socket.socket) -> bool:
    """Whether octets wait, or the end; also for descriptors above 1023.

    Raises
    ------
    OSError
        The socket is closed.
    """
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
    except ValueError as error:  # what a closed socket says
        raise OSError("the socket is closed") from error
    return bool(poll.poll(0))


@dataclass(frozen=True, kw_only=True)
class Requested:
    """How a peer that this side calls is known.

    Attributes
    ----------
    context
        Verifies by name, or nothing where there are pins.
    server_name
        The DNS name or address its certificate must hold.
    pins
        Fingerprints as `PeerCertificate.sha256`; empty: the name counts.
    revoked
        Whether a revocation list names a certificate.
    clock
        Returns the present, aware.
    """

    context: ssl.SSLContext
    server_name: str
    pins: frozenset[str]
    revoked: Callable[[x509.Certificate], bool]
    clock: Callable[[], datetime]


def wrap_accepted(context: ssl.SSLContext, connection: socket.socket) -> TlsSocket:
    """Take over an accepted connection; the handshake is still to come."""
    wrapped = context.wrap_socket(
        connection, server_side=True, do_handshake_on_connect=False
    )
    assert isinstance(wrapped, TlsSocket)
    return wrapped


def secure_accepted(
    connection: TlsSocket, seconds: float, now: datetime
) -> PeerCertificate:
    """Do the handshake as the server, and return who the peer is.

    Parameters
    ----------
    connection
        From `wrap_accepted`; closed if the handshake fails.
    seconds
        For the whole handshake, however it is spread over packets.
    now
        The present, aware.

    Raises
    ------
    HandshakeFailed
        With the reason by name.
    """
    try:
        _shake_hands(connection, seconds)
        return _peer_of(connection, now)
    except HandshakeFailed as failure:
        if failure.reason not in NOTHING_SAID:
            _linger(connection)
        connection.close()
        raise


def secure_requested(
    connection: socket.socket, peer: Requested, seconds: float
) -> TlsSocket:
    """Do the handshake as the client on a connected socket.

    Raises
    ------
    HandshakeFailed
        The peer's certificate is not the expected one, or TLS failed; the
        connection is closed.
    """
    wrapped = peer.context.wrap_socket(
        connection, server_hostname=peer.server_name, do_handshake_on_connect=False
    )
    assert isinstance(wrapped, TlsSocket)
    try:
        _shake_hands(wrapped, seconds)
        if peer.pins:
            _check_pins(wrapped, peer)
    except HandshakeFailed:
        wrapped.close()
        raise
    return wrapped


def reason_of(error: OSError) -> str:
    """Return the stable name of why a TLS connection failed."""
    if isinstance(error, TimeoutError):
        return "handshake-timeout"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, "certificate-not-valid")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "peer-left"
    if not isinstance(error, ssl.SSLError):
        return "peer-left"
    reason = error.reason or ""
    if "ALERT" in reason and any(word in reason for word in _REFUSED_BY_PEER):
        return "peer-refused-our-certificate"
    return _PROTOCOL_REASONS.get(reason, "handshake-failed")


def detail_of(error: OSError) -> str:
    """Return OpenSSL's words, without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__


def failure_of(error: OSError) -> HandshakeFailed:
    """Return a transport error as one of TLS."""
    return HandshakeFailed(reason_of(error), detail_of(error))


def _shake_hands(connection: TlsSocket, seconds: float) -> None:
    try:
        connection.settimeout(seconds)
        # CPython's deadline is for the whole of it, not for each read.
        connection.do_handshake()
    except OSError as error:
        raise failure_of(error) from error


def _peer_of(connection: TlsSocket, now: datetime) -> PeerCertificate:
    der = connection.getpeercert(binary_form=True)
    if der is None:
        raise HandshakeFailed("no-certificate", "the peer showed no certificate")
    try:
        peer = PeerCertificate.from_der(der)
    except ValueError as error:
        raise HandshakeFailed("certificate-not-valid", str(error)) from error
    if peer.not_after <= now:  # a resumed TLS 1.2 session verifies nothing again
        raise HandshakeFailed("certificate-expired", "certificate has expired")
    return peer


def _check_pins(connection: TlsSocket, peer: Requested) -> None:
    der = connection.getpeercert(binary_form=True) or b""
    try:
        found = PeerCertificate.from_der(der)
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise HandshakeFailed("certificate-not-valid", str(error)) from error
    if found.sha256 not in peer.pins:
        raise HandshakeFailed(
            "wrong-certificate", f"the peer shows {found.subject}, which is not pinned"
        )
    now = peer.clock()
    if found.not_after <= now or certificate.not_valid_before_utc > now:
        raise HandshakeFailed("certificate-expired", "not valid at this time")
    if peer.revoked(certificate):
        raise HandshakeFailed("certificate-revoked", "on a revocation list")


def _linger(connection: TlsSocket) -> None:
    """Wait until the peer has read the alert that says why, but not long.

    A close with unread data resets the connection, and the alert is lost.
    """
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(LINGER_SECONDS / LINGER_READS)
        for _ in range(LINGER_READS):
            with contextlib.suppress(TimeoutError):
                if not socket.socket.recv(connection, AHEAD_BYTES):
                    break
