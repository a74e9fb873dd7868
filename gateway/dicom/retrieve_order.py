"""One C-MOVE: its order, the count of its sub-operations, and its responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_MOVE

from config.schema import MoveDestination
from gateway.dicom import command
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.message import send_message
from gateway.dicom.retrieve_identifier import Query, encode_failed
from gateway.dicom.status import MoveStatus, is_stored
from gateway.store.rows import Instance


@dataclass
class Progress:
    """The sub-operations of one C-MOVE (PS3.4 C.4.2.1.6)."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def count(self, instance: Instance, status: int | None) -> None:
        """Count one sub-operation by the status its destination gave."""
        self.remaining -= 1
        if status == 0:
            self.completed += 1
        elif status is not None and is_stored(status):
            self.warning += 1
        else:
            self.failed_uids.append(instance.sop_instance_uid)

    def final_status(self) -> MoveStatus:
        """Return what the last response says."""
        if not self.failed_uids and not self.warning:
            return MoveStatus.SUCCESS
        if not self.completed and not self.warning:
            return MoveStatus.OUT_OF_RESOURCES_SUBOPERATIONS
        return MoveStatus.SOME_FAILED


@dataclass(frozen=True, kw_only=True)
class Order:
    """One C-MOVE request, admitted: what goes where, and who asked."""

    association: GatewayAssociation
    request: C_MOVE
    context_id: int
    transfer_syntax: UID
    destination: MoveDestination
    query: Query
    instances: Sequence[Instance]

    def respond(self, status: MoveStatus, progress: Progress) -> None:
        """Send a response with the counts, and the failed UIDs in the last."""
        elements = [
            (command.COMPLETED_SUBOPERATIONS, command.us(progress.completed)),
            (command.FAILED_SUBOPERATIONS, command.us(len(progress.failed_uids))),
            (command.WARNING_SUBOPERATIONS, command.us(progress.warning)),
        ]
        if status in {MoveStatus.PENDING, MoveStatus.CANCEL}:
            elements.append(
                (command.REMAINING_SUBOPERATIONS, command.us(progress.remaining))
            )
        identifier = b""
        if status is not MoveStatus.PENDING and progress.failed_uids:
            identifier = encode_failed(progress.failed_uids, self.transfer_syntax)
        respond_move(
            self.association,
            self.request,
            self.context_id,
            status,
            (elements, identifier),
        )

    def is_cancelled(self) -> bool:
        """Whether a C-CANCEL for this request has come."""
        return self.request.MessageID in self.association.dimse.cancel_req

    def is_abandoned(self) -> bool:
        """Whether who asked is gone."""
        association = self.association
        return association.acse.is_aborted() or not association.is_established


def respond_move(
    association: GatewayAssociation,
    request: C_MOVE,
    context_id: int,
    status: MoveStatus,
    content: tuple[list[tuple[int, bytes]], bytes],
) -> None:
    """Send a C-MOVE response (PS3.7 9.3.4.2)."""
    extra, identifier = content
    present = command.DATA_SET_PRESENT if identifier else command.NO_DATA_SET
    elements = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(str(request.AffectedSOPClassUID))),
        (command.COMMAND_FIELD, command.us(command.C_MOVE_RSP)),
        (command.MESSAGE_ID_BEING_RESPONDED_TO, command.us(request.MessageID or 0)),
        (command.COMMAND_DATA_SET_TYPE, command.us(present)),
        (command.STATUS, command.us(status)),
        *extra,
    ]
    send_message(association, context_id, elements, identifier)
