"""One C-MOVE or C-GET: its order, its sub-operations' count, its responses."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_GET, C_MOVE

from gateway.dicom import command
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.message import send_message
from gateway.dicom.retrieve_answer import encode_failed
from gateway.dicom.retrieve_holdings import Offered
from gateway.dicom.retrieve_identifier import Query
from gateway.dicom.status import RetrieveStatus, is_stored
from gateway.errors import GatewayError

TOLD_SECONDS: Final = 15.0
"""Who asks gives up after 30 (pynetdicom) or 60 seconds (DCMTK) without a word."""


@dataclass
class Progress:
    """The sub-operations of one request (PS3.4 C.4.2.1.6)."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)
    sent: list[Offered] = field(default_factory=list)

    def count(self, item: Offered, status: int | None) -> None:
        """Count one sub-operation by the status its storage SCP gave."""
        self.remaining -= 1
        if status is not None and is_stored(status):
            self.sent.append(item)
        if status == 0:
            self.completed += 1
        elif status is not None and is_stored(status):
            self.warning += 1
        else:
            self.failed_uids.append(item.sop_instance_uid)

    def final_status(self) -> RetrieveStatus:
        """Return what the last response says."""
        if not self.failed_uids and not self.warning:
            return RetrieveStatus.SUCCESS
        if not self.completed and not self.warning:
            return RetrieveStatus.OUT_OF_RESOURCES_SUBOPERATIONS
        return RetrieveStatus.SOME_FAILED


@dataclass(frozen=True, kw_only=True)
class Order:
    """One request, admitted: what is sent to whom, and who asked.

    Attributes
    ----------
    destination_ae
        The storage SCP: with C-GET who asked.
    """

    association: GatewayAssociation
    request: C_MOVE | C_GET
    context_id: int
    transfer_syntax: UID
    destination_ae: str
    query: Query
    items: Sequence[Offered]

    def respond(self, status: RetrieveStatus, progress: Progress) -> None:
        """Send a response with the counts, and the failed UIDs in the last."""
        elements = [
            (command.COMPLETED_SUBOPERATIONS, command.us(progress.completed)),
            (command.FAILED_SUBOPERATIONS, command.us(len(progress.failed_uids))),
            (command.WARNING_SUBOPERATIONS, command.us(progress.warning)),
        ]
        if status in {RetrieveStatus.PENDING, RetrieveStatus.CANCEL}:
            elements.append(
                (command.REMAINING_SUBOPERATIONS, command.us(progress.remaining))
            )
        identifier = b""
        if status is not RetrieveStatus.PENDING and progress.failed_uids:
            identifier = encode_failed(progress.failed_uids, self.transfer_syntax)
        respond(
            self.association,
            self.request,
            self.context_id,
            status,
            (elements, identifier),
        )

    @contextmanager
    def told_to_wait(self, progress: Progress) -> Iterator[None]:
        """Tell who asked that it goes on, again and again, while the block lasts.

        Nothing else may be sent on its association meanwhile.
        """
        done = threading.Event()

        def tell() -> None:
            while not done.wait(TOLD_SECONDS) and not self.is_abandoned():
                try:
                    self.respond(RetrieveStatus.PENDING, progress)
                except (GatewayError, OSError):  # it has gone: seen elsewhere
                    return

        telling = threading.Thread(target=tell, name="told-to-wait", daemon=True)
        telling.start()
        try:
            yield
        finally:
            done.set()
            telling.join()

    def is_cancelled(self) -> bool:
        """Whether a C-CANCEL for this request has come."""
        return self.request.MessageID in self.association.dimse.cancel_req

    def is_abandoned(self) -> bool:
        """Whether who asked is gone."""
        return self.association.is_over()


def respond(
    association: GatewayAssociation,
    request: C_MOVE | C_GET,
    context_id: int,
    status: RetrieveStatus,
    content: tuple[list[tuple[int, bytes]], bytes],
) -> None:
    """Send a C-MOVE or C-GET response (PS3.7 9.3.3.2, 9.3.4.2)."""
    extra, identifier = content
    present = command.DATA_SET_PRESENT if identifier else command.NO_DATA_SET
    kind = command.C_MOVE_RSP if isinstance(request, C_MOVE) else command.C_GET_RSP
    elements = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(str(request.AffectedSOPClassUID))),
        (command.COMMAND_FIELD, command.us(kind)),
        (command.MESSAGE_ID_BEING_RESPONDED_TO, command.us(request.MessageID or 0)),
        (command.COMMAND_DATA_SET_TYPE, command.us(present)),
        (command.STATUS, command.us(status)),
        *extra,
    ]
    send_message(association, context_id, elements, identifier)
