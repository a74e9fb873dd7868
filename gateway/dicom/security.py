"""TLS of accepted connections: the handshake in the connection's own thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import structlog

from gateway.audit.refusals import RefusalLog
from gateway.errors import HandshakeFailed
from gateway.tls.certificates import PeerCertificate
from gateway.tls.handshake import TlsSocket, secure_accepted, wrap_accepted
from gateway.tls.identity import TlsIdentity

LOG = structlog.get_logger(component="tls")


class Security:
    """Secures the connections of one listening port.

    Parameters
    ----------
    identity
        The gateway's certificate and whom it trusts.
    service
        Name for the audit trail: ``receive`` or ``recover``.
    handshake_seconds
        For a whole handshake.
    refusals
        Where refused peers are recorded.
    """

    def __init__(
        self,
        identity: TlsIdentity,
        *,
        service: str,
        handshake_seconds: float,
        refusals: RefusalLog,
    ) -> None:
        self._identity = identity
        self._service = service
        self._seconds = handshake_seconds
        self._refusals = refusals
        self._lock = threading.Lock()
        self._shaking: set[TlsSocket] = set()
        self._closed = False

    def secure(
        self,
        connection: socket.socket,
        address: str,
        carries: Callable[[TlsSocket], None] = lambda _connection: None,
    ) -> tuple[TlsSocket, PeerCertificate]:
        """Do the handshake; a peer that is refused is recorded by name.

        Parameters
        ----------
        connection
            As accepted; closed if this raises.
        address
            Of the peer, for the trail.
        carries
            Told of the connection that takes the place of the accepted one,
            before the handshake.

        Raises
        ------
        HandshakeFailed
            The peer is nobody this side knows, or does not speak TLS.
        """
        try:
            wrapped = wrap_accepted(self._identity.contexts.server, connection)
        except OSError as error:
            connection.close()
            raise self._refused(HandshakeFailed("peer-left", ""), address) from error
        try:
            with self._shaking_hands(wrapped):
                carries(wrapped)
                peer = secure_accepted(wrapped, self._seconds, self._identity.now())
        except HandshakeFailed as failure:
            raise self._refused(failure, address) from failure
        except OSError as error:  # dropped before it began
            wrapped.close()
            raise HandshakeFailed("peer-left", str(error)) from error
        return wrapped, peer

    def close(self) -> None:
        """End the handshakes under way, and let none begin."""
        with self._lock:
            self._closed = True
            shaking = list(self._shaking)
        for connection in shaking:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _shaking_hands(self, connection: TlsSocket) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the gateway stops")
            self._shaking.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._shaking.discard(connection)

    def _refused(self, failure: HandshakeFailed, address: str) -> HandshakeFailed:
        whole = self._refusals.note(
            "association", address, service=self._service, why=failure.reason
        )
        if whole:
            LOG.warning(
                "handshake failed",
                service=self._service,
                peer_address=address,
                why=failure.reason,
                error=str(failure),
            )
        return failure
