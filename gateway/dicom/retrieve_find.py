"""C-FIND on the recovery AE title: which originals can be asked for."""

from __future__ import annotations

import structlog
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.log import AuditLog
from gateway.dicom import command
from gateway.dicom.association import RELATIONAL, GatewayAssociation
from gateway.dicom.message import send_message
from gateway.dicom.retrieve_identifier import (
    Query,
    encode_answer,
    parse_find,
    read_identifier,
)
from gateway.dicom.status import FindStatus
from gateway.errors import GatewayError, InvalidObject, InvalidQuery
from gateway.store.find import PROTECTED_COLUMNS
from gateway.store.index import Index

LOG = structlog.get_logger(component="find")

STATUS_OF: tuple[tuple[type[Exception], FindStatus], ...] = (
    (InvalidQuery, FindStatus.IDENTIFIER_DOES_NOT_MATCH),
    (InvalidObject, FindStatus.UNABLE_TO_PROCESS),
    (OSError, FindStatus.OUT_OF_RESOURCES),
    (SQLAlchemyError, FindStatus.OUT_OF_RESOURCES),
)
REFUSALS = tuple(error for error, _ in STATUS_OF)


class FindHandler:
    """Answers C-FIND requests from the index."""

    def __init__(self, index: Index, audit: AuditLog, retrieve_ae: str) -> None:
        self._index = index
        self._audit = audit
        self._retrieve_ae = retrieve_ae

    def handle(
        self,
        association: GatewayAssociation,
        request: C_FIND,
        context: tuple[int, str, UID],
    ) -> None:
        """Answer one request: a response per match, then the final one."""
        context_id, model, syntax = context
        try:
            identifier = read_identifier(request.Identifier, syntax)
            query = parse_find(identifier, model, _is_relational(association, model))
            rows = self._index.find_originals(query.keys, query.level)
            # Nothing of the answer leaves unless the trail says who asked.
            self._record(association, query, len(rows))
        except REFUSALS as error:
            status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
            self._refuse(association, status, error)
            comment = str(error) if isinstance(error, GatewayError) else ""
            _respond(association, request, context_id, status, comment=comment)
            return
        pending = (
            FindStatus.PENDING
            if query.complete
            else FindStatus.PENDING_KEYS_NOT_SUPPORTED
        )
        for row in rows:
            if request.MessageID in association.dimse.cancel_req:
                _respond(association, request, context_id, FindStatus.CANCEL)
                return
            answer = encode_answer(query, row, self._retrieve_ae, syntax)
            _respond(association, request, context_id, pending, answer)
        _respond(association, request, context_id, FindStatus.SUCCESS)

    def _record(
        self, association: GatewayAssociation, query: Query, matches: int
    ) -> None:
        call = association.call
        uids = {
            keyword: list(values)
            for keyword, values in query.keys.values.items()
            if keyword in PROTECTED_COLUMNS
        }
        self._audit.record(
            "query",
            "success",
            calling_ae=call.calling_ae,
            peer_address=call.peer_address,
            level=query.level.value,
            keys=sorted(query.keys.values),
            matches=matches,
            **uids,
        )

    def _refuse(
        self, association: GatewayAssociation, status: FindStatus, error: Exception
    ) -> None:
        call = association.call
        LOG.warning("query refused", calling_ae=call.calling_ae, error=repr(error))
        self._audit.note(
            "query",
            "refused",
            calling_ae=call.calling_ae,
            peer_address=call.peer_address,
            status=f"0x{status:04X}",
        )


def _is_relational(association: GatewayAssociation, model: str) -> bool:
    agreed = association.acceptor.sop_class_extended.get(UID(model), b"")
    return agreed[:1] == RELATIONAL


def _respond(
    association: GatewayAssociation,
    request: C_FIND,
    context_id: int,
    status: FindStatus,
    identifier: bytes = b"",
    *,
    comment: str = "",
) -> None:
    """Send a C-FIND response (PS3.7 9.3.2.2)."""
    present = command.DATA_SET_PRESENT if identifier else command.NO_DATA_SET
    elements = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(str(request.AffectedSOPClassUID))),
        (command.COMMAND_FIELD, command.us(command.C_FIND_RSP)),
        (command.MESSAGE_ID_BEING_RESPONDED_TO, command.us(request.MessageID or 0)),
        (command.COMMAND_DATA_SET_TYPE, command.us(present)),
        (command.STATUS, command.us(status)),
    ]
    if comment:
        elements.append((command.ERROR_COMMENT, command.text(comment)))
    send_message(association, context_id, elements, identifier)
