"""The receiving process: both AE titles, listening, and their clean stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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

from config.schema import Receiver, Recovery, Site
from gateway.access.access import Access
from gateway.audit.log import AuditLog
from gateway.dicom.admission import Admission
from gateway.dicom.association import (
    BoundedSocket,
    GatewayAssociation,
    Service,
    set_no_delay,
)
from gateway.dicom.contexts import Purpose, contexts_for
from gateway.dicom.handlers import StorageService
from gateway.dicom.retrieve import ReceiverService, RetrieveService
from gateway.dicom.retrieve_grants import for_readers, for_recovery
from gateway.dicom.retrieve_holdings import (
    Originals,
    ProtectedObjects,
    Restore,
    Verify,
)
from gateway.dicom.security import Security
from gateway.errors import HandshakeFailed
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from gateway.tls.certificates import PeerCertificate
from gateway.tls.identity import TlsIdentity
from gateway.tls.reminder import Reminder
from gateway.tls.secrets import secret_reader

LOG = structlog.get_logger(component="listener")

NO_LIMIT = 65_535
POLL_SECONDS = 0.05
STOP_SECONDS = 5.0
UNKNOWN_CONNECTIONS = 64


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the two AE titles listen, after port 0 was resolved; None: nowhere.

    Attributes
    ----------
    receiver, recovery
        With TLS.
    plain_receiver, plain_recovery
        Without.
    """

    receiver: int | None = None
    recovery: int | None = None
    plain_receiver: int | None = None
    plain_recovery: int | None = None


