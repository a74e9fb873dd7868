"""Accepts connections for an AE title and makes associations of them."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from socketserver import TCPServer
from typing import Any

import structlog
from pynetdicom import AE
from pynetdicom.transport import (
    AddressInformation,
    RequestHandler,
    ThreadedAssociationServer,
)
from typing_extensions import override

from gateway.dicom.admission import Admission
from gateway.dicom.association import (
    GatewayAssociation,
    Service,
    set_no_delay,
)
from gateway.dicom.connections import Guard, Passage
from gateway.dicom.contexts import contexts_for
from gateway.dicom.ports import BACKLOG
from gateway.dicom.security import Security
from gateway.dicom.upper_layer import (
    BoundedSocket,
    RequestNotTaken,
    receive_request,
)
from gateway.errors import HandshakeFailed
from gateway.tls.certificates import PeerCertificate

LOG = structlog.get_logger(component="listener")

YIELD_SECONDS = 0.01
"""For each connection more than the process with the fewest has."""
LONGEST_YIELD_SECONDS = 0.03


class GatewayServer(ThreadedAssociationServer):
    """Listens for one AE title."""

    request_queue_size = BACKLOG

    def __init__(
        self,
        ae: AE,
        listens: tuple[str, int] | socket.socket,
        admission: Admission,
        service: Service,
        guard: Guard,
        security: Security | None,
    ) -> None:
        self._inherited = listens if isinstance(listens, socket.socket) else None
        address = (
            listens.getsockname()[:2] if isinstance(listens, socket.socket) else listens
        )
        self._counts = guard.counts
        self.admission = admission
        self.service = service
        self.gate = guard.gate
        self.limits = guard.limits
        self.security = security
        self.passages: dict[socket.socket, Passage] = {}
        super().__init__(
            ae,
            address,
            ae.ae_title,
            contexts_for(admission.offered),
            request_handler=GatewayRequestHandler,
        )

    @override
    def server_bind(self) -> None:
        """Bind, unless the socket is one that several processes have."""
        if self._inherited is None:
            super().server_bind()
            return
        unused, self.socket = self.socket, self._inherited
        if unused is not None:
            unused.close()

    @override
    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; one that has more leaves it to others first.

        Raises
        ------
        BlockingIOError
            Another process was faster.
        """
        ahead = self._counts.ahead()
        if ahead > 0:
            time.sleep(min(ahead * YIELD_SECONDS, LONGEST_YIELD_SECONDS))
        connection, address = super().get_request()
        set_no_delay(connection)
        return connection, address

    @override
    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Ask the gate whether there is a place for the connection."""
        passage = self.gate.enter(request, client_address[0])
        if passage is not None:
            self.passages[request] = passage
        return passage is not None

    @override
    def service_actions(self) -> None:
        """Do what is due while nobody connects.

        Not what pynetdicom does: a collection of all garbage every few seconds
        holds every thread up for a quarter of a second.
        """
        self.gate.tick()

    @override
    def shutdown(self) -> None:
        """Stop accepting, end handshakes and close the listening socket."""
        TCPServer.shutdown(self)
        if self.security is not None:
            self.security.close()
        self.server_close()


class GatewayRequestHandler(RequestHandler):
    """Makes the association of an accepted connection."""

    server: GatewayServer
    certificate: PeerCertificate | None = None

    @override
    def handle(self) -> None:
        """Secure the connection, read the association request, then start it."""
        server = self.server
        passage = server.passages.pop(self.request)
        association = None
        try:
            self._secure(passage)
            first = receive_request(self.request, server.limits.request_seconds)
            association = self._association_of(first, passage)
            association.start()
        except RequestNotTaken as error:
            self._dismiss(error, passage)
        except HandshakeFailed:
            LOG.debug("connection ended", peer_address=passage.key)  # told of already
        finally:
            if association is None:
                passage.leave()
                server.shutdown_request(self.request)

    def _secure(self, passage: Passage) -> None:
        """Shake hands if this port asks for it."""
        security = self.server.security
        if security is not None:
            self.request, self.certificate = security.secure(
                self.request, self.client_address[0], passage.carries
            )

    def _dismiss(self, error: RequestNotTaken, passage: Passage) -> None:
        """Answer what is no association request."""
        if not error.answer or passage.dropped:
            LOG.debug("connection ended", peer_address=passage.key, reason=str(error))
            return
        self.server.gate.note(passage, str(error))
        with suppress(OSError):
            self.request.settimeout(1.0)
            self.request.sendall(error.answer)

    def _association_of(self, first: bytes, passage: Passage) -> GatewayAssociation:
        server = self.server
        association = GatewayAssociation(
            self.ae,
            server.admission,
            server.service,
            limits=server.limits,
            passage=passage,
        )
        association._server = server
        association.certificate = self.certificate
        association.name = f"AcceptorThread@{self.client_address[0]}"
        connection = BoundedSocket(association, self.request, first, server.limits)
        association.set_socket(connection)
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        association.requestor.address_info = AddressInformation.from_tuple(
            self.client_address
        )
        return association
