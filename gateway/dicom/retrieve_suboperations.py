"""What C-MOVE and C-GET have in common: admit, send, record, refuse."""

from __future__ import annotations

import structlog
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.log import AuditLog
from gateway.audit.personal import patients_of, patients_with
from gateway.audit.who import who
from gateway.dicom import command
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.rawstore import MoveOriginator, OutboundObject, store_bytes
from gateway.dicom.retrieve_holdings import Holdings, Offered
from gateway.dicom.retrieve_identifier import parse_retrieve, read_identifier
from gateway.dicom.retrieve_order import Order, Progress, respond
from gateway.dicom.status import RetrieveStatus
from gateway.errors import (
    AccessTampered,
    ApprovalNeeded,
    GatewayError,
    InvalidObject,
    InvalidQuery,
    MoveNotAuthorised,
    NotGranted,
    TooManyMatches,
    UnknownDestination,
)
from gateway.log import described

LOG = structlog.get_logger(component="retrieve")

MAX_SUBOPERATIONS = 65_535  # the counts and message ids are unsigned shorts

STATUS_OF: tuple[tuple[type[Exception], RetrieveStatus], ...] = (
    (UnknownDestination, RetrieveStatus.DESTINATION_UNKNOWN),
    (NotGranted, RetrieveStatus.NOT_AUTHORISED),
    (ApprovalNeeded, RetrieveStatus.NOT_AUTHORISED),
    (AccessTampered, RetrieveStatus.UNABLE_TO_PROCESS),
    (MoveNotAuthorised, RetrieveStatus.NOT_AUTHORISED),
    (TooManyMatches, RetrieveStatus.OUT_OF_RESOURCES_MATCHES),
    (InvalidQuery, RetrieveStatus.IDENTIFIER_DOES_NOT_MATCH),
    (InvalidObject, RetrieveStatus.UNABLE_TO_PROCESS),
    (OSError, RetrieveStatus.OUT_OF_RESOURCES_SUBOPERATIONS),
    (SQLAlchemyError, RetrieveStatus.OUT_OF_RESOURCES_MATCHES),
)
REFUSALS = tuple(error for error, _ in STATUS_OF)


class SubOperations:
    """The parts of a retrieval that do not depend on where objects go.

    Parameters
    ----------
    holdings
        What is given.
    audit
        Where requests, ends and failures are recorded.
    action
        Its name in the trail: ``move`` or ``get``.
    """

    def __init__(self, holdings: Holdings, audit: AuditLog, action: str) -> None:
        self._holdings = holdings
        self._audit = audit
        self._action = action

    def order(
        self,
        association: GatewayAssociation,
        request: C_MOVE | C_GET,
        context: tuple[int, str, UID],
        destination_ae: str,
    ) -> Order:
        """Read the identifier and look up what it selects, for a destination.

        Parameters
        ----------
        association, request, context
            Who asks for what.
        destination_ae
            Of C-MOVE; empty: who asks.

        Raises
        ------
        InvalidObject, InvalidQuery, TooManyMatches
            It cannot be read, is not one of the model, or selects too much.
        NotGranted, ApprovalNeeded
            Who asks may have nothing of it, or not all at once.
        """
        context_id, model, syntax = context
        query = parse_retrieve(read_identifier(request.Identifier, syntax), model)
        caller = association.caller
        selected = self._holdings.matching(caller, query.keys, destination_ae)
        if len(selected.items) > MAX_SUBOPERATIONS:
            raise TooManyMatches("More than 65535 objects match: ask for less")
        selected.count_as_given()
        return Order(
            association=association,
            request=request,
            context_id=context_id,
            transfer_syntax=syntax,
            destination_ae=destination_ae or caller.ae_title,
            query=query,
            items=selected.items,
        )

    def prepare(
        self, item: Offered, order: Order, progress: Progress
    ) -> OutboundObject | None:
        """Read and verify one object, which may take minutes.

        Returns
        -------
        OutboundObject or None
            None where it cannot be sent; that is recorded.
        """
        try:
            with order.told_to_wait(progress):
                return item.outbound()
        except (GatewayError, OSError, SQLAlchemyError) as error:
            self._record_failure(order, item, error)
            return None

    def send(
        self,
        storage_scp: Association,
        item: Offered,
        outbound: OutboundObject,
        order: Order,
        number: int,
    ) -> int | None:
        """Send one prepared object as sub-operation ``number``.

        Returns
        -------
        int or None
            The status of the storage SCP; None where it could not be sent.
        """
        originator = None
        if isinstance(order.request, C_MOVE):
            originator = MoveOriginator(
                ae_title=order.association.call.calling_ae,
                message_id=order.request.MessageID or 0,
            )
        try:
            return store_bytes(
                storage_scp, outbound, message_id=number, move_originator=originator
            ).status
        except (GatewayError, OSError, SQLAlchemyError) as error:
            self._record_failure(order, item, error)
            return None

    def record_start(self, order: Order) -> None:
        """Record who has what sent where.

        Raises
        ------
        OSError
            The trail cannot be written: then nothing may leave.
        """
        self._audit.record(
            self._action,
            "success",
            **who(order.association.call, order.association.admitted),
            destination=order.destination_ae,
            level=order.query.level.value,
            studies=sorted({i.study_instance_uid for i in order.items}),
            instances=len(order.items),
            personal={"patients": patients_of(order.items)},
        )

    def record_end(
        self, order: Order, progress: Progress, status: RetrieveStatus
    ) -> None:
        """Record how it ended."""
        self._audit.note(
            f"{self._action}-end",
            "success" if status is RetrieveStatus.SUCCESS else "failure",
            **who(order.association.call, order.association.admitted),
            destination=order.destination_ae,
            status=f"0x{status:04X}",
            completed=progress.completed,
            warning=progress.warning,
            failed_uids=list(progress.failed_uids),
            studies=sorted({i.study_instance_uid for i in order.items}),
            personal={
                "patients": patients_of(progress.sent),
                "failed": patients_with(order.items, progress.failed_uids),
            },
        )

    def refuse(
        self,
        association: GatewayAssociation,
        request: C_MOVE | C_GET,
        context_id: int,
        error: Exception,
    ) -> None:
        """Record and answer a request that is not carried out."""
        status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
        caller = who(association.call, association.admitted)
        LOG.warning("refused", action=self._action, error=described(error), **caller)
        details: dict[str, str | int] = {"why": type(error).__name__}
        if isinstance(request, C_MOVE):
            details["destination"] = (request.MoveDestination or "").strip()
        if isinstance(error, NotGranted):
            details["outside"] = error.outside
        self._audit.note(
            self._action, "refused", **caller, **details, status=f"0x{status:04X}"
        )
        told = isinstance(error, GatewayError)
        told = told and not isinstance(error, AccessTampered)
        comment = str(error) if told else "Retrieval failed"
        elements = [(command.ERROR_COMMENT, command.text(comment))]
        respond(association, request, context_id, status, (elements, b""))

    def _record_failure(self, order: Order, item: Offered, error: Exception) -> None:
        LOG.warning(
            "object not sent",
            sop_instance_uid=item.sop_instance_uid,
            destination=order.destination_ae,
            error=described(error),
        )
        self._audit.note(
            "recover",
            "failure",
            **who(order.association.call, order.association.admitted),
            destination=order.destination_ae,
            sop_instance_uid=item.sop_instance_uid,
            error=type(error).__name__,
            studies=[item.study_instance_uid],
            personal={"patients": patients_of([item])},
        )