class GatewayServer(ThreadedAssociationServer):
    """Listens for one AE title."""

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        admission: Admission,
        service: Service,
        security: Security | None,
    ) -> None:
        self.admission = admission
        self.service = service
        self.security = security
        super().__init__(
            ae,
            address,
            ae.ae_title,
            contexts_for(admission.offered),
            request_handler=GatewayRequestHandler,
        )

    @override
    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; a peer that falls silent in a PDU times out."""
        connection, address = super().get_request()
        set_no_delay(connection)
        connection.settimeout(self.ae.network_timeout)
        return connection, address

    @override
    def verify_request(self, *_: object) -> bool:
        """Bound the connections that have not said yet who they are."""
        allowed = self.admission.max_associations + UNKNOWN_CONNECTIONS
        return len(self.active_associations) < allowed

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
        """Secure the connection if this port asks for it, then start."""
        security = self.server.security
        if security is not None:
            address = self.client_address[0]
            try:
                self.request, self.certificate = security.secure(self.request, address)
            except HandshakeFailed:
                return
            self.request.settimeout(self.ae.network_timeout)
        super().handle()

    @override
    def _create_association(self) -> GatewayAssociation:
        server = self.server
        association = GatewayAssociation(self.ae, server.admission, server.service)
        association._server = server
        association.certificate = self.certificate
        association.name = f"AcceptorThread@{self.client_address[0]}"
        connection = BoundedSocket(association, client_socket=self.request)
        connection.max_pdu_bytes = self.ae.maximum_pdu_size
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


class Running:
    """The listening AE titles; ``stop`` ends them.

    Parameters
    ----------
    servers
        By the name of their port in `Ports`.
    reminder
        Reminds of certificates that end, until it is stopped.

    Attributes
    ----------
    ports
        Where they listen.
    """

    def __init__(
        self, servers: Mapping[str, GatewayServer], reminder: Reminder
    ) -> None:
        self._servers = tuple(servers.values())
        self._reminder = reminder
        self.ports = Ports(**{n: s.server_address[1] for n, s in servers.items()})
        self._threads = [
            threading.Thread(
                target=server.serve_forever,
                args=(POLL_SECONDS,),
                name=f"AcceptorServer@{server.server_address[1]}",
                daemon=True,
            )
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        reminder.start()

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Refuse new associations, let open ones finish, then abort the rest.

        Returns when no thread of theirs is left.
        """
        self._reminder.stop()
        for server in self._servers:
            server.admission.close()
            server.shutdown()
        for thread in self._threads:
            thread.join()
        associations = [a for s in self._servers for a in s.active_associations]
        _wait(associations, grace_seconds)
        for association in associations:
            if association.is_alive():
                association.abort()
                association.dul.to_user_queue.put(None)  # it may wait for a request
        _wait(associations, STOP_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Records:
    """What only the sealed records can tell, as the vault's owner gives it.

    Attributes
    ----------
    restore
        Rebuilds the received data set of a protected object, verified.
    verify
        Checks that a protected object and its record are whole.
    """

    restore: Restore
    verify: Verify


def start_receiver(
    site: Site,
    store: FileStore,
    index: Index,
    audit: AuditLog,
    records: Records,
    access: Access,
) -> Running:
    """Listen on both AE titles of a site.

    Parameters
    ----------
    site
        The settings; port 0 takes any free port.
    store, index, audit
        Where objects, rows and the trail go.
    records
        Rebuilds originals and checks protected objects.
    access
        Who the nodes are, and which originals they may have.

    Returns
    -------
    Running
        Listening when this returns.

    Raises
    ------
    OSError
        An address cannot be bound.
    ConfigurationError
        A certificate, key or revocation list cannot be used.
    """
    leftovers = store.clear_incoming()
    if leftovers:
        LOG.info("interrupted receptions removed", files=leftovers)
    known = Known(access=access, tls=_identity(site, audit))
    ends = {
        "receiver": _receiver(site, store, index, audit, records.verify, known),
        "recovery": _recovery(site, store, index, audit, records.restore, known),
    }
    running = Running(_listening(site, ends, known.tls, audit), Reminder(site))
    LOG.info("listening", **asdict(running.ports))
    return running


def _identity(site: Site, audit: AuditLog) -> TlsIdentity | None:
    """Load the ``[tls]`` table; every later change of its files is recorded."""
    if site.tls is None:
        return None

    def report(fault: str) -> None:
        audit.note("tls", "failure" if fault else "success", error=fault)

    return TlsIdentity(site.tls, secret_reader(site.data_directory), report=report)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Whom this site knows, and what it is known by itself."""

    access: Access
    tls: TlsIdentity | None


@dataclass(frozen=True, kw_only=True)
class End:
    """One AE title: where, who may call it, and what answers."""

    settings: Receiver | Recovery
    admission: Admission
    service: Service


def _listening(
    site: Site,
    ends: Mapping[str, End],
    identity: TlsIdentity | None,
    audit: AuditLog,
) -> dict[str, GatewayServer]:
    """Bind every port that is configured, or none."""
    servers: dict[str, GatewayServer] = {}
    try:
        for name, end in ends.items():
            if identity is not None:
                security = Security(
                    identity,
                    service=end.admission.service,
                    handshake_seconds=site.limits.handshake_seconds,
                    audit=audit,
                )
                servers[name] = _server(site, end, end.settings.port, security)
            if end.settings.plain_port is not None:
                port = end.settings.plain_port
                servers[f"plain_{name}"] = _server(site, end, port, None)
    except BaseException:
        for server in servers.values():
            server.server_close()
        raise
    return servers


def _server(
    site: Site, end: End, port: int, security: Security | None
) -> GatewayServer:
    return GatewayServer(
        _entity(end.admission.called_ae, site.receiver),
        (end.settings.host, port),
        end.admission,
        end.service,
        security,
    )


def _receiver(
    site: Site,
    store: FileStore,
    index: Index,
    audit: AuditLog,
    verify: Verify,
    known: Known,
) -> End:
    """Take objects in, and queries of those who may read protected ones."""
    settings = site.receiver
    admission = Admission(
        service="receive",
        called_ae=settings.ae_title,
        nodes=known.access.nodes,
        roles={Purpose.STORE: "store", Purpose.RETRIEVE: "read"},
        max_associations=settings.max_associations,
        audit=audit,
    )
    storage = StorageService(
        store, index, audit, max_object_bytes=settings.max_object_bytes
    )
    holdings = ProtectedObjects(store, index, verify)
    retrieval = RetrieveService(for_readers(site), holdings, audit, known.tls)
    return End(
        settings=settings,
        admission=admission,
        service=ReceiverService(storage, retrieval),
    )


def _recovery(
    site: Site,
    store: FileStore,
    index: Index,
    audit: AuditLog,
    restore: Restore,
    known: Known,
) -> End:
    """Answer queries of those who may have originals."""
    settings = site.recovery
    admission = Admission(
        service="recover",
        called_ae=settings.ae_title,
        nodes=known.access.nodes,
        roles={Purpose.RETRIEVE: "recover"},
        max_associations=site.receiver.max_associations,
        audit=audit,
    )
    holdings = Originals(store, index, restore, known.access)
    return End(
        settings=settings,
        admission=admission,
        service=RetrieveService(
            for_recovery(site, known.access), holdings, audit, known.tls
        ),
    )


def _entity(ae_title: str, settings: Receiver) -> AE:
    entity = AE(ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = settings.max_pdu_bytes
    entity.maximum_associations = NO_LIMIT  # admission counts, and audits
    entity.network_timeout = settings.network_timeout_seconds
    entity.acse_timeout = settings.network_timeout_seconds
    entity.dimse_timeout = settings.network_timeout_seconds
    return entity


def _wait(threads: list[Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
