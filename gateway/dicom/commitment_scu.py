"""Asking a destination to commit to what it was sent (PS3.4 J, as SCU)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.events import Event

from config.schema import Address
from gateway.dicom import commitment
from gateway.dicom.commitment_talk import context_of, next_message
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
            reports = _Reports(take)
            association = open_association(
                entity,
                peer_of(address, self.tls),
                CONTEXTS,
                handlers=[(evt.EVT_N_EVENT_REPORT, reports.hear)],
            )
        except (ConfigurationError, OSError) as error:
            entity.close()
            return Answer(taken=False, error=f"{address.ae_title}: {error}")
        try:
            octets = self._request(association, address, transaction_uid, objects)
            answer = _answered(association, octets, timeout_seconds)
            if answer.taken:
                reports.linger(self.linger_seconds)
        except NoPresentationContext as error:
            return Answer(taken=False, passing=False, error=str(error))
        except AssociationLost as error:
            return Answer(taken=False, error=str(error))
        else:
            return answer
        finally:
            with suppress(OSError):
                if association.is_established:
                    association.release()
            entity.close()

    @staticmethod
    def _request(
        association: Association,
        address: Address,
        transaction_uid: str,
        objects: Sequence[tuple[str, str]],
    ) -> bytes:
        """Encode the request as the association has it.

        Raises
        ------
        NoPresentationContext, AssociationLost
            There is no association for it.
        """
        if association.rejected_contexts and not association.accepted_contexts:
            raise NoPresentationContext(
                f"{address.ae_title} does not take storage commitment"
            )
        if not association.is_established:
            raise AssociationLost(f"{address.ae_title} cannot be reached")
        _, syntax = context_of(association)
        return commitment.encode_request(transaction_uid, objects, syntax)


class _Reports:
    """Reports that come on the association of a request.

    pynetdicom has a thread for each, also before the answer to the request.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._heard = 0
        self._taken = threading.Event()
        self._lock = threading.Lock()

    def linger(self, seconds: float) -> None:
        """Wait until one of what was asked for has come."""
        self._taken.wait(seconds)

    def hear(self, event: Event) -> tuple[Dataset, None]:
        """Take a report and answer it."""
        status = Dataset()
        status.Status = int(CommitmentStatus.SUCCESS)
        try:
            with self._lock:
                self._hear(event)
        except CommitmentRefused as refused:
            LOG.warning("report refused", error=str(refused))
            status.Status = int(refused.status)
        return status, None

    def _hear(self, event: Event) -> None:
        assert isinstance(event.request, N_EVENT_REPORT)
        octets = commitment.octets_of(event.request.EventInformation)
        self._heard += 1
        if self._heard > MOST_REPORTS or len(octets) > LARGEST_REPORT_BYTES:
            raise CommitmentRefused(
                CommitmentStatus.RESOURCE_LIMITATION, "too many reports, or too large"
            )
        report = commitment.decode_report(octets, UID(event.context.transfer_syntax))
        if not self._take(report):
            raise CommitmentRefused(
                CommitmentStatus.INVALID_ARGUMENT_VALUE, "no such transaction of yours"
            )
        self._taken.set()


def _answered(association: Association, octets: bytes, seconds: float) -> Answer:
    """Send the request and wait for its answer.

    Raises
    ------
    AssociationLost
        The peer left, does not answer, or talks of something else.
    """
    context_id, _ = context_of(association)
    with sole_reader(association):
        request = commitment.action_request(1)
        send_message(association, context_id, request, octets)
        found = next_message(association, seconds)
    message = None if found is None else found[1]
    if isinstance(message, N_ACTION) and message.Status is not None:
        return _answer(message)
    if association.is_established:
        association.abort()
    raise AssociationLost("no valid answer to the request for commitment")


def _answer(message: N_ACTION) -> Answer:
    status = int(message.Status or 0)
    # 0x0001, 0x0107 and 0xBxxx: it was done, with a remark.
    if status in (0x0000, 0x0001, 0x0107) or 0xB000 <= status <= 0xBFFF:
        return Answer(taken=True)
    comment = printable(str(getattr(message, "ErrorComment", None) or ""))
    why = f"N-ACTION status 0x{status:04X}{': ' if comment else ''}{comment}"
    return Answer(taken=False, passing=status in PASSING, error=why)
