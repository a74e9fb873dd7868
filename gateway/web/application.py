"""The web application: DICOMweb and console behind one gatekeeper."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp

from config.schema import Site
from gateway.dicom.retrieve_holdings import Originals, ProtectedObjects
from gateway.store.deposit import Deposit
from gateway.web import dicomweb
from gateway.web.console import console_routes
from gateway.web.gatekeeper import Gatekeeper
from gateway.web.incoming import StowParts
from gateway.web.parts import Watch, WebParts


def build_application(site: Site, parts: WebParts, watch: Watch) -> ASGIApp:
    """Put DICOMweb and console together."""
    services = [
        dicomweb.Service(
            name="protected",
            called_ae=site.receiver.ae_title,
            holdings=ProtectedObjects(parts.store, parts.index, parts.records.verify),
            audit=parts.audit,
        ),
        dicomweb.Service(
            name="originals",
            called_ae=site.recovery.ae_title,
            holdings=Originals(
                parts.store, parts.index, parts.records.restore, parts.access
            ),
            audit=parts.audit,
        ),
    ]
    intake = dicomweb.Intake(
        parts=StowParts(
            store=parts.store,
            deposit=Deposit(parts.store, parts.index),
            audit=parts.audit,
            called_ae=site.receiver.ae_title,
            max_object_bytes=site.receiver.max_object_bytes,
            max_sequence_depth=site.limits.max_sequence_depth,
        )
    )
    pages = console_routes(site, parts, watch)
    router = Router(
        routes=[*dicomweb.routes(services, intake), *pages], redirect_slashes=False
    )
    # Answers 404 and 405 of the router as they are raised.
    behind = ExceptionMiddleware(router, handlers={HTTPException: _plain})
    return Gatekeeper(
        app=behind,
        registry=watch.registry,
        audit=parts.audit,
        refusals=watch.refusals,
    )


async def _plain(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(
        f"{error.detail}\n", status_code=error.status_code, headers=error.headers
    )
