"""STOW-RS (PS3.18 10.5): objects in, through the same door as with C-STORE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from gateway.audit.log import Field
from gateway.audit.personal import patients_of
from gateway.dicom.handlers import (
    REFUSALS,
    STATUS_OF,
    IncomingObject,
    Request,
    Tally,
    make_durable,
)
from gateway.dicom.status import StoreStatus
from gateway.errors import (
    BadRequest,
    GatewayError,
    ObjectConflict,
    RequestRefused,
    StoreFull,
)
from gateway.store.clock import timestamp
from gateway.store.deposit import Source
from gateway.web.incoming import IncomingPart, StowParts
from gateway.web.media import DICOM, MULTIPART, parse_media_type
from gateway.web.multipart import MultipartReader

LOG = structlog.get_logger(component="web")

MOST_OBJECTS: Final = 10_000
"""In one request."""
WHOLE_LINES: Final = 20
"""Refused objects of one request with a line of their own in the trail."""


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who sends: the AE title rules know it by, its address, its audit fields."""

    ae_title: str
    address: str
    who: Mapping[str, Field]


@dataclass
class Outcome:
    """What became of the objects of one request."""

    tally: Tally = field(default_factory=Tally)
    stored: list[Request] = field(default_factory=list)
    failed: list[tuple[Request, StoreStatus]] = field(default_factory=list)
    is_full: bool = False
    """Whether any was refused because the disk has no room."""

    @property
    def status(self) -> int:
        """HTTP status (PS3.18 Table 10.5.3-1; RFC 4918 11.5 where there is no room)."""
        if not self.failed:
            return 200
        if self.stored:
            return 202
        return 507 if self.is_full else 409

    def body(self) -> bytes:
        """Return the Store Instances Response (PS3.18 Annex I) as DICOM JSON."""
        # No URL: who stores may read nothing, and what is read is not what came.
        found: dict[str, Any] = {"00081190": {"vr": "UR"}}
        if self.failed:
            items = [
                _item(r) | {"00081197": {"vr": "US", "Value": [int(s)]}}
                for r, s in self.failed
            ]
            found["00081198"] = {"vr": "SQ", "Value": items}
        if self.stored:
            items = [_item(r) for r in self.stored]
            found["00081199"] = {"vr": "SQ", "Value": items}
        return json.dumps(found).encode()


class StowRequest:
    """One request: its body is fed to it as it comes.

    Parameters
    ----------
    parts
        Where objects go.
    sender
        Who sends.
    content_type
        Of the request.
    study
        UID that every object must be of; None: any.

    Raises
    ------
    RequestRefused
        The body is not what is taken here (415), or its type cannot be read.
    """

    def __init__(
        self, parts: StowParts, sender: Sender, content_type: str, study: str | None
    ) -> None:
        media = parse_media_type(content_type)
        if media.name != MULTIPART or media.root_type != DICOM:
            raise RequestRefused(415, f'Send {MULTIPART}; type="{DICOM}"')
        self._parts = parts
        self._sender = sender
        self._study = study
        self._outcome = Outcome()
        self._reader = MultipartReader(
            media.parameters.get("boundary", ""), self._begin
        )
        self._count = 0

    def feed(self, piece: bytes) -> None:
        """Take what has come of the body.

        Raises
        ------
        BadRequest
            It is no multipart body.
        """
        self._reader.feed(piece)

    def finish(self) -> Outcome:
        """Return what became of the objects.

        Raises
        ------
        BadRequest
            The body is cut short, or holds nothing.
        """
        self._reader.close()
        if not self._count:
            raise BadRequest("The body has no part")
        return self._outcome

    def end(self) -> None:
        """Record what was brought; called however the request ends."""
        self._reader.abandon()
        outcome = self._outcome
        self._parts.audit.note(
            "receive",
            "success",
            **self._sender.who,
            studies=sorted(outcome.tally.studies),
            personal={"patients": patients_of(outcome.tally.kept.elements())},
            **outcome.tally.outcomes,
        )

    def _begin(self, headers: Mapping[str, str]) -> IncomingPart:
        self._count += 1
        if self._count > MOST_OBJECTS:
            raise RequestRefused(413, f"Send at most {MOST_OBJECTS} objects at once")
        kind = parse_media_type(headers.get("content-type", DICOM)).name
        if kind != DICOM:
            raise RequestRefused(415, f"Every part must be {DICOM}")
        return IncomingPart(self._parts, self._keep)

    def _keep(self, incoming: IncomingObject) -> None:
        """Make one object durable, or note why not."""
        tally = self._outcome.tally
        request = incoming.request
        try:
            outcome = make_durable(
                self._parts.deposit,
                incoming,
                self._source(),
                tally,
                study_instance_uid=self._study,
                max_depth=self._parts.max_sequence_depth,
            )
            self._outcome.stored.append(request)
        except REFUSALS as error:
            conflict = isinstance(error, ObjectConflict)
            outcome = "conflict" if conflict else "refused"
            self._refuse(request, error)
        finally:
            incoming.discard()
        tally.outcomes[outcome] += 1

    def _source(self) -> Source:
        return Source(
            calling_ae=self._sender.ae_title,
            called_ae=self._parts.called_ae,
            peer_address=self._sender.address,
            received_at=timestamp(self._parts.clock()),
        )

    def _refuse(self, request: Request, error: Exception) -> None:
        status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
        self._outcome.failed.append((request, status))
        self._outcome.is_full |= isinstance(error, StoreFull)
        if len(self._outcome.failed) > WHOLE_LINES:
            return
        comment = str(error) if isinstance(error, GatewayError) else "Storage failed"
        fields: dict[str, Field] = {
            **self._sender.who,
            "sop_instance_uid": request.sop_instance_uid or "(invalid)",
            "status": f"0x{status:04X}",
        }
        LOG.warning("object not stored", error=type(error).__name__, **fields)
        self._parts.audit.note("store", "refused", message=comment, **fields)


def _item(request: Request) -> dict[str, Any]:
    item: dict[str, Any] = {
        "00081150": {"vr": "UI"},
        "00081155": {"vr": "UI"},
    }
    if request.sop_class_uid:
        item["00081150"]["Value"] = [request.sop_class_uid]
    if request.sop_instance_uid:
        item["00081155"]["Value"] = [request.sop_instance_uid]
    return item
