"""C-FIND: what an AE title holds, from the index and the heads of its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.log import AuditLog, Field
from gateway.audit.personal import query_of
from gateway.audit.who import who
from gateway.dicom import command
from gateway.dicom.association import RELATIONAL, GatewayAssociation
from gateway.dicom.message import send_message
from gateway.dicom.retrieve_answer import encode_answer
from gateway.dicom.retrieve_header import read_header
from gateway.dicom.retrieve_holdings import Holdings
from gateway.dicom.retrieve_identifier import Query, parse_find, read_identifier
from gateway.dicom.retrieve_match import is_universal, matches
from gateway.dicom.status import FindStatus
from gateway.errors import (
    AccessTampered,
    AssociationLost,
    GatewayError,
    InvalidObject,
    InvalidQuery,
)
from gateway.log import described
from gateway.store.find import HIERARCHY_UIDS

LOG = structlog.get_logger(component="find")

STATUS_OF: tuple[tuple[type[Exception], FindStatus], ...] = (
    (InvalidQuery, FindStatus.IDENTIFIER_DOES_NOT_MATCH),
    (InvalidObject, FindStatus.UNABLE_TO_PROCESS),
    (AccessTampered, FindStatus.UNABLE_TO_PROCESS),
    (OSError, FindStatus.OUT_OF_RESOURCES),
    (SQLAlchemyError, FindStatus.OUT_OF_RESOURCES),
)
REFUSALS = tuple(error for error, _ in STATUS_OF)

OpenFirst = Callable[[dict[str, Any]], BinaryIO]
"""Opens the file of the first object of what was found."""


class FindHandler:
    """Answers C-FIND requests.

    The index narrows what may match; where keys are asked for that it does not
    keep, the heads of the stored objects are read one after the other.
    """

    def __init__(self, holdings: Holdings, audit: AuditLog, retrieve_ae: str) -> None:
        self._holdings = holdings
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
            rows = self._holdings.find(association.caller, query.keys, query.level)
            # Nothing of the answer leaves unless the trail says who asked.
            self._record(association, query, len(rows), _asked(request, context))
        except REFUSALS as error:
            status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
            self._refuse(association, status, error, _asked(request, context))
            told = isinstance(error, GatewayError)
            told = told and not isinstance(error, AccessTampered)
            comment = str(error) if told else ""
            _respond(association, request, context_id, status, comment=comment)
            return
        status = self._answer_all(association, request, context, (query, rows))
        _respond(association, request, context_id, status)

    def _answer_all(
        self,
        association: GatewayAssociation,
        request: C_FIND,
        context: tuple[int, str, UID],
        found: tuple[Query, list[dict[str, Any]]],
    ) -> FindStatus:
        """Send a response per match; return the final status."""
        context_id, _, syntax = context
        query, rows = found
        pending = (
            FindStatus.PENDING
            if query.complete
            else FindStatus.PENDING_KEYS_NOT_SUPPORTED
        )
        for row in rows:
            if request.MessageID in association.dimse.cancel_req:
                return FindStatus.CANCEL
            if association.is_over():
                raise AssociationLost("Who asked is gone")
            header = first_header(self._holdings.open, query, row)
            if not matches(query.header, header):
                continue
            answer = encode_answer(query, (row, header), self._retrieve_ae, syntax)
            _respond(association, request, context_id, pending, answer)
        return FindStatus.SUCCESS

    def _record(
        self,
        association: GatewayAssociation,
        query: Query,
        found: int,
        asked: dict[str, dict[str, str]],
    ) -> None:
        """Record who asks, with what keys, and for how many objects at most."""
        self._audit.record(
            "query",
            "success",
            **who(association.call, association.admitted),
            personal=asked,
            **query_fields(query, found),
        )

    def _refuse(
        self,
        association: GatewayAssociation,
        status: FindStatus,
        error: Exception,
        asked: dict[str, dict[str, str]],
    ) -> None:
        call = association.call
        LOG.warning("query refused", calling_ae=call.calling_ae, error=described(error))
        self._audit.note(
            "query",
            "refused",
            **who(call, association.admitted),
            personal=asked,
            status=f"0x{status:04X}",
        )


def first_header(open_first: OpenFirst, query: Query, row: dict[str, Any]) -> Dataset:
    """Return what else is asked for of the first object of a match."""
    if not query.header:
        return Dataset()
    try:
        tags = [element.tag for element in query.header]
        with open_first(row) as stream:
            return read_header(stream, tags)
    except GatewayError as error:
        LOG.warning("head of a stored object not read", error=str(error))
        return Dataset()


def query_fields(query: Query, found: int) -> dict[str, Field]:
    """Return what the trail says of a query: keys, not values, but for UIDs.

    Parameters
    ----------
    query
        What was asked.
    found
        For how many objects at most an answer leaves.
    """
    header_keys = {key.keyword for key in query.header if not is_universal(key)}
    uids: dict[str, Field] = {
        keyword: list(values)
        for keyword, values in query.keys.values.items()
        if keyword in HIERARCHY_UIDS
    }
    return {
        "level": query.level.value,
        "keys": sorted({*query.keys.values, *header_keys}),
        "candidates" if header_keys else "matches": found,
        **uids,
    }


def _asked(request: C_FIND, context: tuple[int, str, UID]) -> dict[str, dict[str, str]]:
    """Return the query as it came, to be sealed."""
    _, model, syntax = context
    octets = b"" if request.Identifier is None else request.Identifier.getvalue()
    return {"query": query_of(octets, model, str(syntax))}


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
