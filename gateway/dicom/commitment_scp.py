"""Storage commitment on the receiver's AE title: asked of it, and reported to it.

A request is durable before it is answered. It is reported on a new association
where the node has an address for it, otherwise on the one it was made on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
from pydicom.uid import UID
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from sqlalchemy.exc import SQLAlchemyError

from config.schema import Site
from gateway.audit.log import AuditLog
from gateway.audit.who import who
from gateway.dicom import commitment
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.commitment_talk import answer, context_of, report_on
from gateway.dicom.contexts import STORAGE_COMMITMENT
from gateway.dicom.status import CommitmentStatus, FailureReason
from gateway.errors import (
    AssociationLost,
    CommitmentRefused,
    NoPresentationContext,
    StoredObjectDamaged,
)
from gateway.log import described
from gateway.store.commitments import Effect, Report
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import CommitmentRequest

LOG = structlog.get_logger(component="commitment")

Asked = TypeVar("Asked", N_ACTION, N_EVENT_REPORT)
Done = TypeVar("Done")
Fields = dict[str, object]
"""What a line of the trail says of a message, beyond who sent it."""

SAME_ASSOCIATION_SECONDS: Final = 120.0
"""So long a request without an address is left to the association it came on."""

MOST_OBJECTS: Final = 10_000
"""Of one request: their check holds its association."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Says what this gateway keeps."""

    index: Index
    store: FileStore

    def report(self, request: CommitmentRequest) -> Report:
        """Look at every object of a request: its row, and its whole file."""
        kept: list[tuple[str, str]] = []
        failed: dict[tuple[str, str], int] = {}
        for sop_class, uid in request.objects:
            reason = self._failure(sop_class, uid, request.calling_ae)
            if reason is None:
                kept.append((sop_class, uid))
            else:
                failed[sop_class, uid] = reason
        return Report(transaction_uid=request.transaction_uid, kept=kept, failed=failed)

    def _failure(self, sop_class: str, uid: str, asked_by: str) -> int | None:
        instance = self.index.instance(uid)
        if instance is None or not self.store.exists(instance.path):
            return FailureReason.NO_SUCH_OBJECT_INSTANCE
        if instance.sop_class_uid != sop_class:
            return FailureReason.CLASS_INSTANCE_CONFLICT
        # What it sent came after another object of this UID, and is kept aside.
        aside = self.index.conflicts_of(uid)
        if any(conflict.calling_ae == asked_by for conflict in aside):
            return FailureReason.PROCESSING_FAILURE
        try:
            whole = self.store.digest(instance.path, data_set=True)
        except StoredObjectDamaged:
            return FailureReason.PROCESSING_FAILURE
        return None if whole == instance.sha256 else FailureReason.PROCESSING_FAILURE


