"""A Part 10 file on its way in: its head is read, its data set written."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gateway.audit.log import AuditLog
from gateway.dicom.contexts import storage_classes, transfer_syntaxes
from gateway.dicom.handlers import IncomingObject, Request
from gateway.errors import InvalidObject, UnsupportedObject
from gateway.store.clock import utc_now
from gateway.store.deposit import Deposit
from gateway.store.files import FileStore
from gateway.store.part10 import (
    GROUP_LENGTH,
    LONGEST_META_BYTES,
    PREAMBLE,
    FileMeta,
    check_uid,
    read_head,
)

HEAD_BYTES: Final = len(PREAMBLE) + len(GROUP_LENGTH) + 4


@dataclass(frozen=True, kw_only=True)
class StowParts:
    """Where received objects go.

    Attributes
    ----------
    store, deposit, audit
        Files; files with their rows; the trail.
    called_ae
        Title of the receiver, as rules know it.
    max_object_bytes, max_sequence_depth
        Larger data sets, and deeper ones, are refused.
    sop_classes, syntaxes
        What is taken: the same as is negotiated for C-STORE.
    clock
        Returns the time of reception, aware.
    """

    store: FileStore
    deposit: Deposit
    audit: AuditLog
    called_ae: str
    max_object_bytes: int
    max_sequence_depth: int
    sop_classes: frozenset[str] = field(
        default_factory=lambda: frozenset(storage_classes())
    )
    syntaxes: frozenset[str] = field(
        default_factory=lambda: frozenset(transfer_syntaxes())
    )
    clock: Callable[[], datetime] = utc_now


class IncomingPart:
    """A Part 10 file on its way in: its head is read, its data set written."""

    def __init__(
        self, parts: StowParts, keep: Callable[[IncomingObject], None]
    ) -> None:
        self._parts = parts
        self._keep = keep
        self._head = bytearray()
        self._incoming: IncomingObject | None = None

    def write(self, piece: bytes) -> None:
        """Take a piece of the file."""
        if self._incoming is not None:
            self._incoming.write(memoryview(piece))
            return
        self._head += piece
        length = _head_length(self._head)
        if length is not None and len(self._head) >= length:
            self._start(length)

    def finish(self) -> None:
        """Keep it, or note why not."""
        if self._incoming is None:
            self._start(len(self._head))
        assert self._incoming is not None
        self._keep(self._incoming)

    def abandon(self) -> None:
        """Forget it."""
        if self._incoming is not None:
            self._incoming.discard()

    def _start(self, length: int) -> None:
        """Open the file of the store, now that the head says what comes."""
        head, rest = self._head[:length], self._head[length:]
        self._head = bytearray()
        limit = self._parts.max_object_bytes
        try:
            meta = read_head(io.BytesIO(head))
            request = _announced(meta)
        except InvalidObject as error:
            self._incoming = IncomingObject(Request(0, "", ""), limit)
            self._incoming.refuse(error)
            return
        self._incoming = IncomingObject(request, limit)
        try:
            self._check_kind(meta)
        except UnsupportedObject as error:
            self._incoming.refuse(error)
            return
        self._incoming.open(self._parts.store, meta)
        if rest:
            self._incoming.write(memoryview(bytes(rest)))

    def _check_kind(self, meta: FileMeta) -> None:
        if meta.sop_class_uid not in self._parts.sop_classes:
            raise UnsupportedObject("The SOP class is none that is stored here")
        if meta.transfer_syntax_uid not in self._parts.syntaxes:
            raise UnsupportedObject("The transfer syntax is none that is stored here")


def _announced(meta: FileMeta) -> Request:
    """Return what a head says comes, its UIDs checked before they name anything."""
    check_uid(meta.sop_class_uid, "Media Storage SOP Class UID")
    check_uid(meta.sop_instance_uid, "Media Storage SOP Instance UID")
    check_uid(meta.transfer_syntax_uid, "Transfer Syntax UID")
    return Request(0, meta.sop_class_uid, meta.sop_instance_uid)


def _head_length(head: bytearray) -> int | None:
    """Return how long the head of a Part 10 file is; None: not known yet.

    What has none is all head, and refused at its end.
    """
    if len(head) < HEAD_BYTES:
        return None
    if head[128:132] != b"DICM" or head[132:140] != GROUP_LENGTH:
        return HEAD_BYTES  # read_head will say what is wrong
    length = int.from_bytes(head[140:144], "little")
    return HEAD_BYTES + min(length, LONGEST_META_BYTES)
