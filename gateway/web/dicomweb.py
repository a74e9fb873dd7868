"""DICOMweb (PS3.18): protected objects, originals, and what comes in.

Three services that never mix: ``/protected`` and ``/originals`` each list and
give what their own holdings have; ``/studies`` takes objects in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from gateway.audit.log import AuditLog
from gateway.dicom.retrieve_find import query_fields
from gateway.dicom.retrieve_holdings import Holdings
from gateway.errors import (
    BadRequest,
    RequestRefused,
)
from gateway.store.find import FindKeys, Level
from gateway.web.exchange import (
    FAILURES,
    NOTHING,
    asked_of,
    base_of,
    node_of,
    refused,
    uids_of,
    who_of,
)
from gateway.web.incoming import StowParts
from gateway.web.media import DICOM, DICOM_JSON, accepts_json
from gateway.web.retrieve import (
    JSON_END,
    MULTIPART_DICOM,
    Delivery,
    alone,
    attributes,
    parts,
    pieces_of,
    wanted_of,
)
from gateway.web.search import answers, parse_search
from gateway.web.storing import Outcome, Sender, StowRequest
from gateway.web.streams import PieceByPiece

FEED_BYTES: Final = 1 << 20
"""What of a body is written at a time."""

Answer = Callable[[Request], Response]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One root: what it lists and gives, and to whom.

    Attributes
    ----------
    name
        First part of its paths.
    called_ae
        AE title that lists and gives the same.
    holdings
        What it has for whom.
    audit
        Where every request is recorded before it is answered.
    """

    name: str
    called_ae: str
    holdings: Holdings
    audit: AuditLog

    def routes(self) -> Mount:
        """Return its paths."""
        search, retrieve = self._search, self._retrieve
        study = "/studies/{study}"
        series = study + "/series/{series}"
        instance = series + "/instances/{instance}"
        table: list[tuple[str, Answer]] = [
            ("/studies", partial(search, Level.STUDY)),
            ("/series", partial(search, Level.SERIES)),
            ("/instances", partial(search, Level.IMAGE)),
            (study + "/series", partial(search, Level.SERIES)),
            (study + "/instances", partial(search, Level.IMAGE)),
            (series + "/instances", partial(search, Level.IMAGE)),
            (study, partial(retrieve, Level.STUDY)),
            (series, partial(retrieve, Level.SERIES)),
            (instance, partial(retrieve, Level.IMAGE)),
            (study + "/metadata", partial(self._metadata, Level.STUDY)),
            (series + "/metadata", partial(self._metadata, Level.SERIES)),
            (instance + "/metadata", partial(self._metadata, Level.IMAGE)),
        ]
        rows = [self._route(*row) for row in table]
        return Mount(f"/{self.name}", Router(rows, redirect_slashes=False))

    def _route(self, path: str, answer: Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await run_in_threadpool(answer, request)
            except FAILURES as error:
                return await run_in_threadpool(self._refused, request, path, error)

        return only(Route(path, endpoint, methods=["GET"]), "GET")

    def _search(self, level: Level, request: Request) -> Response:
        """Answer QIDO-RS."""
        visitor = node_of(request)
        if not accepts_json(request.headers.get("accept", "")):
            raise RequestRefused(406, f"Answers are {DICOM_JSON}")
        base = f"{base_of(request)}/{self.name}"
        search = parse_search(
            request.query_params.multi_items(), level, uids_of(request)
        )
        found = self.holdings.find(visitor.caller, search.query.keys, level)
        # Nothing of the answer leaves unless the trail says who asked.
        self.audit.record(
            "query",
            "success",
            **who_of(visitor, self.called_ae),
            personal=asked_of(request),
            **query_fields(search.query, len(found)),
        )
        made = list(answers(search, found, self.holdings.open, base))
        remarks = list(search.remarks)
        if len(made) > search.limit:
            made = made[: search.limit]
            remarks.append("There are more matches; ask for them with offset")
        headers = {"warning": ", ".join(f'299 miad-gateway "{r}"' for r in remarks)}
        if not remarks:
            headers = {}
        if not made:
            return Response(None, 204, headers)
        body = b"[" + b",".join(made) + b"]"
        return Response(body, 200, headers, media_type=DICOM_JSON)

    def _retrieve(self, level: Level, request: Request) -> Response:
        """Answer WADO-RS for objects."""
        single = level is Level.IMAGE
        wanted = wanted_of(request.headers.get("accept", ""), single=single)
        delivery = self._delivery(request)
        syntaxes = {item.transfer_syntax_uid for item in delivery.items}
        if not all(wanted.takes(syntax) for syntax in syntaxes):
            raise RequestRefused(
                406,
                "Objects leave in the transfer syntax they are stored in; ask for "
                f"transfer-syntax=* or {' '.join(sorted(syntaxes))}",
            )
        delivery.begin(level.value)
        if not wanted.multipart:
            kind = f"{DICOM}; transfer-syntax={syntaxes.pop()}"
            return PieceByPiece(pieces_of(delivery, alone, b""), kind)
        boundary = secrets.token_hex(16)
        encode, ending = parts(boundary)
        pieces = pieces_of(delivery, encode, ending)
        return PieceByPiece(pieces, MULTIPART_DICOM + boundary)

    def _metadata(self, level: Level, request: Request) -> Response:
        """Answer WADO-RS for attributes."""
        if not accepts_json(request.headers.get("accept", "")):
            raise RequestRefused(406, f"Metadata are {DICOM_JSON}")
        delivery = self._delivery(request)
        delivery.begin(level.value)
        return PieceByPiece(pieces_of(delivery, attributes, JSON_END), DICOM_JSON)

    def _delivery(self, request: Request) -> Delivery:
        """Look up what a path names.

        Raises
        ------
        RequestRefused
            Nothing that this node may have (404).
        """
        visitor = node_of(request)
        keys = FindKeys({key: [uid] for key, uid in uids_of(request).items()})
        selected = self.holdings.matching(visitor.caller, keys, "")
        if not selected.items:
            raise RequestRefused(404, NOTHING)
        who = who_of(visitor, self.called_ae)
        return Delivery(audit=self.audit, who=who, selected=selected)

    def _refused(self, request: Request, path: str, error: Exception) -> Response:
        """Record and answer a request that is not carried out."""
        last = path.rsplit("/", 1)[-1]
        is_search = last in {"studies", "series", "instances"}
        who = who_of(node_of(request), self.called_ae)
        if is_search:
            return refused(self.audit, "query", who, error, asked_of(request))
        return refused(self.audit, "get", who, error)


@dataclass(frozen=True, kw_only=True)
class Intake:
    """STOW-RS: objects in."""

    parts: StowParts

    def routes(self) -> list[Route]:
        """Return its paths."""
        return [
            only(Route("/studies", self._store, methods=["POST"]), "POST"),
            only(Route("/studies/{study}", self._store, methods=["POST"]), "POST"),
        ]

    async def _store(self, request: Request) -> Response:
        visitor = node_of(request)
        who = who_of(visitor, self.parts.called_ae)
        sender = Sender(ae_title=visitor.ae_title, address=visitor.address, who=who)
        try:
            if not accepts_json(request.headers.get("accept", "")):
                raise RequestRefused(406, f"Answers are {DICOM_JSON}")
            study = uids_of(request).get("StudyInstanceUID")
            content_type = request.headers.get("content-type", "")
            stow = StowRequest(self.parts, sender, content_type, study)
            outcome = await _taken_in(stow, request)
        except FAILURES as error:
            return await run_in_threadpool(
                refused, self.parts.audit, "store", who, error
            )
        return Response(outcome.body(), outcome.status, media_type=DICOM_JSON)


async def _taken_in(stow: StowRequest, request: Request) -> Outcome:
    """Feed a body in pieces worth a thread's while."""
    waiting = bytearray()
    try:
        async for piece in request.stream():
            waiting += piece
            if len(waiting) >= FEED_BYTES:
                await run_in_threadpool(stow.feed, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(stow.feed, bytes(waiting))
        return stow.finish()
    except ClientDisconnect as error:
        raise BadRequest("The body was cut short") from error
    finally:
        await run_in_threadpool(stow.end)


def only(route: Route, *methods: str) -> Route:
    """Take the methods away that Starlette adds."""
    route.methods = set(methods)
    return route


def routes(services: Sequence[Service], intake: Intake) -> list[Any]:
    """Return all paths of DICOMweb."""
    return [*(service.routes() for service in services), *intake.routes()]
