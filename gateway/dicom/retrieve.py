"""The query/retrieve SCP, on either AE title, and the receiver that is both."""

from __future__ import annotations

import structlog
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.log import AuditLog
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.commitment_scp import CommitmentService
from gateway.dicom.contexts import FIND_MODELS, GET_MODELS, MOVE_MODELS
from gateway.dicom.dimse import Incoming
from gateway.dicom.handlers import IncomingObject, StorageService
from gateway.dicom.retrieve_find import FindHandler
from gateway.dicom.retrieve_get import GetHandler
from gateway.dicom.retrieve_grants import Grants
from gateway.dicom.retrieve_holdings import Holdings
from gateway.dicom.retrieve_move import MoveHandler
from gateway.log import described
from gateway.tls.identity import TlsIdentity

LOG = structlog.get_logger(component="retrieve")


class RetrieveService:
    """C-FIND, C-MOVE and C-GET over what one AE title holds.

    Parameters
    ----------
    grants
        Who may ask, and where to objects may go.
    holdings
        Originals or protected objects.
    audit
        Where requests are recorded before they are answered.
    tls
        What this side calls destinations as; None: only those without TLS.
    """

    def __init__(
        self,
        grants: Grants,
        holdings: Holdings,
        audit: AuditLog,
        tls: TlsIdentity | None = None,
    ) -> None:
        self._holdings = holdings
        self._find = FindHandler(holdings, audit, grants.ae_title)
        self._move = MoveHandler(grants, holdings, audit, tls)
        self._get = GetHandler(holdings, audit)

    def sent_syntaxes(self) -> list[tuple[str, str]]:
        """Return in what objects lie here: they are sent in no other."""
        try:
            return self._holdings.syntaxes()
        except SQLAlchemyError as error:
            LOG.warning("syntaxes unknown", error=described(error))
            return []

    def begin_store(
        self,
        association: GatewayAssociation,
        context_id: int,
        request: dict[int, bytes],
    ) -> None:
        """Take no objects here; the message then ends the association."""

    def serve(
        self, association: GatewayAssociation, message: object, context_id: int
    ) -> None:
        """Answer one request; one that was not negotiated aborts."""
        context = association.context(context_id)
        model = str(context.abstract_syntax) if context is not None else ""
        syntax = context.transfer_syntax[0] if context is not None else UID("")
        if isinstance(message, C_FIND) and model in FIND_MODELS:
            self._find.handle(association, message, (context_id, model, syntax))
        elif isinstance(message, C_MOVE) and model in MOVE_MODELS:
            self._move.handle(association, message, (context_id, model, syntax))
        elif isinstance(message, C_GET) and model in GET_MODELS:
            self._get.handle(association, message, (context_id, model, syntax))
        else:
            LOG.warning("unexpected message", kind=type(message).__name__)
            association.abort()

    def ended(self, association: GatewayAssociation) -> None:
        """Keep nothing of an association that is over."""


class ReceiverService:
    """Storage, its commitment and query/retrieve on one AE, each for who may.

    Which of the two a node may use was settled by the presentation contexts it
    was given: a reader has none in which it could store.
    """

    def __init__(
        self,
        storage: StorageService,
        retrieval: RetrieveService,
        commitment: CommitmentService,
    ) -> None:
        self._storage = storage
        self._retrieval = retrieval
        self._commitment = commitment

    def sent_syntaxes(self) -> list[tuple[str, str]]:
        """Return in what protected objects lie here."""
        return self._retrieval.sent_syntaxes()

    def begin_store(
        self,
        association: GatewayAssociation,
        context_id: int,
        request: dict[int, bytes],
    ) -> Incoming | None:
        """Take an object in, unless this side only sends in that context."""
        context = association.context(context_id)
        if context is not None and not context.as_scp:
            return None
        return self._storage.begin_store(association, context_id, request)

    def serve(
        self, association: GatewayAssociation, message: object, context_id: int
    ) -> None:
        """Store, commit, or answer a request."""
        if isinstance(message, IncomingObject):
            self._storage.serve(association, message, context_id)
        elif self._commitment.serves(message):
            self._commitment.serve(association, message)
        else:
            self._retrieval.serve(association, message, context_id)

    def ended(self, association: GatewayAssociation) -> None:
        """Record what the association brought."""
        self._storage.ended(association)