@dataclass(frozen=True, kw_only=True)
class CommitmentService:
    """N-ACTION from nodes that store, N-EVENT-REPORT from destinations.

    Attributes
    ----------
    site
        Whose nodes and destinations they are.
    index, audit
        Where requests, reports and lines go.
    keeping
        Says what is kept.
    wake
        Set when there is something to be reported.
    """

    site: Site
    index: Index
    audit: AuditLog
    keeping: Keeping
    wake: threading.Event = field(default_factory=threading.Event)

    def serves(self, message: object) -> bool:
        """Whether a message is of storage commitment."""
        return isinstance(message, N_ACTION | N_EVENT_REPORT)

    def serve(self, association: GatewayAssociation, message: object) -> None:
        """Answer a request or a report."""
        try:
            context_of(association)
        except NoPresentationContext:
            association.abort()
            return
        if isinstance(message, N_ACTION):
            self._asked(association, message)
        elif isinstance(message, N_EVENT_REPORT) and message.Status is None:
            self._answered(association, "report", message, self._take)
        else:  # an answer to nothing
            LOG.warning("unexpected message", kind=type(message).__name__)
            association.abort()

    # asked by a modality

    def _asked(self, association: GatewayAssociation, action: N_ACTION) -> None:
        request = self._answered(association, "asked", action, self._note)
        if request is None:
            return
        if association.caller.node.commitment is None:
            self._report_here(association, request)
        else:
            self.wake.set()

    def _note(
        self, association: GatewayAssociation, action: N_ACTION
    ) -> tuple[CommitmentRequest, Fields]:
        """Make a request durable.

        Raises
        ------
        CommitmentRefused
            It is none, or not this node's to make.
        """
        caller = association.caller
        if "store" not in caller.node.roles:
            raise CommitmentRefused(
                CommitmentStatus.NOT_AUTHORISED, "this node does not store here"
            )
        _check_named(action.RequestedSOPClassUID, action.RequestedSOPInstanceUID)
        if action.ActionTypeID != commitment.REQUEST:
            raise CommitmentRefused(
                CommitmentStatus.NO_SUCH_ACTION, "only action 1 is known"
            )
        octets = commitment.octets_of(action.ActionInformation)
        _, syntax = context_of(association)
        transaction_uid, objects = commitment.decode_request(octets, UID(syntax))
        if len(objects) > MOST_OBJECTS:
            raise CommitmentRefused(
                CommitmentStatus.RESOURCE_LIMITATION, f"above {MOST_OBJECTS} objects"
            )
        wait = SAME_ASSOCIATION_SECONDS if caller.node.commitment is None else 0.0
        try:
            outcome, request = self.index.add_commitment_request(
                caller.node.name, caller.ae_title, transaction_uid, objects, wait
            )
        except SQLAlchemyError as error:
            raise CommitmentRefused(
                CommitmentStatus.RESOURCE_LIMITATION, "the index cannot be used"
            ) from error
        if outcome == "other":
            raise CommitmentRefused(
                CommitmentStatus.DUPLICATE_TRANSACTION,
                "this transaction was of other objects",
            )
        return request, {
            "transaction_uid": request.transaction_uid,
            "objects": len(request.objects),
            "again": outcome == "again",
        }

    def _report_here(
        self, association: GatewayAssociation, request: CommitmentRequest
    ) -> None:
        """Report on the association of the request, if the node still listens."""
        report = self.keeping.report(request)
        wait = self.site.receiver.network_timeout_seconds
        try:
            others = report_on(association, report, wait)
        except AssociationLost as error:
            LOG.info("report not taken", reason=str(error), node=request.node)
            why = f"{error}; it has no address for reports"
            self.index.record_commitment_report(
                request.id, "waiting", why, SAME_ASSOCIATION_SECONDS
            )
            return
        self.index.record_commitment_report(request.id, "reported", "")
        self._line(
            association,
            "success",
            step="reported",
            transaction_uid=request.transaction_uid,
            kept=len(report.kept),
            failed=len(report.failed),
        )
        for context_id, message in others:
            if context_id is not None:
                association.serve_waiting(message, context_id)

    # reported by a destination

    def _take(
        self, association: GatewayAssociation, event: N_EVENT_REPORT
    ) -> tuple[Effect, Fields]:
        caller = association.caller
        if "commit" not in caller.node.roles:
            raise CommitmentRefused(
                CommitmentStatus.NOT_AUTHORISED, "this node does not report here"
            )
        _check_named(event.AffectedSOPClassUID, event.AffectedSOPInstanceUID)
        if event.EventTypeID not in {commitment.ALL_KEPT, commitment.SOME_FAILED}:
            raise CommitmentRefused(
                CommitmentStatus.NO_SUCH_EVENT_TYPE, "only events 1 and 2 are known"
            )
        octets = commitment.octets_of(event.EventInformation)
        _, syntax = context_of(association)
        report = commitment.decode_report(octets, UID(syntax))
        theirs = [
            destination.name
            for destination in self.site.destinations
            if any(caller.ae_title == one.ae_title for one in destination.called)
        ]
        try:
            effect = self.index.report_commitment(report, theirs)
        except SQLAlchemyError as error:
            raise CommitmentRefused(
                CommitmentStatus.PROCESSING_FAILURE, "the index cannot be used"
            ) from error
        if effect is None:
            raise CommitmentRefused(
                CommitmentStatus.INVALID_ARGUMENT_VALUE, "no such transaction of yours"
            )
        return effect, {
            "destination": effect.destination,
            "committed": effect.committed,
            "again": effect.again,
            "held": effect.held,
            "strangers": effect.strangers,
        }

    # either

    def _answered(
        self,
        association: GatewayAssociation,
        step: str,
        message: Asked,
        take: Callable[[GatewayAssociation, Asked], tuple[Done, Fields]],
    ) -> Done | None:
        """Have a message taken, tell the trail, and answer; None: it was refused."""
        try:
            done, fields = take(association, message)
        except CommitmentRefused as refused:
            LOG.warning("commitment refused", step=step, error=described(refused))
            self._line(
                association,
                "refused",
                step=step,
                status=f"0x{refused.status:04X}",
                message=str(refused),
            )
            answer(association, message, refused.status, str(refused))
            return None
        self._line(association, "success", step=step, **fields)
        answer(association, message, CommitmentStatus.SUCCESS)
        return done

    def _line(
        self, association: GatewayAssociation, outcome: str, **fields: object
    ) -> None:
        caller = who(association.call, association.admitted)
        self.audit.note("commitment", outcome, **caller, **fields)  # type: ignore[arg-type]


def _check_named(sop_class: UID | None, instance: UID | None) -> None:
    if sop_class != STORAGE_COMMITMENT:
        raise CommitmentRefused(
            CommitmentStatus.NO_SUCH_SOP_CLASS, "only the push model is known"
        )
    if instance != commitment.WELL_KNOWN_INSTANCE:
        raise CommitmentRefused(
            CommitmentStatus.NO_SUCH_SOP_INSTANCE,
            "only the well-known instance is here",
        )
