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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import h11
import structlog
from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from config.schema import Limits
from gateway.audit.refusals import RefusalLog
from gateway.dicom.connections import ConnectionGate, Passage
from gateway.errors import HandshakeFailed
from gateway.tls.certificates import PeerCertificate
from gateway.tls.identity import TlsIdentity
from gateway.web.handshake import Shown, secure

LOG = structlog.get_logger(component="web")

LEAST_BYTES: Final = 16_384
"""Of a body that is awaited, in every ``pdu_seconds``."""

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


class PacedHttp(H11Protocol):
    """uvicorn's HTTP/1.1, with an end to what never ends.

    Parameters
    ----------
    limits
        ``request_seconds`` for the head of a request; ``pdu_seconds`` in which a
        body, in either direction, must get on.
    on_refusal
        Told why a connection is ended.
    on_lost
        Told that it has ended.
    options
        As uvicorn gives them.
    """

    def __init__(
        self,
        limits: Limits,
        on_refusal: Callable[[str], None],
        on_lost: Callable[[], None],
        **options: Any,  # noqa: ANN401 - uvicorn's own
    ) -> None:
        super().__init__(**options)
        self._limits = limits
        self._on_refusal = on_refusal
        self._on_lost = on_lost
        self._head_due: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._received = 0
        self._resumed = 0
        self._seen: tuple[bool, int, bool, int] = (False, 0, False, 0)

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_head()
        self._look_later()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        for timer in (self._head_due, self._next_look):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._on_lost()

    @override
    def data_received(self, data: bytes) -> None:
        """Take what comes; an unfinished head has only so long."""
        self._received += len(data)
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_head()
        elif self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and have it recorded."""
        self._on_refusal("request-invalid")
        super().send_400_response(msg)

    @override
    def resume_writing(self) -> None:
        """Count that the peer has taken something."""
        self._resumed += 1
        super().resume_writing()

    def _await_head(self) -> None:
        if self._head_due is None and not self.transport.is_closing():
            self._head_due = self.loop.call_later(
                self._limits.request_seconds, self._end, "request-too-slow"
            )

    def _look_later(self) -> None:
        self._next_look = self.loop.call_later(self._limits.pdu_seconds, self._look)

    def _look(self) -> None:
        """End a connection on which a body has not got on since the last look."""
        awaited = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        now = (awaited, self._received, self.flow.write_paused, self._resumed)
        was_awaited, received, was_paused, resumed = self._seen
        self._seen = now
        if awaited and was_awaited and self._received - received < LEAST_BYTES:
            self._end("body-too-slow")
        elif self.flow.write_paused and was_paused and self._resumed == resumed:
            self._end("answer-not-taken")
        else:
            self._look_later()

    def _end(self, why: str) -> None:
        if not self.transport.is_closing():
            self._on_refusal(why)
        self.transport.abort()


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
