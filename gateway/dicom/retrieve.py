"""The recovery SCP: query and retrieve of originals, on an AE title of its own."""

from __future__ import annotations

import structlog
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND, C_MOVE

from config.schema import Recovery
from gateway.audit.log import AuditLog
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.contexts import FIND_MODELS, MOVE_MODELS
from gateway.dicom.retrieve_find import FindHandler
from gateway.dicom.retrieve_move import MoveHandler, Restore
from gateway.store.files import FileStore
from gateway.store.index import Index

LOG = structlog.get_logger(component="recover")


class RecoveryService:
    """C-FIND and C-MOVE of what was received.

    Every object in the index can be found: protected ones are rebuilt by
    ``restore``, others come from the store; both only if their digest is that
    of the bytes received.
    """

    def __init__(
        self,
        settings: Recovery,
        store: FileStore,
        index: Index,
        audit: AuditLog,
        restore: Restore,
    ) -> None:
        self._find = FindHandler(index, audit, settings.ae_title)
        self._move = MoveHandler(settings, store, index, audit, restore)

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
        accepted = {c.context_id: c for c in association.accepted_contexts}
        context = accepted.get(context_id)
        model = str(context.abstract_syntax) if context is not None else ""
        syntax = context.transfer_syntax[0] if context is not None else UID("")
        if isinstance(message, C_FIND) and model in FIND_MODELS:
            self._find.handle(association, message, (context_id, model, syntax))
        elif isinstance(message, C_MOVE) and model in MOVE_MODELS:
            self._move.handle(association, message, (context_id, model, syntax))
        else:
            LOG.warning("unexpected message", kind=type(message).__name__)
            association.abort()

    def ended(self, association: GatewayAssociation) -> None:
        """Keep nothing of an association that is over."""
