"""C-MOVE: stored objects, byte for byte, to a node whose address is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Self

import structlog
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_MOVE

from config.schema import MoveDestination
from gateway.audit.log import AuditLog
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.requestor import (
    Requestor,
    Timeouts,
    batches,
    peer_of,
    requested,
    tls_failure,
)
from gateway.dicom.retrieve_grants import Grants
from gateway.dicom.retrieve_holdings import Holdings, Offered
from gateway.dicom.retrieve_order import Order, Progress
from gateway.dicom.retrieve_suboperations import REFUSALS, SubOperations
from gateway.dicom.status import RetrieveStatus
from gateway.errors import ConfigurationError
from gateway.log import described
from gateway.tls.identity import TlsIdentity

LOG = structlog.get_logger(component="move")

# Rebuilding the next original may take long: the association is not idle then.
TIMEOUTS = Timeouts(answer=60.0, idle=None)


class MoveHandler:
    """Answers C-MOVE requests."""

    def __init__(
        self,
        grants: Grants,
        holdings: Holdings,
        audit: AuditLog,
        tls: TlsIdentity | None = None,
    ) -> None:
        self._grants = grants
        self._tls = tls
        self._operations = SubOperations(holdings, audit, "move")

    def handle(
        self,
        association: GatewayAssociation,
        request: C_MOVE,
        context: tuple[int, str, UID],
    ) -> None:
        """Answer one request: admit it, send what matches, report."""
        try:
            destination = self._destination(association, request)
            order = self._operations.order(
                association, request, context, destination.ae_title
            )
            # Nothing leaves unless the trail says who asked.
            self._operations.record_start(order)
        except REFUSALS as error:
            self._operations.refuse(association, request, context[0], error)
            return
        progress = Progress(remaining=len(order.items))
        status = self._carry_out(order, destination, progress)
        self._operations.record_end(order, progress, status)
        if not order.is_abandoned():
            order.respond(status, progress)

    def _destination(
        self, association: GatewayAssociation, request: C_MOVE
    ) -> MoveDestination:
        title = (request.MoveDestination or "").strip()
        return self._grants.destination(association.caller, title)

    def _carry_out(
        self, order: Order, destination: MoveDestination, progress: Progress
    ) -> RetrieveStatus:
        for batch in batches(order.items):
            with _Line(partial(self._associated, destination, batch)) as line:
                if self._send_all(line, deque(batch), order, progress):
                    return RetrieveStatus.CANCEL
        return progress.final_status()

    def _send_all(
        self, line: _Line, waiting: deque[Offered], order: Order, progress: Progress
    ) -> bool:
        """Send until nothing waits or nobody is reached; True when cancelled."""
        while waiting:
            if order.is_cancelled() or order.is_abandoned():
                return True
            if line.peer() is None:
                _give_up(waiting, progress)
                break
            item, number = waiting.popleft(), len(order.items) - progress.remaining + 1
            status = None
            outbound = self._operations.prepare(item, order, progress)
            # It may have hung up meanwhile, as DCMTK does after 60 seconds.
            if outbound is not None and (peer := line.peer()) is not None:
                status = self._operations.send(peer, item, outbound, order, number)
            progress.count(item, status)
            if progress.remaining:
                order.respond(RetrieveStatus.PENDING, progress)
        return order.is_abandoned()

    @contextmanager
    def _associated(
        self, destination: MoveDestination, batch: Sequence[Offered]
    ) -> Iterator[Association | None]:
        """Associate with a destination; None where it cannot be."""
        entity = Requestor(self._grants.ae_title, TIMEOUTS)
        title = destination.ae_title
        pairs = [(i.sop_class_uid, i.transfer_syntax_uid) for i in batch]
        with ExitStack() as stack:
            try:
                peer = peer_of(destination, self._tls)
                association = stack.enter_context(requested(entity, peer, pairs))
            except (OSError, ConfigurationError) as error:
                LOG.warning("no address", destination=title, error=described(error))
                yield None
                return
            if not association.is_established:
                LOG.warning(
                    "destination not reached",
                    destination=title,
                    tls=str(tls_failure(association) or ""),
                )
            yield association if association.is_established else None


class _Line:
    """An association with a destination, requested again where it was lost.

    Parameters
    ----------
    associate
        Requests one; None where the destination cannot be reached.
    """

    def __init__(
        self, associate: Callable[[], AbstractContextManager[Association | None]]
    ) -> None:
        self._associate = associate
        self._stack = ExitStack()
        self._peer: Association | None = None

    def peer(self) -> Association | None:
        """Return it, established; None where that cannot be."""
        if self._peer is None or not self._peer.is_established:
            self._stack.close()
            self._peer = self._stack.enter_context(self._associate())
        return self._peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _give_up(waiting: deque[Offered], progress: Progress) -> None:
    while waiting:
        progress.count(waiting.popleft(), None)
