"""The storage SCP: Success means that bytes and index row are durable."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.log import AuditLog
from gateway.audit.personal import Seen, patients_of
from gateway.audit.who import who
from gateway.dicom import command
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.elements import DEEPEST
from gateway.dicom.header import read_attributes
from gateway.dicom.message import send_message
from gateway.dicom.status import StoreStatus
from gateway.errors import (
    ConfigurationError,
    GatewayError,
    IdentifierMismatch,
    InvalidObject,
    InvalidUid,
    ObjectConflict,
    ObjectTooLarge,
    StoredObjectDamaged,
    StoreFull,
    StoreUnavailable,
    UnsupportedObject,
)
from gateway.log import described
from gateway.store.clock import timestamp, utc_now
from gateway.store.deposit import Deposit, Source
from gateway.store.files import FileStore, OriginalWriter
from gateway.store.index import Index
from gateway.store.part10 import FileMeta, check_uid
from gateway.store.rows import Attributes

LOG = structlog.get_logger(component="receive")

# From the most specific error to the least.
STATUS_OF: tuple[tuple[type[Exception], StoreStatus], ...] = (
    (StoreFull, StoreStatus.OUT_OF_RESOURCES),
    (StoreUnavailable, StoreStatus.OUT_OF_RESOURCES),
    (ObjectTooLarge, StoreStatus.OUT_OF_RESOURCES),
    (ObjectConflict, StoreStatus.CONFLICT),
    (UnsupportedObject, StoreStatus.SOP_CLASS_NOT_SUPPORTED),
    (InvalidUid, StoreStatus.INVALID_SOP_INSTANCE),
    (IdentifierMismatch, StoreStatus.DATA_SET_DOES_NOT_MATCH),
    (InvalidObject, StoreStatus.CANNOT_UNDERSTAND),
    # The index is full, locked or gone: the sender keeps the object.
    (SQLAlchemyError, StoreStatus.OUT_OF_RESOURCES),
    # There is no master key to seal with.
    (ConfigurationError, StoreStatus.OUT_OF_RESOURCES),
    (StoredObjectDamaged, StoreStatus.PROCESSING_FAILURE),
    (OSError, StoreStatus.PROCESSING_FAILURE),
)
REFUSALS = tuple(error for error, _ in STATUS_OF)


class Request(NamedTuple):
    """What a C-STORE request says before its data set (PS3.7 9.3.1.1)."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


