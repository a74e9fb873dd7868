"""One request of DICOMweb: who asks for what, and how a no is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.audit.log import AuditLog, Field
from gateway.audit.personal import uri_query_of
from gateway.errors import (
    AccessTampered,
    ApprovalNeeded,
    AuditBroken,
    BadRequest,
    GatewayError,
    InvalidObject,
    NotGranted,
    RequestRefused,
)
from gateway.store.part10 import check_uid
from gateway.tls.certificates import shown
from gateway.web.gatekeeper import visitor_of
from gateway.web.visitors import NodeVisitor

LOG = structlog.get_logger(component="web")

KEYWORD_OF: Final[Mapping[str, str]] = {
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
}
HOST: Final = re.compile(
    r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?"
)

NOTHING: Final = "Nothing is held under these UIDs"

# What keeps a request from being answered as asked, and its HTTP status.
STATUS_OF: Final[tuple[tuple[type[Exception], int], ...]] = (
    (InvalidObject, 400),
    (NotGranted, 404),
    (ApprovalNeeded, 403),
    (AuditBroken, 503),
    (AccessTampered, 503),
    (GatewayError, 500),
    (OSError, 503),
    (SQLAlchemyError, 503),
)
FAILURES: Final = (GatewayError, OSError, SQLAlchemyError)


def refused(
    audit: AuditLog,
    action: str,
    who: Mapping[str, Field],
    error: Exception,
    personal: Mapping[str, Any] | None = None,
) -> Response:
    """Record a request that is not carried out, and say why."""
    if isinstance(error, RequestRefused):
        status = error.status
    else:
        status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
    fields: dict[str, Field] = {"status": status, "reason": type(error).__name__}
    if isinstance(error, NotGranted):
        fields["outside"] = error.outside
    LOG.warning("refused", action=action, error=type(error).__name__, **who)
    audit.note(action, "refused", **who, **fields, personal=personal or {})
    comment = str(error) if isinstance(error, GatewayError) else ""
    if isinstance(error, NotGranted):  # who may not have it cannot tell that it is
        comment = NOTHING
    elif status >= 500 and not isinstance(error, RequestRefused):
        comment = "The request cannot be answered now"
    return PlainTextResponse(comment + "\n", status_code=status)


def node_of(request: Request) -> NodeVisitor:
    """Return the node that asks."""
    visitor = visitor_of(request.scope)
    assert isinstance(visitor, NodeVisitor)
    return visitor


def who_of(visitor: NodeVisitor, called_ae: str) -> dict[str, Field]:
    """Return who asks whom, as fields of a line of the trail."""
    certificate = visitor.caller.certificate
    assert certificate is not None
    return {
        "service": "dicomweb",
        "node": visitor.node.name,
        "calling_ae": visitor.ae_title,
        "called_ae": called_ae,
        "peer_address": visitor.address,
        "certificate": shown(certificate.sha256),
        "subject": certificate.subject,
    }


def asked_of(request: Request) -> dict[str, dict[str, str]]:
    """Return a search as it came, to be sealed in the trail."""
    query = request.scope["query_string"].decode("latin-1")
    return {"query": uri_query_of(request.url.path, query)}


def uids_of(request: Request) -> dict[str, str]:
    """Return the UIDs of a path by keyword, checked before they are looked up.

    Raises
    ------
    InvalidObject
        One is none; the message names it, never the value.
    """
    return {
        KEYWORD_OF[name]: check_uid(str(value), KEYWORD_OF[name])
        for name, value in request.path_params.items()
    }


def base_of(request: Request) -> str:
    """Return the URL that a client reaches this server at.

    Raises
    ------
    BadRequest
        It does not say.
    """
    host = request.headers.get("host", "")
    if not HOST.fullmatch(host):
        raise BadRequest("The Host header is none")
    return f"https://{host}"
