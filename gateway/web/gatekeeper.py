"""In front of everything: who asks, whether they may come here, what is sent along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.schema import Role
from gateway.audit.log import AuditLog
from gateway.audit.refusals import RefusalLog
from gateway.errors import AuditBroken, NotIdentified
from gateway.tls.certificates import shown
from gateway.web.doorman import CONNECTION_KEY, Connection
from gateway.web.visitors import NodeVisitor, PersonVisitor, Registry, Visitor

LOG = structlog.get_logger(component="web")

VISITOR_KEY: Final = "visitor"
"""Under which the state of a request holds who asks."""

SPACES: Final[Mapping[str, Role]] = {
    "/protected": "read",
    "/originals": "recover",
    "/studies": "store",
}
"""What belongs to nodes, and the role it takes; everything else is for people."""

METHODS: Final = frozenset({"GET", "HEAD", "POST"})

HEADERS: Final[Mapping[str, str]] = {
    "strict-transport-security": "max-age=31536000",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With "no-referrer" browsers send the Origin of a form as null.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class _Refused(Exception):
    """Who asks may not come here; ``args`` are why, in a word."""


@dataclass(frozen=True, kw_only=True)
class Gatekeeper:
    """The outermost application.

    Attributes
    ----------
    app
        What is behind it.
    registry
        Knows nodes and people.
    audit, refusals
        Where log-ins and refusals are recorded.
    """

    app: ASGIApp
    registry: Registry
    audit: AuditLog
    refusals: RefusalLog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        try:
            await self._serve(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the text could name a patient
            _log_error("request failed", error, space=_space(scope))
            if not answer.started:
                failed = PlainTextResponse("The request failed.\n", status_code=500)
                await failed(scope, receive, answer)
            # Else it stays without its end, and the connection is closed.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in METHODS:
            refusal = PlainTextResponse("Method not allowed.\n", status_code=405)
            await refusal(scope, receive, send)
            return
        try:
            visitor = await run_in_threadpool(self._admitted, scope)
        except _Refused:
            await _forbidden()(scope, receive, send)
            return
        except (OSError, AuditBroken) as error:  # nobody comes in unrecorded
            _log_error("log-in not recorded", error)
            away = PlainTextResponse("The audit trail fails.\n", status_code=503)
            await away(scope, receive, send)
            return
        scope["state"][VISITOR_KEY] = visitor
        await self.app(scope, receive, send)

    def _admitted(self, scope: Scope) -> Visitor:
        """Return who asks, if they may ask this at all.

        Raises
        ------
        _Refused
            They may not; that is recorded.
        """
        connection: Connection = scope["state"][CONNECTION_KEY]
        role = _role_of(scope["path"])
        try:
            visitor = self.registry.visitor(connection)
        except NotIdentified as error:
            raise self._refuse(connection, role, error.reason) from error
        if role is None:
            if not isinstance(visitor, PersonVisitor):
                raise self._refuse(connection, role, "not-a-person", visitor)
            self._log_in(connection, visitor)
        elif not isinstance(visitor, NodeVisitor):
            raise self._refuse(connection, role, "not-a-node", visitor)
        elif role not in visitor.node.roles:
            raise self._refuse(connection, role, f"no-role-{role}", visitor)
        return visitor

    def _log_in(self, connection: Connection, visitor: PersonVisitor) -> None:
        """Record the first request of a person on a connection."""
        if not connection.logged_in:
            self.audit.record(
                "login",
                "success",
                service="console",
                user=visitor.person.name,
                roles=list(visitor.person.roles),
                peer_address=connection.address,
            )
            connection.logged_in = True

    def _refuse(
        self,
        connection: Connection,
        role: Role | None,
        why: str,
        visitor: Visitor | None = None,
    ) -> _Refused:
        """Record a refusal: on DICOMweb as of an association, else of a log-in."""
        action, service = ("login", "console")
        if role is not None:
            action, service = ("association", "dicomweb")
        peer = connection.shown.peer
        fields = {"service": service, "why": why}
        fields |= {"certificate": shown(peer.sha256), "subject": peer.subject}
        if isinstance(visitor, NodeVisitor):
            fields["calling_ae"] = visitor.ae_title
        elif isinstance(visitor, PersonVisitor):
            fields["user"] = visitor.person.name
        if self.refusals.note(action, connection.address, **fields):
            LOG.warning(
                "request refused",
                service=service,
                peer_address=connection.address,
                why=why,
            )
        return _Refused(why)


class _Answer:
    """Passes an answer on, with the headers that every answer has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def visitor_of(scope: Scope) -> Visitor:
    """Return who asks."""
    visitor: Visitor = scope["state"][VISITOR_KEY]
    return visitor


def _role_of(path: str) -> Role | None:
    """Return the role a path takes of a node; None: it is for people."""
    for space, role in SPACES.items():
        if path == space or path.startswith(f"{space}/"):
            return role
    return None


def _space(scope: Scope) -> str:
    """Return which part of the service was asked, and no more of the path."""
    return "/" + str(scope["path"]).strip("/").partition("/")[0][:16]


def _forbidden() -> PlainTextResponse:
    return PlainTextResponse(
        "This certificate does not give access here. "
        "Ask the security officer of this gateway.\n",
        status_code=403,
    )


def _log_error(event: str, error: BaseException, **fields: str) -> None:
    """Log an error by its name: its text and its frames could name a patient."""
    LOG.error(event, error=_name_of(error), **fields)


def _name_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "+".join(_name_of(one) for one in error.exceptions)
    return type(error).__name__