class IncomingObject:
    """One object being received: written as it comes, or its refusal kept.

    ``write`` runs in the thread that reads the socket; the rest of a refused
    data set is read and dropped, so that the association lives on.
    """

    def __init__(self, request: Request, max_object_bytes: int) -> None:
        self.request = request
        self.refusal: Exception | None = None
        self._writer: OriginalWriter | None = None
        self._max_object_bytes = max_object_bytes

    def open(self, store: FileStore, meta: FileMeta) -> None:
        """Begin the file."""
        try:
            self._writer = store.begin_original(meta)
        except REFUSALS as error:
            self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """Keep the first reason and drop the bytes."""
        self.refusal = self.refusal or error
        self.discard()

    def write(self, piece: memoryview) -> None:
        """Take a piece of the data set."""
        if self._writer is None:
            return
        if self._writer.size_bytes + len(piece) > self._max_object_bytes:
            self.refuse(ObjectTooLarge(f"Object above {self._max_object_bytes} bytes"))
            return
        try:
            self._writer.write(piece)
        except REFUSALS as error:
            self.refuse(error)

    def received(self) -> OriginalWriter:
        """Return the written object.

        Raises
        ------
        Exception
            The refusal, where there is one.
        """
        if self.refusal is not None:
            raise self.refusal
        if self._writer is None:
            raise InvalidObject("The request has no data set")
        return self._writer

    def discard(self) -> None:
        """Remove the bytes unless they were committed."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None


@dataclass
class Tally:
    """What one association brought, for the audit trail."""

    outcomes: Counter[str] = field(default_factory=Counter)
    studies: set[str] = field(default_factory=set)
    kept: Counter[Seen] = field(default_factory=Counter)


class StorageService:
    """C-STORE over the store and the index.

    Parameters
    ----------
    store, index, audit
        Where objects, rows and the trail go.
    max_object_bytes
        Larger data sets are refused with 0xA700 while they come in.
    max_depth
        Sequences within sequences; deeper ones are refused with 0xC000.
    clock
        Returns the time of reception, aware.
    """

    def __init__(
        self,
        store: FileStore,
        index: Index,
        audit: AuditLog,
        *,
        max_object_bytes: int,
        max_depth: int = DEEPEST,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._deposit = Deposit(store, index)
        self._audit = audit
        self._max_object_bytes = max_object_bytes
        self._max_depth = max_depth
        self._clock = clock
        self._tallies: dict[GatewayAssociation, Tally] = {}
        self._lock = threading.Lock()

    def begin_store(
        self,
        association: GatewayAssociation,
        context_id: int,
        request: dict[int, bytes],
    ) -> IncomingObject:
        """Start to write an object; what is wrong is answered at its end."""
        named = Request(
            command.as_number(request.get(command.MESSAGE_ID, b"")),
            command.as_uid(request.get(command.AFFECTED_SOP_CLASS_UID, b"")),
            command.as_uid(request.get(command.AFFECTED_SOP_INSTANCE_UID, b"")),
        )
        incoming = IncomingObject(named, self._max_object_bytes)
        try:
            meta = _file_meta(association, context_id, named)
        except REFUSALS as error:
            incoming.refuse(error)
        else:
            incoming.open(self._store, meta)
        return incoming

    def serve(
        self, association: GatewayAssociation, message: object, context_id: int
    ) -> None:
        """Store a received object and answer."""
        if not isinstance(message, IncomingObject):
            LOG.warning("unexpected message", kind=type(message).__name__)
            association.abort()
            return
        tally = self._tally(association)
        try:
            outcome = self._keep(association, message, tally)
            status, comment = StoreStatus.SUCCESS, ""
        except REFUSALS as error:
            status, comment = self._refuse(association, message.request, error)
            outcome = "conflict" if isinstance(error, ObjectConflict) else "refused"
        finally:
            message.discard()
        tally.outcomes[outcome] += 1
        _respond(association, context_id, message.request, (status, comment))

    def ended(self, association: GatewayAssociation) -> None:
        """Record in one line what the association brought."""
        with self._lock:
            tally = self._tallies.pop(association, None)
        if tally is not None:
            self._audit.note(
                "receive",
                "success",
                **who(association.call, association.admitted),
                studies=sorted(tally.studies),
                personal={"patients": patients_of(tally.kept.elements())},
                **tally.outcomes,
            )

    def _tally(self, association: GatewayAssociation) -> Tally:
        with self._lock:
            return self._tallies.setdefault(association, Tally())

    def _keep(
        self, association: GatewayAssociation, incoming: IncomingObject, tally: Tally
    ) -> str:
        """Make an object durable; return what the index made of it."""
        call = association.call
        source = Source(
            calling_ae=call.calling_ae,
            called_ae=call.called_ae,
            peer_address=call.peer_address,
            received_at=timestamp(self._clock()),
        )
        return make_durable(
            self._deposit, incoming, source, tally, max_depth=self._max_depth
        )

    def _refuse(
        self, association: GatewayAssociation, request: Request, error: Exception
    ) -> tuple[StoreStatus, str]:
        """Log and audit a refusal; return what the peer is told."""
        status = next(s for kind, s in STATUS_OF if isinstance(error, kind))
        comment = str(error) if isinstance(error, GatewayError) else "Storage failed"
        fields = {
            **who(association.call, association.admitted),
            "sop_instance_uid": _printable(request.sop_instance_uid),
            "status": f"0x{status:04X}",
        }
        LOG.warning("object not stored", error=described(error), **fields)
        self._audit.note("store", "refused", message=comment, **fields)
        return status, comment


def make_durable(
    deposit: Deposit,
    incoming: IncomingObject,
    source: Source,
    tally: Tally,
    *,
    study_instance_uid: str | None = None,
    max_depth: int,
) -> str:
    """Check that an object is what was announced, and put it in store and index.

    Parameters
    ----------
    deposit
        Where it is put.
    incoming
        The object, complete.
    source
        Where it comes from.
    tally
        Is told of its study.
    study_instance_uid
        The study it must be of; None: any.
    max_depth
        Of sequences within one another.

    Returns
    -------
    str
        ``stored`` or ``duplicate``.

    Raises
    ------
    Exception
        One of `REFUSALS`: nothing is stored, or it is kept aside.
    """
    writer = incoming.received()
    with writer.open() as written:
        attributes = read_attributes(
            written, writer.meta.transfer_syntax_uid, max_depth
        )
    _check_identity(attributes, incoming.request)
    if study_instance_uid not in {None, attributes.study_instance_uid}:
        raise IdentifierMismatch("StudyInstanceUID is not the request's")
    tally.studies.add(attributes.study_instance_uid)
    outcome = deposit.keep(writer, attributes, source)
    seen = Seen(
        attributes.patient_id,
        attributes.patient_name,
        attributes.study_instance_uid,
    )
    tally.kept[seen] += 1
    return outcome


def _file_meta(
    association: GatewayAssociation, context_id: int, request: Request
) -> FileMeta:
    """Return what the request and its context say of the data set.

    Raises
    ------
    UnsupportedObject
        The SOP class is not that of the context.
    InvalidUid
        The SOP Instance UID is none.
    """
    accepted = {c.context_id: c for c in association.accepted_contexts}
    context = accepted.get(context_id)
    if context is None or context.abstract_syntax != request.sop_class_uid:
        raise UnsupportedObject("The SOP class is not that of the context")
    try:
        check_uid(request.sop_instance_uid, "Affected SOP Instance UID")
    except InvalidObject as error:
        raise InvalidUid(str(error)) from error
    return FileMeta(
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        transfer_syntax_uid=str(context.transfer_syntax[0]),
    )


def _check_identity(attributes: Attributes, request: Request) -> None:
    """Check that the data set is the object that was announced."""
    found = (attributes.sop_class_uid, attributes.sop_instance_uid)
    if found != (request.sop_class_uid, request.sop_instance_uid):
        raise IdentifierMismatch("SOP class or instance UID is not the request's")


def _respond(
    association: GatewayAssociation,
    context_id: int,
    request: Request,
    answer: tuple[StoreStatus, str],
) -> None:
    """Send a C-STORE response (PS3.7 9.3.1.2)."""
    status, comment = answer
    elements = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(request.sop_class_uid[:64])),
        (command.COMMAND_FIELD, command.us(command.C_STORE_RSP)),
        (command.MESSAGE_ID_BEING_RESPONDED_TO, command.us(request.message_id)),
        (command.COMMAND_DATA_SET_TYPE, command.us(command.NO_DATA_SET)),
        (command.STATUS, command.us(status)),
    ]
    if status != StoreStatus.INVALID_SOP_INSTANCE:  # optional, and not to be echoed
        uid = command.ui(request.sop_instance_uid)
        elements.append((command.AFFECTED_SOP_INSTANCE_UID, uid))
    if comment:
        elements.append((command.ERROR_COMMENT, command.text(comment)))
    send_message(association, context_id, elements)


def _printable(uid: str) -> str:
    """Return a UID for logs; what only claims to be one is not repeated."""
    try:
        return check_uid(uid, "UID")
    except InvalidObject:
        return "(invalid)"
