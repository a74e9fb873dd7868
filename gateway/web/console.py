"""The console: what people see of the gateway, and the little they change here.

Pages are made on the server, without scripts. What changes something is a form
that carries a token, asked for with POST from this very origin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from config.schema import Site
from gateway.audit.log import Field
from gateway.audit.replay import replay
from gateway.errors import AuditBroken, GatewayError, RequestRefused
from gateway.web import pages
from gateway.web.forms import Form, Forms, reason_of, short_body
from gateway.web.gatekeeper import visitor_of
from gateway.web.parts import Watch, WebParts
from gateway.web.visitors import PersonVisitor

LOG = structlog.get_logger(component="web")


@dataclass(frozen=True)
class Page:
    """An entry of the menu.

    Attributes
    ----------
    path, title, template
        Where it is, what it is called, what it is made of.
    roles
        Who may see it; empty: every person.
    """

    path: str
    title: str
    template: str
    roles: tuple[str, ...] = ()

    def is_for(self, visitor: PersonVisitor) -> bool:
        """Whether somebody may see it."""
        return not self.roles or visitor.may(*self.roles)


OVERVIEW: Final = Page("/", "Overview", "overview.html")
HELD: Final = Page("/held", "Held", "held.html")
WORKERS: Final = Page("/workers", "Workers", "workers.html")
GRANTS: Final = Page("/grants", "Grants", "grants.html", ("security", "approver"))
NODES: Final = Page("/nodes", "Nodes and people", "nodes.html")
SETTINGS: Final = Page(
    "/settings", "Insecure settings", "settings.html", ("security", "operator")
)
AUDIT: Final = Page("/audit", "Audit trail", "audit.html", ("security",))
HEALTH: Final = Page("/health", "Health", "health.html")
MENU: Final = (OVERVIEW, HELD, WORKERS, GRANTS, NODES, SETTINGS, AUDIT, HEALTH)

# How an answer tells what was done: never in words that a link could set.
DONE: Final[Mapping[str, str]] = {
    "released": "The series goes through rules, protection and export again.",
    "revoked": "The grant is revoked: nothing more leaves under it.",
    "verified": "The audit trail is whole.",
}

Make = Callable[[Request, PersonVisitor], dict[str, Any]]
Act = Callable[[Form, PersonVisitor], str]


def as_text(value: object) -> str:
    """Return a value of the trail as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def make_templates() -> Environment:
    """Return the templates; what they are given is escaped, none may be missing."""
    made = Environment(
        loader=PackageLoader("gateway.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["as_text"] = as_text
    return made


@dataclass(frozen=True, kw_only=True)
class Console:
    """The pages of a site.

    Attributes
    ----------
    site, parts, watch
        What they show.
    forms
        Checks what is sent from them.
    """

    site: Site
    parts: WebParts
    watch: Watch
    forms: Forms = field(default_factory=Forms)
    _templates: Environment = field(default_factory=make_templates)

    def routes(self) -> list[Route]:
        """Return all paths of the console."""
        index, identity = self.parts.index, self.watch.identity
        makers: list[tuple[Page, Make]] = [
            (OVERVIEW, lambda _r, _v: pages.overview(index)),
            (HELD, lambda _r, _v: pages.held(index)),
            (WORKERS, lambda _r, _v: pages.workers(index)),
            (GRANTS, self._grants),
            (NODES, lambda _r, _v: pages.nodes(self.site, identity)),
            (SETTINGS, lambda _r, _v: pages.security(self.site, identity)),
            (AUDIT, self._trail),
            (HEALTH, lambda _r, _v: {"checks": pages.health(self.parts)}),
        ]
        return [
            *(self._page(page, make) for page, make in makers),
            self._form(HELD, "/held/release", ("operator",), self._release),
            self._form(GRANTS, "/grants/revoke", ("security",), self._revoke),
            self._form(AUDIT, "/audit/verify", ("security",), self._verify),
            Route("/health/live", _live),
            Route("/health/ready", self._ready),
            Route("/console.css", _style),
        ]

    # what is shown

    def _grants(self, _request: Request, visitor: PersonVisitor) -> dict[str, Any]:
        return pages.grants(self.parts, conditions=visitor.may("security"))

    def _trail(self, _request: Request, visitor: PersonVisitor) -> dict[str, Any]:
        """Return the end of the trail; that it was read is a line too."""
        self.parts.audit.record(
            "audit-read", "success", **_who(visitor), command="show"
        )
        return pages.trail(self.parts.audit)

    # what is changed

    def _release(self, form: Form, visitor: PersonVisitor) -> str:
        """Send a held revision through rules, protection and export again."""
        reason = reason_of(form)
        number = form.get("revision", "")
        done = number.isdecimal() and replay(
            self.parts.index, self.parts.audit, int(number), reason, _who(visitor)
        )
        if not done:
            raise RequestRefused(409, "This series is not held any more")
        return "released"

    def _revoke(self, form: Form, visitor: PersonVisitor) -> str:
        """Revoke a grant; `Access` records it."""
        name = visitor.person.name
        self.parts.access.revoke_grant(form.get("grant", ""), name, reason_of(form))
        return "revoked"

    def _verify(self, _form: Form, visitor: PersonVisitor) -> str:
        """Check the whole trail."""
        audit = self.parts.audit
        try:
            audit.verify()
        except AuditBroken as error:
            audit.note(
                "audit-read",
                "failure",
                **_who(visitor),
                command="verify",
                error=str(error),
            )
            raise RequestRefused(500, str(error)) from error
        audit.record("audit-read", "success", **_who(visitor), command="verify")
        return "verified"

    # how

    def _page(self, page: Page, make: Make) -> Route:
        def answer(request: Request) -> Response:
            visitor = person_of(request)
            if not page.is_for(visitor):
                return self._not_for(visitor, page)
            try:
                values = make(request, visitor)
            except FAILURES as error:
                return self._failed(visitor, error)
            done = DONE.get(request.query_params.get("done", ""), "")
            return self._html(page, visitor, {**values, "done": done})

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(answer, request)

        return Route(page.path, endpoint, methods=["GET"])

    def _form(self, page: Page, path: str, roles: tuple[str, ...], act: Act) -> Route:
        def answer(request: Request, body: bytes) -> Response:
            visitor = person_of(request)
            if not visitor.may(*roles):
                return self._not_for(visitor, page)
            try:
                form = self.forms.read(request, body, visitor)
                done = act(form, visitor)
            except FAILURES as error:
                return self._failed(visitor, error)
            return RedirectResponse(f"{page.path}?done={done}", 303)

        async def endpoint(request: Request) -> Response:
            body = await short_body(request)
            return await run_in_threadpool(answer, request, body)

        return Route(path, endpoint, methods=["POST"])

    def _html(
        self,
        page: Page | None,
        visitor: PersonVisitor,
        values: Mapping[str, Any],
        status: int = 200,
    ) -> Response:
        template = self._templates.get_template(page.template if page else "error.html")
        text = template.render(
            site=self.site.name,
            page=page,
            menu=[entry for entry in MENU if entry.is_for(visitor)],
            person=visitor.person,
            may=visitor.may,
            token=self.forms.token(visitor),
            **values,
        )
        return HTMLResponse(text, status)

    def _not_for(self, visitor: PersonVisitor, page: Page) -> Response:
        """Refuse, and record that somebody tried."""
        self.watch.refusals.note(
            "login",
            visitor.address,
            service="console",
            user=visitor.person.name,
            page=page.path,
            why="no-role",
        )
        return self._error(visitor, 403, "Your roles do not include this.")

    def _failed(self, visitor: PersonVisitor, error: Exception) -> Response:
        status = error.status if isinstance(error, RequestRefused) else 400
        if not isinstance(error, GatewayError) or isinstance(error, AuditBroken):
            LOG.error("page failed", error=type(error).__name__)
            return self._error(visitor, 503, "This cannot be shown or done now.")
        if status == 403:
            self.watch.refusals.note(
                "login",
                visitor.address,
                service="console",
                user=visitor.person.name,
                why="form-not-from-here",
            )
        return self._error(visitor, status, str(error))

    def _error(self, visitor: PersonVisitor, status: int, message: str) -> Response:
        return self._html(None, visitor, {"message": message, "done": ""}, status)

    async def _ready(self, _request: Request) -> Response:
        checks = await run_in_threadpool(pages.health, self.parts)
        well = all(ok for _, ok, _ in checks)
        state = {name: "ok" if ok else why for name, ok, why in checks}
        return JSONResponse({"ready": well, **state}, 200 if well else 503)


FAILURES: Final = (GatewayError, OSError, SQLAlchemyError)


def console_routes(site: Site, parts: WebParts, watch: Watch) -> list[Route]:
    """Return all paths of the console."""
    return Console(site=site, parts=parts, watch=watch).routes()


def person_of(request: Request) -> PersonVisitor:
    """Return the person that asks."""
    visitor = visitor_of(request.scope)
    assert isinstance(visitor, PersonVisitor)
    return visitor


async def _live(_request: Request) -> Response:
    return JSONResponse({"live": True})


async def _style(_request: Request) -> Response:
    return Response(STYLE, media_type="text/css")


STYLE: Final = (files("gateway.web") / "console.css").read_text("utf-8")


def _who(visitor: PersonVisitor) -> dict[str, Field]:
    return {
        "service": "console",
        "user": visitor.person.name,
        "peer_address": visitor.address,
    }
