"""C-STORE of stored bytes over an established association, never re-encoded.

pynetdicom's own ``send_c_store`` decodes and encodes the data set again, which
changes bytes. Here the encoded data set goes out as it is, in PDVs read from
memory or from a stored file, at most a few of them waiting at a time.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from gateway.dicom import command
from gateway.dicom.message import send_message
from gateway.errors import AssociationLost, NoPresentationContext
from gateway.store.part10 import read_head

POLL_SECONDS = 0.0005
LONGEST_COMMENT = 64  # PS3.7 E.1: LO
POLLS_PER_ROUND = 200  # a tenth of a second: far longer than a round takes

OpenPart10 = Callable[[], BinaryIO]
"""Opens a Part 10 file of the store for reading, from its start."""


@dataclass(frozen=True, kw_only=True)
class OutboundObject:
    """An encoded object to be sent as it is.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        What the C-STORE request and its presentation context say.
    data
        The encoded data set, or what opens a Part 10 file that holds it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes | memoryview | OpenPart10


@dataclass(frozen=True, kw_only=True)
class StoreAnswer:
    """A C-STORE response.

    Attributes
    ----------
    status
        What became of the object.
    comment
        The peer's Error Comment (0000,0902), printable; '' where it has none.
    """

    status: int
    comment: str


@dataclass(frozen=True, kw_only=True)
class MoveOriginator:
    """Who asked for a C-MOVE sub-operation (PS3.7 9.1.1.1.6)."""

    ae_title: str
    message_id: int


def store_bytes(
    association: Association,
    outbound: OutboundObject,
    *,
    message_id: int = 1,
    move_originator: MoveOriginator | None = None,
) -> StoreAnswer:
    """Send one object and wait for the answer.

    Parameters
    ----------
    association
        Established. If the peer requested it, it agreed to be the storage SCP
        (C-GET), and this is called from the association's own thread.
    outbound
        The object; its data set bytes leave unchanged.
    message_id
        1 to 65535, unique among outstanding messages.
    move_originator
        Given in C-MOVE sub-operations.

    Raises
    ------
    NoPresentationContext
        The peer accepted no context for this SOP class and transfer syntax.
    AssociationLost
        The association is not established, ended, or gave no valid answer in
        the DIMSE timeout; in the last case it is aborted.
    """
    context_id = context_for(association, outbound)
    request = _request(outbound, message_id, move_originator)
    with sole_reader(association):
        with _open_data_set(outbound.data) as stream:
            send_message(association, context_id, request, stream)
        _, response = association.dimse.get_msg(block=True)
    if isinstance(response, C_STORE) and response.Status is not None:
        comment = printable(_comment_of(response))
        return StoreAnswer(status=response.Status, comment=comment)
    if association.is_established:
        association.abort()
    raise AssociationLost(
        f"No valid C-STORE response for {outbound.sop_instance_uid}: the peer "
        "ended the association or did not answer in time"
    )


def _comment_of(response: C_STORE) -> str:
    # Set from the command where it has one; annotated as absent.
    return str(getattr(response, "ErrorComment", None) or "")


def printable(comment: str) -> str:
    """Return what a peer says as one short line."""
    kept = "".join(c if c.isprintable() else " " for c in comment)
    return " ".join(kept.split())[:LONGEST_COMMENT]


def context_for(association: Association, outbound: OutboundObject) -> int:
    """Return the id of the accepted context for an object.

    Raises
    ------
    NoPresentationContext
        There is none.
    """
    for context in association.accepted_contexts:
        if (
            context.as_scu
            and context.abstract_syntax == outbound.sop_class_uid
            and context.transfer_syntax[0] == outbound.transfer_syntax_uid
            and context.context_id is not None
        ):
            return context.context_id
    raise NoPresentationContext(
        f"The peer accepts no SOP class {outbound.sop_class_uid} in transfer "
        f"syntax {outbound.transfer_syntax_uid}"
    )


def _request(
    outbound: OutboundObject, message_id: int, originator: MoveOriginator | None
) -> list[tuple[int, bytes]]:
    elements = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(outbound.sop_class_uid)),
        (command.COMMAND_FIELD, command.us(command.C_STORE_RQ)),
        (command.MESSAGE_ID, command.us(message_id)),
        (command.PRIORITY, command.us(command.MEDIUM_PRIORITY)),
        (command.COMMAND_DATA_SET_TYPE, command.us(command.DATA_SET_PRESENT)),
        (command.AFFECTED_SOP_INSTANCE_UID, command.ui(outbound.sop_instance_uid)),
    ]
    if originator is not None:
        title, number = originator.ae_title, originator.message_id
        elements.append((command.MOVE_ORIGINATOR_AE_TITLE, command.text(title)))
        elements.append((command.MOVE_ORIGINATOR_MESSAGE_ID, command.us(number)))
    return elements


@contextmanager
def sole_reader(association: Association) -> Iterator[None]:
    """Keep pynetdicom's reactor from taking the response off the queue.

    An acceptor's reactor is what called: it takes nothing meanwhile.
    """
    if association.is_acceptor:
        if not association.is_established:
            raise AssociationLost("The association is not established")
        yield
        return
    try:
        _pause_reactor(association)
        if not association.is_established:
            raise AssociationLost("The association is not established")
        yield
    finally:
        association._reactor_checkpoint.set()


def _pause_reactor(association: Association) -> None:
    """Wait until the reactor stands at its checkpoint, or has ended.

    It says that it is paused before it looks whether it may go on, so what it
    said before the checkpoint was closed counts for nothing: on a busy machine
    it is still on its way to the queue. What it says after that is true. One that
    said so at the same moment stands there unheard: it is sent round again.
    """
    checkpoint = association._reactor_checkpoint
    while association.is_alive():
        checkpoint.set()  # one that stands there goes round once more, and says so
        checkpoint.clear()
        association._is_paused = False
        for _ in range(POLLS_PER_ROUND):
            if association._is_paused or not association.is_alive():
                return
            time.sleep(POLL_SECONDS)


@contextmanager
def _open_data_set(data: bytes | memoryview | OpenPart10) -> Iterator[BinaryIO]:
    """Open a stream that stands at the first byte of the data set."""
    if not callable(data):
        yield io.BytesIO(data)
        return
    with data() as stream:
        read_head(stream)
        yield stream
