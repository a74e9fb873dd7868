"""The socket under an association, plain or TLS, at either end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import (
    T_CONNECT,
    AddressInformation,
    AssociationSocket,
)
from typing_extensions import override

from gateway.errors import HandshakeFailed
from gateway.tls.handshake import (
    Requested,
    TlsSocket,
    failure_of,
    has_come,
    secure_requested,
)

LOG = structlog.get_logger(component="transport")


class GatewaySocket(AssociationSocket):
    """A socket that never waits for data it only seems to have.

    Attributes
    ----------
    failure
        Why TLS failed, once it has; None: it did not.
    """

    failure: HandshakeFailed | None = None

    @property
    @override
    def ready(self) -> bool:
        """Whether a read would return at once; a broken connection is an event."""
        connection = self.socket
        if connection is None or self._is_connected is False:
            return False
        try:
            if isinstance(connection, TlsSocket):
                return connection.readable()
            return has_come(connection)
        except OSError as error:
            if isinstance(error, ssl.SSLError) and self.failure is None:
                self.failure = failure_of(error)
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    @override
    def close(self) -> None:
        """Close the connection, with a TLS goodbye where none has to be waited for."""
        connection = self.socket
        own_thread = threading.current_thread() is self.assoc.dul
        if isinstance(connection, TlsSocket) and own_thread and self._is_connected:
            connection.say_goodbye()
        super().close()

    @override
    def _shutdown_socket(self) -> None:
        """Close the socket, also where the peer has closed it before."""
        connection = self.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class RequestedSocket(GatewaySocket):
    """Connects to a peer, with TLS or, where the settings say so, without.

    Parameters
    ----------
    assoc
        Its association.
    address
        Where to call from.
    tls
        How the peer is known; None: without TLS.
    handshake_seconds
        For the whole handshake.
    """

    def __init__(
        self,
        assoc: Association,
        address: AddressInformation,
        tls: Requested | None,
        handshake_seconds: float,
    ) -> None:
        super().__init__(assoc, address=address)
        self._tls = tls
        self._handshake_seconds = handshake_seconds

    @override
    def connect(self, primitive: T_CONNECT) -> None:
        """Connect, shake hands, and tell the state machine how it went."""
        connection = self.socket
        assert connection is not None, "connected once only"
        try:
            primitive.result = "Evt17"  # transport connection closed, unless
            self.socket = self._connected(connection, primitive)
            primitive.result = "Evt2"  # transport connection confirmation
        except HandshakeFailed as failure:
            self.failure = failure
        except OSError as error:
            LOG.info("not connected", error=repr(error))
        finally:  # whatever happened: somebody waits for this
            if primitive.result == "Evt17":
                self._shutdown_socket()
                self.socket = None
            self.provider_queue.put(primitive)
            self._ready.set()

    def _connected(
        self, connection: socket.socket, primitive: T_CONNECT
    ) -> socket.socket:
        """Return the connection, secured if it is to be.

        Raises
        ------
        HandshakeFailed
            The peer is not who it should be, or refused this side.
        OSError
            It cannot be reached.
        """
        address = primitive.address_info.as_tuple
        connection.settimeout(self.assoc.connection_timeout)
        connection.connect(address)
        # Nagle's algorithm costs 40 ms an image.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            self.socket = None  # it is detached, and the wrapped one closed if need be
            connection = secure_requested(
                connection, self._tls, self._handshake_seconds
            )
        # A peer that takes nothing more, or falls silent in a PDU, is lost.
        connection.settimeout(self.assoc.connection_timeout)
        self.assoc.requestor.address_info = AddressInformation.from_tuple(
            connection.getsockname()
        )
        self._is_connected = True
        evt.trigger(self.assoc, evt.EVT_CONN_OPEN, {"address": address})
        return connection
