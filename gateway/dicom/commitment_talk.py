"""Taking turns on an association: reports come when the other side likes."""

from __future__ import annotations

import queue
import time
from typing import Final

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT

from gateway.dicom import command, commitment
from gateway.dicom.contexts import STORAGE_COMMITMENT
from gateway.dicom.message import send_message
from gateway.errors import AssociationLost, NoPresentationContext
from gateway.store.commitments import Report

LOOK_SECONDS: Final = 0.05
MOST_MESSAGES: Final = 16
"""From a peer, before the one that is waited for."""


def context_of(association: Association) -> tuple[int, UID]:
    """Return id and transfer syntax of the context of storage commitment.

    Raises
    ------
    NoPresentationContext
        There is none.
    """
    for context in association.accepted_contexts:
        if context.abstract_syntax == STORAGE_COMMITMENT:
            assert context.context_id is not None
            return context.context_id, context.transfer_syntax[0]
    raise NoPresentationContext("the peer does not take storage commitment")


Message = tuple[int | None, object]
"""Id of the presentation context, and the message."""


def next_message(association: Association, seconds: float) -> Message | None:
    """Wait for a message; None: none came, or the peer is about to leave.

    To be called while nobody else reads: from an acceptor's own thread, or within
    ``rawstore.sole_reader``.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            found = association.dimse.msg_queue.get(timeout=min(LOOK_SECONDS, left))
        except queue.Empty:
            if association.dul.peek_next_pdu() is not None:
                return None
            if not association.dul.is_alive():
                return None
        else:
            return found
    return None


def report_on(
    association: Association, report: Report, seconds: float
) -> list[Message]:
    """Send a report and wait for its answer.

    Parameters
    ----------
    association
        Of either side, on which nobody else reads.
    report
        What to say.
    seconds
        For the answer.

    Returns
    -------
    list
        Messages that came before the answer, still to be served.

    Raises
    ------
    AssociationLost
        The peer left, did not answer, or refused the report.
    NoPresentationContext
        There is no context for it.
    """
    context_id, syntax = context_of(association)
    octets = commitment.encode_report(report, syntax)
    send_message(association, context_id, commitment.event_report(1, report), octets)
    others: list[Message] = []
    while len(others) <= MOST_MESSAGES:
        found = next_message(association, seconds)
        message = None if found is None else found[1]
        if found is None or message is None:
            raise AssociationLost("the peer left, or did not answer the report")
        if isinstance(message, N_EVENT_REPORT) and message.Status is not None:
            if message.Status != 0:
                raise AssociationLost(
                    f"the peer answered the report with 0x{message.Status:04X}"
                )
            return others
        others.append(found)
    raise AssociationLost("the peer does not answer the report")


def answer(
    association: Association,
    message: N_ACTION | N_EVENT_REPORT,
    status: int,
    comment: str = "",
) -> None:
    """Answer a request or a report."""
    asked = isinstance(message, N_ACTION)
    field = command.N_ACTION_RSP if asked else command.N_EVENT_REPORT_RSP
    context_id, _ = context_of(association)
    response = commitment.response(message, field, status, comment)
    send_message(association, context_id, response)
