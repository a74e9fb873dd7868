"""C-MOVE on the recovery AE title: originals, byte for byte, to a known node.

An object leaves only if its bytes hash to the digest recorded when they were
received. It is sent as it was received, never re-encoded.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import structlog
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_MOVE
from sqlalchemy.exc import SQLAlchemyError

from config.schema import MoveDestination, Recovery, RetrievingNode
from gateway.audit.log import AuditLog
from gateway.dicom import command
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.rawstore import MoveOriginator, OutboundObject, send_c_store_bytes
from gateway.dicom.requestor import Peer, Requestor, Timeouts, batches, requested
from gateway.dicom.retrieve_identifier import (
    parse_move,
    read_identifier,
)
from gateway.dicom.retrieve_order import Order, Progress, respond_move
from gateway.dicom.status import MoveStatus
from gateway.errors import (
    GatewayError,
    InvalidObject,
    InvalidQuery,
    MoveNotAuthorised,
    RecoveryRefused,
    TooManyMatches,
    UnknownDestination,
)
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, Protected

LOG = structlog.get_logger(component="move")

MAX_SUBOPERATIONS = 65_535  # the counts are unsigned shorts
# Rebuilding the next original may take long: the association is not idle then.
TIMEOUTS = Timeouts(answer=60.0, idle=None)

STATUS_OF: tuple[tuple[type[Exception], MoveStatus], ...] = (
    (UnknownDestination, MoveStatus.DESTINATION_UNKNOWN),
    (MoveNotAuthorised, MoveStatus.NOT_AUTHORISED),
    (TooManyMatches, MoveStatus.OUT_OF_RESOURCES_MATCHES),
    (InvalidQuery, MoveStatus.IDENTIFIER_DOES_NOT_MATCH),
    (InvalidObject, MoveStatus.UNABLE_TO_PROCESS),
    (OSError, MoveStatus.OUT_OF_RESOURCES_SUBOPERATIONS),
    (SQLAlchemyError, MoveStatus.OUT_OF_RESOURCES_MATCHES),
)
REFUSALS = tuple(error for error, _ in STATUS_OF)


class Restore(Protocol):
    """Rebuilds the received data set of a protected object."""

    def __call__(self, instance: Instance, protected: Protected, /) -> bytes:
        """Return the data set bytes, verified.

        Raises
        ------
        GatewayError
            They cannot be rebuilt exactly.
        """


class MoveHandler:
    """Answers C-MOVE requests."""

    def __init__(
        self,
        settings: Recovery,
        store: FileStore,
        index: Index,
        audit: AuditLog,
        restore: Restore,
    ) -> None:
        self._settings = settings
        self._store = store
        self._index = index
        self._audit = audit
        self._restore = restore

    def handle(
        self,
        association: GatewayAssociation,
        request: C_MOVE,
        context: tuple[int, str, UID],
    ) -> None:
        """Answer one request: admit it, send what matches, report."""
        try:
            order = self._admit(association, request, context)
            # Nothing leaves unless the trail says who asked.
            self._record_start(order)
        except REFUSALS as error:
            self._refuse(association, request, context[0], error)
            return
        progress = Progress(remaining=len(order.instances))
        status = self._carry_out(order, progress)
        self._record_end(order, progress, status)
        if not order.is_abandoned():
            order.respond(status, progress)

    def _admit(
        self,
        association: GatewayAssociation,
        request: C_MOVE,
        context: tuple[int, str, UID],
    ) -> Order:
        """Check destination and identifier, and look up what matches."""
        context_id, model, syntax = context
        title = (request.MoveDestination or "").strip()
        destination = self._destination(association.call.calling_ae, title)
        query = parse_move(read_identifier(request.Identifier, syntax), model)
        instances = self._index.originals_matching(query.keys)
        if len(instances) > MAX_SUBOPERATIONS:
            raise TooManyMatches("More than 65535 objects match: ask for less")
        return Order(
            association=association,
            request=request,
            context_id=context_id,
            transfer_syntax=syntax,
            destination=destination,
            query=query,
            instances=instances,
        )

    def _destination(self, calling_ae: str, title: str) -> MoveDestination:
        """Return where to send.

        Raises
        ------
        UnknownDestination
            No such AE title is configured.
        MoveNotAuthorised
            The calling node may not have originals sent there.
        """
        known = {d.ae_title: d for d in self._settings.destinations}
        if title not in known:
            raise UnknownDestination("The move destination is not configured here")
        nodes = [n for n in self._settings.nodes if n.ae_title == calling_ae]
        if not any(title in _granted(node) for node in nodes):
            raise MoveNotAuthorised("This node may not have originals sent there")
        return known[title]

    def _carry_out(self, order: Order, progress: Progress) -> MoveStatus:
        for batch in batches(order.instances):
            waiting = deque(batch)
            while waiting:
                with _associated(order.destination, batch, self._settings) as peer:
                    if peer is None:
                        _give_up(waiting, progress)
                    elif self._send_all(peer, waiting, order, progress):
                        return MoveStatus.CANCEL
                if order.is_abandoned():
                    return MoveStatus.CANCEL
        return progress.final_status()

    def _send_all(
        self,
        peer: Association,
        waiting: deque[Instance],
        order: Order,
        progress: Progress,
    ) -> bool:
        """Send until nothing waits or the peer is lost; True when cancelled."""
        while waiting:
            if order.is_cancelled() or order.is_abandoned():
                return True
            instance = waiting.popleft()
            progress.count(instance, self._send_one(peer, instance, order))
            if progress.remaining:
                order.respond(MoveStatus.PENDING, progress)
            if not peer.is_established:
                break
        return False

    def _send_one(
        self, peer: Association, instance: Instance, order: Order
    ) -> int | None:
        """Send one original; None where it could not be sent."""
        call = order.association.call
        try:
            outbound = OutboundObject(
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                data=self._original(instance),
            )
            originator = MoveOriginator(
                ae_title=call.calling_ae, message_id=order.request.MessageID or 0
            )
            return send_c_store_bytes(peer, outbound, move_originator=originator)
        except (GatewayError, OSError, SQLAlchemyError) as error:
            LOG.warning(
                "original not sent",
                sop_instance_uid=instance.sop_instance_uid,
                destination=order.destination.ae_title,
                error=repr(error),
            )
            self._audit.note(
                "recover",
                "failure",
                calling_ae=call.calling_ae,
                destination=order.destination.ae_title,
                sop_instance_uid=instance.sop_instance_uid,
                error=type(error).__name__,
            )
            return None

    def _original(self, instance: Instance) -> bytes:
        """Return the bytes received, verified.

        Raises
        ------
        RecoveryRefused
            They are not those whose digest was recorded.
        """
        protected = self._index.protected_of(instance.id)
        if protected is not None:
            data_set = self._restore(instance, protected)
        else:
            data_set, _ = self._store.read_data_set(instance.path)
        if hashlib.sha256(data_set).hexdigest() != instance.sha256:
            raise RecoveryRefused(
                f"{instance.sop_instance_uid} is not what was received"
            )
        return data_set

    def _record_start(self, order: Order) -> None:
        self._audit.record(
            "move",
            "success",
            **_who(order.association),
            destination=order.destination.ae_title,
            level=order.query.level.value,
            studies=sorted({i.study_instance_uid for i in order.instances}),
            instances=len(order.instances),
        )

    def _record_end(self, order: Order, progress: Progress, status: MoveStatus) -> None:
        self._audit.note(
            "move-end",
            "success" if status is MoveStatus.SUCCESS else "failure",
            **_who(order.association),
            destination=order.destination.ae_title,
            status=f"0x{status:04X}",
            completed=progress.completed,
            warning=progress.warning,
            failed_uids=list(progress.failed_uids),
        )

    def _refuse(
        self,
        association: GatewayAssociation,
        request: C_MOVE,
        context_id: int,
        error: Exception,
    ) -> None:
        status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
        who = _who(association)
        LOG.warning("move refused", error=repr(error), **who)
        self._audit.note(
            "move",
            "refused",
            **who,
            destination=(request.MoveDestination or "").strip(),
            status=f"0x{status:04X}",
        )
        comment = str(error) if isinstance(error, GatewayError) else "Move failed"
        elements = [(command.ERROR_COMMENT, command.text(comment))]
        respond_move(association, request, context_id, status, (elements, b""))


def _who(association: GatewayAssociation) -> dict[str, str]:
    call = association.call
    return {"calling_ae": call.calling_ae, "peer_address": call.peer_address}


def _granted(node: RetrievingNode) -> tuple[str, ...]:
    return node.move_destinations or (node.ae_title,)


def _give_up(waiting: deque[Instance], progress: Progress) -> None:
    while waiting:
        progress.count(waiting.popleft(), None)


@contextmanager
def _associated(
    destination: MoveDestination, batch: Sequence[Instance], settings: Recovery
) -> Iterator[Association | None]:
    """Associate with a destination; None where it cannot be."""
    entity = Requestor(settings.ae_title, TIMEOUTS)
    place = Peer(
        ae_title=destination.ae_title, host=destination.host, port=destination.port
    )
    pairs = [(i.sop_class_uid, i.transfer_syntax_uid) for i in batch]
    with ExitStack() as stack:
        try:
            association = stack.enter_context(requested(entity, place, pairs))
        except OSError as error:
            LOG.warning("no address", destination=place.ae_title, error=repr(error))
            yield None
            return
        if not association.is_established:
            LOG.warning("destination not reached", destination=place.ae_title)
        yield association if association.is_established else None
