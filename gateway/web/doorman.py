"""Who comes in over HTTPS: connections before and while HTTP is spoken on them.

uvicorn's own TLS tells the application nothing of the peer's certificate and
nobody of a handshake that failed. So it is given a plain listening socket and
this protocol: it counts the connection, shakes hands, and only then hands over
to uvicorn's HTTP, together with the certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.server import ServerState

from config.schema import Limits
from gateway.audit.refusals import RefusalLog
from gateway.dicom.connections import ConnectionGate, Passage
from gateway.errors import HandshakeFailed
from gateway.tls.certificates import PeerCertificate
from gateway.tls.identity import TlsIdentity
from gateway.web.handshake import Shown, secure
from gateway.web.pacing import PacedHttp

LOG = structlog.get_logger(component="web")

CONNECTION_KEY: Final = "connection"
"""Under which the state of a request holds its `Connection`."""


class Visitors(Protocol):
    """Knows who shows a certificate."""

    def is_known(self, certificate: PeerCertificate, address: str) -> bool:
        """Whether it is a node or a person of this site."""


@dataclass
class Connection:
    """A TLS connection whose peer has proven to hold a certificate.

    Attributes
    ----------
    address
        IP address of the peer.
    shown
        What it has shown.
    logged_in
        Whether a log-in over it was recorded.
    closed
        Whether it is over.
    """

    address: str
    shown: Shown
    logged_in: bool = False
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Door:
    """What all connections of a server share.

    Attributes
    ----------
    gate
        Counts connections.
    identity
        The gateway's certificate and whom it trusts.
    visitors
        Knows who shows a certificate.
    refusals
        Where refused connections are recorded.
    limits
        How long things may take.
    """

    gate: ConnectionGate
    identity: TlsIdentity
    visitors: Visitors
    refusals: RefusalLog
    limits: Limits

    def refuse(self, address: str, reason: str) -> None:
        """Record that a connection is refused; not in the thread of the loop."""
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._note, address, reason)

    def _note(self, address: str, reason: str) -> None:
        if self.refusals.note("association", address, service="web", why=reason):
            LOG.warning("connection refused", peer_address=address, why=reason)


class Doorman(asyncio.Protocol):
    """Stands between an accepted connection and HTTP.

    Parameters
    ----------
    door
        Decides.
    config, server_state, app_state, _loop
        As uvicorn gives them to each of its protocols.
    """

    def __init__(
        self,
        door: Door,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._door = door
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._early = bytearray()
        self._lost = False
        self._entered: _Entered | None = None
        self._task: asyncio.Task[None] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, or end it; then shake hands."""
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        peer = transport.get_extra_info("peername")
        held = _second_handle(transport)
        if peer is None or held is None:  # gone already
            transport.abort()
            return
        address = str(peer[0])
        passage = self._door.gate.enter(held, address)
        if passage is None:
            held.close()
            transport.abort()
            return
        self._entered = _Entered(passage, held)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._admit(transport, address))

    @override
    def data_received(self, data: bytes) -> None:
        """Keep what comes with the last message of the handshake."""
        self._early += data

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Note that there is nobody to hand over any more."""
        self._lost = True

    async def _admit(self, transport: asyncio.Transport, address: str) -> None:
        entered = self._entered
        assert entered is not None
        try:
            secured, shown = await secure(
                transport,
                self,
                self._door.identity.contexts.server,
                self._door.limits.handshake_seconds,
            )
        except HandshakeFailed as error:
            # A browser leaves to ask its user for a certificate, and comes again.
            if not entered.passage.dropped and error.reason != "peer-left":
                self._door.refuse(address, error.reason)
            entered.leave()
            return
        except BaseException:
            transport.abort()
            entered.leave()
            raise
        if self._lost:
            entered.leave()
            return
        self._hand_over(secured, Connection(address, shown), entered)

    def _hand_over(
        self, secured: asyncio.Transport, connection: Connection, entered: _Entered
    ) -> None:
        door = self._door
        if door.visitors.is_known(connection.shown.peer, connection.address):
            entered.passage.identified()

        def ended() -> None:
            connection.closed = True
            entered.leave()

        http = PacedHttp(
            door.limits,
            on_refusal=lambda why: door.refuse(connection.address, why),
            on_lost=ended,
            config=self._config,
            server_state=self._server_state,
            app_state={**self._app_state, CONNECTION_KEY: connection},
        )
        secured.set_protocol(http)
        http.connection_made(secured)
        if self._early:
            http.data_received(bytes(self._early))


@dataclass
class _Entered:
    """A counted connection and the handle by which it can be shut down."""

    passage: Passage
    held: socket.socket

    def leave(self) -> None:
        """Count it no more."""
        self.passage.leave()
        self.held.close()


def _second_handle(transport: asyncio.Transport) -> socket.socket | None:
    """Return a handle of a connection's own: asyncio's must not be shut down."""
    with contextlib.suppress(OSError):
        return transport.get_extra_info("socket").dup()  # type: ignore[no-any-return]
    return None
