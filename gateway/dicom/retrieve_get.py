"""C-GET: stored objects, byte for byte, to the node that asks.

The sub-operations run on the association of the request, whose requestor
agreed to be the storage SCP there (PS3.7 D.3.3.4). What it negotiated no
context for is a failed sub-operation, and the next one follows.
"""

from __future__ import annotations

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_GET

from gateway.audit.log import AuditLog
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.retrieve_holdings import Holdings
from gateway.dicom.retrieve_order import Order, Progress
from gateway.dicom.retrieve_suboperations import REFUSALS, SubOperations
from gateway.dicom.status import RetrieveStatus


class GetHandler:
    """Answers C-GET requests."""

    def __init__(self, holdings: Holdings, audit: AuditLog) -> None:
        self._operations = SubOperations(holdings, audit, "get")

    def handle(
        self,
        association: GatewayAssociation,
        request: C_GET,
        context: tuple[int, str, UID],
    ) -> None:
        """Answer one request: admit it, send what matches, report."""
        try:
            order = self._operations.order(
                association, request, context, destination_ae=""
            )
            # Nothing leaves unless the trail says who asked.
            self._operations.record_start(order)
        except REFUSALS as error:
            self._operations.refuse(association, request, context[0], error)
            return
        progress = Progress(remaining=len(order.items))
        status = self._carry_out(order, progress)
        self._operations.record_end(order, progress, status)
        if not order.is_abandoned():
            order.respond(status, progress)

    def _carry_out(self, order: Order, progress: Progress) -> RetrieveStatus:
        for number, item in enumerate(order.items, 1):
            if order.is_cancelled() or order.is_abandoned():
                return RetrieveStatus.CANCEL
            status = None
            outbound = self._operations.prepare(item, order, progress)
            if outbound is not None:
                status = self._operations.send(
                    order.association, item, outbound, order, number
                )
            progress.count(item, status)
            if order.is_abandoned():
                return RetrieveStatus.CANCEL
            if progress.remaining:
                order.respond(RetrieveStatus.PENDING, progress)
        return progress.final_status()
