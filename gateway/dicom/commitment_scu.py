"""Asking a destination to commit to what it was sent (PS3.4 J, as SCU)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT

from config.schema import Address
from gateway.dicom import commitment
from gateway.dicom.commitment_talk import answer_event, context_of, next_message
from gateway.dicom.contexts import STORAGE_COMMITMENT
from gateway.dicom.message import send_message
from gateway.dicom.rawstore import printable, sole_reader
from gateway.dicom.requestor import Requestor, Timeouts, open_association, peer_of
from gateway.dicom.status import CommitmentStatus
from gateway.errors import (
    AssociationLost,
    CommitmentRefused,
    ConfigurationError,
    NoPresentationContext,
)
from gateway.store.commitments import Report
from gateway.tls.identity import TlsIdentity

LOG = structlog.get_logger(component="commitment")

SAME_ASSOCIATION_SECONDS: Final = 2.0
"""So long a report is waited for on the association of the request."""

MOST_REPORTS: Final = 8
LARGEST_REPORT_BYTES: Final = 16 << 20
PASSING: Final = frozenset(
    {CommitmentStatus.PROCESSING_FAILURE, CommitmentStatus.RESOURCE_LIMITATION}
)
CONTEXTS: Final = (
    (STORAGE_COMMITMENT, str(ExplicitVRLittleEndian)),
    (STORAGE_COMMITMENT, str(ImplicitVRLittleEndian)),
)

Take = Callable[[Report], bool]
"""Takes a report that came at once; whether it was of something asked for."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes
    ----------
    taken
        Whether the destination took it: its report may come.
    passing
        Whether it may take it later.
    error
        For people.
    """

    taken: bool
    passing: bool = True
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class CommitmentUser:
    """Asks for commitment, in the name of this gateway.

    Attributes
    ----------
    calling_ae
        How it calls itself: reports come to that AE.
    tls
        Its TLS identity.
    linger_seconds
        How long a report is waited for on the same association.
    """

    calling_ae: str
    tls: TlsIdentity | None = None
    linger_seconds: float = SAME_ASSOCIATION_SECONDS

    def ask(
        self,
        address: Address,
        transaction_uid: str,
        objects: Sequence[tuple[str, str]],
        take: Take,
        timeout_seconds: float,
    ) -> Answer:
        """Make a request, and take a report that comes on its association.

        Parameters
        ----------
        address
            Who is asked.
        transaction_uid, objects
            What for: pairs of SOP class and instance UID.
        take
            Told of reports.
        timeout_seconds
            For the connection and each answer.
        """
        entity = Requestor(
            self.calling_ae, Timeouts(answer=timeout_seconds, idle=timeout_seconds)
        )
        try:
            peer = peer_of(address, self.tls)
            association = open_association(entity, peer, CONTEXTS)
        except (ConfigurationError, OSError) as error:
            entity.close()
            return Answer(taken=False, error=f"{address.ae_title}: {error}")
        try:
            return self._on(
                association, address, transaction_uid, objects, take, timeout_seconds
            )
        except NoPresentationContext as error:
            return Answer(taken=False, passing=False, error=str(error))
        except AssociationLost as error:
            return Answer(taken=False, error=str(error))
        finally:
            with suppress(OSError):
                if association.is_established:
                    association.release()
            entity.close()

    def _on(
        self,
        association: Association,
        address: Address,
        transaction_uid: str,
        objects: Sequence[tuple[str, str]],
        take: Take,
        timeout_seconds: float,
    ) -> Answer:
        if association.rejected_contexts and not association.accepted_contexts:
            raise NoPresentationContext(
                f"{address.ae_title} does not take storage commitment"
            )
        if not association.is_established:
            raise AssociationLost(f"{address.ae_title} cannot be reached")
        context_id, syntax = context_of(association)
        octets = commitment.encode_request(transaction_uid, objects, syntax)
        with sole_reader(association):
            request = commitment.action_request(1)
            send_message(association, context_id, request, octets)
            conversation = _Conversation(association, take)
            answer = conversation.answer(timeout_seconds)
            if answer.taken:
                conversation.linger(self.linger_seconds)
        return answer


class _Conversation:
    """What comes on the association of a request."""

    def __init__(self, association: Association, take: Take) -> None:
        self._association = association
        self._take = take
        self._reports = 0
        self._taken = False

    def answer(self, seconds: float) -> Answer:
        """Wait for the answer; a report may come before it.

        Raises
        ------
        AssociationLost
            The peer left, does not answer, or talks of something else.
        """
        while True:
            found = next_message(self._association, seconds)
            message = None if found is None else found[1]
            if isinstance(message, N_ACTION) and message.Status is not None:
                return _answer(message)
            if not self._reported(message):
                if self._association.is_established:
                    self._association.abort()
                raise AssociationLost("no valid answer to the request for commitment")

    def linger(self, seconds: float) -> None:
        """Take reports that come soon; return once one of ours has come."""
        deadline = time.monotonic() + seconds
        while not self._taken and (left := deadline - time.monotonic()) > 0:
            found = next_message(self._association, left)
            if found is None or not self._reported(found[1]):
                return

    def _reported(self, message: object) -> bool:
        """Take a report; False: this is none, or one too many."""
        if not isinstance(message, N_EVENT_REPORT) or message.Status is not None:
            return False
        self._reports += 1
        if self._reports > MOST_REPORTS:
            return False
        status, comment = CommitmentStatus.SUCCESS, ""
        try:
            self._take_report(commitment.octets_of(message.EventInformation))
        except CommitmentRefused as refused:
            LOG.warning("report refused", error=str(refused))
            status, comment = CommitmentStatus(refused.status), str(refused)
        answer_event(self._association, message, status, comment)
        return True

    def _take_report(self, octets: bytes) -> None:
        if len(octets) > LARGEST_REPORT_BYTES:
            raise CommitmentRefused(
                CommitmentStatus.RESOURCE_LIMITATION, "the report is too large"
            )
        _, syntax = context_of(self._association)
        if not self._take(commitment.decode_report(octets, syntax)):
            raise CommitmentRefused(
                CommitmentStatus.INVALID_ARGUMENT_VALUE, "no such transaction of yours"
            )
        self._taken = True


def _answer(message: N_ACTION) -> Answer:
    status = int(message.Status or 0)
    # 0x0001, 0x0107 and 0xBxxx: it was done, with a remark.
    if status in (0x0000, 0x0001, 0x0107) or 0xB000 <= status <= 0xBFFF:
        return Answer(taken=True)
    comment = printable(str(getattr(message, "ErrorComment", None) or ""))
    why = f"N-ACTION status 0x{status:04X}{': ' if comment else ''}{comment}"
    return Answer(taken=False, passing=status in PASSING, error=why)
