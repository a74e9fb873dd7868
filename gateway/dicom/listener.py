"""The receiving process: both AE titles, listening, and their clean stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import structlog
from pynetdicom import AE

from config.schema import Receiver, Site
from gateway.access.access import Access
from gateway.audit.log import AuditLog
from gateway.dicom.admission import Admission, Bounds
from gateway.dicom.association import (
    GatewayAssociation,
    Service,
)
from gateway.dicom.commitment_report import Reporter
from gateway.dicom.commitment_scp import CommitmentService, Keeping
from gateway.dicom.connections import Guard
from gateway.dicom.contexts import Purpose
from gateway.dicom.counts import Counts
from gateway.dicom.handlers import StorageService
from gateway.dicom.ports import Ports, addresses_of
from gateway.dicom.retrieve import ReceiverService, RetrieveService
from gateway.dicom.retrieve_grants import for_readers, for_recovery
from gateway.dicom.retrieve_holdings import (
    Originals,
    ProtectedObjects,
    Restore,
    Verify,
)
from gateway.dicom.security import Security
from gateway.dicom.server import GatewayServer
from gateway.sealing.providers import read_secret
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from gateway.tls.identity import TlsIdentity
from gateway.tls.reminder import Reminder

LOG = structlog.get_logger(component="listener")

NO_LIMIT = 65_535
POLL_SECONDS = 0.05
STOP_SECONDS = 5.0


class Running:
    """The listening AE titles; ``stop`` ends them.

    Parameters
    ----------
    servers
        By the name of their port in `Ports`.
    reminder
        Reminds of certificates that end, until it is stopped; None: another
        process does.
    reporter
        Reports what is committed to, until it is stopped.

    Attributes
    ----------
    ports
        Where they listen.
    """

    def __init__(
        self,
        servers: Mapping[str, GatewayServer],
        reminder: Reminder | None,
        reporter: Reporter,
    ) -> None:
        self._servers = tuple(servers.values())
        self._reminder = reminder
        self._reporter = reporter
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
        if reminder is not None:
            reminder.start()
        reporter.start()

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Refuse new associations, let open ones finish, then abort the rest.

        Returns when no thread of theirs is left.
        """
        if self._reminder is not None:
            self._reminder.stop()
        for server in self._servers:
            server.admission.close()
            server.gate.close()
            server.shutdown()
        for thread in self._threads:
            thread.join()
        associations = [a for s in self._servers for a in s.active_associations]
        _wait(associations, grace_seconds)
        for association in associations:
            if association.is_alive():
                # In a thread: one that does not end keeps no other from it.
                threading.Thread(
                    target=_abort, args=(association,), daemon=True
                ).start()
        _wait(associations, STOP_SECONDS)
        self._reporter.stop()


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
    return listen(
        site,
        Parts(store=store, index=index, audit=audit, records=records, access=access),
        Share(),
    )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a receiving process works with; see `start_receiver`."""

    store: FileStore
    index: Index
    audit: AuditLog
    records: Records
    access: Access


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a receiving process has in common with others; here: nothing.

    Attributes
    ----------
    number
        Of this process, from 0; only the first tells what all of them see.
    counts
        Of connections and associations, over all of them.
    sockets
        That listen already, by the name of their port.
    """

    number: int = 0
    counts: Counts = field(default_factory=Counts)
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)


def listen(site: Site, parts: Parts, share: Share) -> Running:
    """Listen on both AE titles; as `start_receiver`, in one of several processes."""
    first = share.number == 0
    known = Known(
        access=parts.access,
        tls=_identity(site, parts.audit, first=first),
        guard=Guard.of(site, parts.audit, share.counts),
    )
    commitment = CommitmentService(
        site=site,
        index=parts.index,
        audit=parts.audit,
        keeping=Keeping(index=parts.index, store=parts.store),
    )
    ends = {
        "receiver": _receiver(site, parts, commitment, known),
        "recovery": _recovery(site, parts, known),
    }
    reminder = Reminder(site) if first else None
    reporter = Reporter(
        site=site,
        index=parts.index,
        audit=parts.audit,
        keeping=commitment.keeping,
        tls=known.tls,
        wake=commitment.wake,
    )
    servers = _listening(site, ends, known, share.sockets)
    running = Running(servers, reminder, reporter)
    LOG.info("listening", **asdict(running.ports))
    return running


def _identity(site: Site, audit: AuditLog, *, first: bool) -> TlsIdentity | None:
    """Load the ``[tls]`` table; every later change of its files is recorded."""
    if site.tls is None:
        return None

    def report(fault: str) -> None:
        if first:
            audit.note("tls", "failure" if fault else "success", error=fault)

    return TlsIdentity(
        site.tls,
        partial(read_secret, base_directory=site.data_directory),
        report=report,
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """Whom this site knows, what it is known by itself, and what guards it."""

    access: Access
    tls: TlsIdentity | None
    guard: Guard


@dataclass(frozen=True, kw_only=True)
class End:
    """One AE title: where, who may call it, and what answers."""

    admission: Admission
    service: Service


def _listening(
    site: Site,
    ends: Mapping[str, End],
    known: Known,
    sockets: Mapping[str, socket.socket],
) -> dict[str, GatewayServer]:
    """Bind every port that is configured and not yet bound, or none."""
    servers: dict[str, GatewayServer] = {}
    try:
        for name, address in addresses_of(site).items():
            end = ends[name.removeprefix("plain_")]
            security = None
            if known.tls is not None and name in ends:
                security = Security(
                    known.tls,
                    service=end.admission.service,
                    handshake_seconds=site.limits.handshake_seconds,
                    refusals=known.guard.refusals,
                )
            servers[name] = GatewayServer(
                _entity(end.admission.called_ae, site.receiver),
                sockets.get(name, address),
                end.admission,
                end.service,
                known.guard,
                security,
            )
    except BaseException:
        for server in servers.values():
            server.server_close()
        raise
    return servers


def _receiver(
    site: Site, parts: Parts, commitment: CommitmentService, known: Known
) -> End:
    """Take objects in, and queries of those who may read protected ones."""
    settings = site.receiver
    admission = Admission(
        service="receive",
        called_ae=settings.ae_title,
        nodes=known.access.nodes,
        roles={
            Purpose.STORE: "store",
            Purpose.RETRIEVE: "read",
            Purpose.REPORT: "commit",
        },
        bounds=Bounds.of(settings),
        guard=known.guard,
    )
    storage = StorageService(
        parts.store,
        parts.index,
        parts.audit,
        max_object_bytes=settings.max_object_bytes,
        max_depth=site.limits.max_sequence_depth,
    )
    holdings = ProtectedObjects(parts.store, parts.index, parts.records.verify)
    retrieval = RetrieveService(for_readers(site), holdings, parts.audit, known.tls)
    return End(
        admission=admission,
        service=ReceiverService(storage, retrieval, commitment),
    )


def _recovery(site: Site, parts: Parts, known: Known) -> End:
    """Answer queries of those who may have originals."""
    admission = Admission(
        service="recover",
        called_ae=site.recovery.ae_title,
        nodes=known.access.nodes,
        roles={Purpose.RETRIEVE: "recover"},
        bounds=Bounds.of(site.receiver),
        guard=known.guard,
    )
    restore = parts.records.restore
    holdings = Originals(parts.store, parts.index, restore, known.access)
    return End(
        admission=admission,
        service=RetrieveService(
            for_recovery(site, known.access), holdings, parts.audit, known.tls
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


def _abort(association: GatewayAssociation) -> None:
    association.abort()
    association.dul.to_user_queue.put(None)  # it may wait for a request


def _wait(threads: list[Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
