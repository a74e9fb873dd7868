"""C-STORE of stored objects to a node outside (storage SCU, PS3.4 B).

Data sets leave as they are stored. Each object has its own result, so that one
refused object does not keep the others back.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from pynetdicom.association import Association

from config.schema import Destination
from gateway.dicom.rawstore import OutboundObject, send_c_store_bytes
from gateway.dicom.requestor import (
    Requestor,
    Timeouts,
    batches,
    peer_of,
    requested,
    tls_failure,
)
from gateway.dicom.status import StoreStatus, is_stored
from gateway.errors import (
    AssociationLost,
    ConfigurationError,
    NoPresentationContext,
    StoredObjectDamaged,
)
from gateway.tls.identity import TlsIdentity

_LAST_MESSAGE_ID = 65_535


class Verdict(Enum):
    """What a result means for an object owed to a destination."""

    SENT = "sent"
    """The peer keeps it."""
    TRANSIENT = "transient"
    """Try again later: peer away, busy or out of resources."""
    REFUSED = "refused"
    """The peer will not take it; the same again would be refused again."""


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """How the sending of one object ended.

    Attributes
    ----------
    sop_instance_uid
        Of the object.
    status
        The C-STORE status, or None when there was no answer.
    error
        For people; empty when the peer keeps the object.
    verdict
        What follows.
    """

    sop_instance_uid: str
    status: int | None
    error: str
    verdict: Verdict


def verdict_of(status: int) -> Verdict:
    """Return what a C-STORE status means (PS3.4 Table B.2-1, PS3.7 C).

    0x0111 counts as sent: the peer already holds this instance, as after an
    answer that was lost. Out of resources (0xA7xx), cancel (0xFE00) and
    processing failure (0x0110) pass; everything else is the peer's no.
    """
    if is_stored(status) or status == StoreStatus.DUPLICATE_SOP_INSTANCE:
        return Verdict.SENT
    if 0xA700 <= status <= 0xA7FF or status in (0xFE00, 0x0110):
        return Verdict.TRANSIENT
    return Verdict.REFUSED


def send_objects(
    destination: Destination,
    objects: Sequence[OutboundObject],
    calling_ae: str,
    tls: TlsIdentity | None = None,
) -> Iterator[SendResult]:
    """Send objects in order, in one association per 128 presentation contexts.

    Parameters
    ----------
    destination
        Where to.
    objects
        What to send; the bytes are read when their turn comes.
    calling_ae
        How this gateway calls itself.
    tls
        Its TLS identity; without one, destinations that are not ``plain`` get
        nothing.

    Yields
    ------
    SendResult
        One per object, each as soon as it is known: record it before taking
        the next. When the association is lost the rest is ``TRANSIENT``; so is
        everything when TLS fails, and nothing has left.
    """
    for group in batches(objects):
        yield from _send_group(destination, group, calling_ae, tls)


def _send_group(
    destination: Destination,
    group: Sequence[OutboundObject],
    calling_ae: str,
    tls: TlsIdentity | None,
) -> Iterator[SendResult]:
    waiting = list(group)
    try:
        peer = peer_of(destination, tls)
    except ConfigurationError as error:
        yield from _not_sent(waiting, str(error), Verdict.TRANSIENT)
        return
    wait = destination.timeout_seconds
    entity = Requestor(calling_ae, Timeouts(answer=wait, idle=wait))
    contexts = [(item.sop_class_uid, item.transfer_syntax_uid) for item in group]
    try:
        with requested(entity, peer, contexts) as association:
            if not association.is_established:
                yield from _without_association(association, destination, waiting)
                return
            for number in range(len(group)):
                yield _send_one(association, waiting[0], number % _LAST_MESSAGE_ID + 1)
                del waiting[0]
    except AssociationLost as error:
        yield from _not_sent(waiting, str(error), Verdict.TRANSIENT)
    except socket.gaierror:
        why = f"{destination.name}: no address for {destination.host!r}"
        yield from _not_sent(waiting, why, Verdict.TRANSIENT)


def _without_association(
    association: Association,
    destination: Destination,
    waiting: Sequence[OutboundObject],
) -> Iterator[SendResult]:
    """Yield why there is none; a peer that takes none of the classes refuses."""
    if association.rejected_contexts:
        why = f"{destination.ae_title} accepts none of these SOP classes"
        yield from _not_sent(waiting, why, Verdict.REFUSED)
    else:
        why = _why_not(association, destination)
        yield from _not_sent(waiting, why, Verdict.TRANSIENT)


def _not_sent(
    waiting: Sequence[OutboundObject], why: str, verdict: Verdict
) -> Iterator[SendResult]:
    refused = StoreStatus.SOP_CLASS_NOT_SUPPORTED
    status = refused if verdict is Verdict.REFUSED else None
    for item in waiting:
        yield _result(item, status, why, verdict)


def _send_one(
    association: Association, item: OutboundObject, message_id: int
) -> SendResult:
    try:
        status = send_c_store_bytes(association, item, message_id=message_id)
    except NoPresentationContext as error:
        refused = StoreStatus.SOP_CLASS_NOT_SUPPORTED
        return _result(item, refused, str(error), Verdict.REFUSED)
    except (OSError, StoredObjectDamaged) as error:
        if association.is_established:
            association.abort()
        raise AssociationLost(f"{item.sop_instance_uid}: {error}") from error
    verdict = verdict_of(status)
    why = "" if verdict is Verdict.SENT else f"C-STORE status 0x{status:04X}"
    return _result(item, status, why, verdict)


def _result(
    item: OutboundObject, status: int | None, error: str, verdict: Verdict
) -> SendResult:
    return SendResult(
        sop_instance_uid=item.sop_instance_uid,
        status=status,
        error=error,
        verdict=verdict,
    )


def _why_not(association: Association, destination: Destination) -> str:
    place = f"{destination.ae_title} at {destination.host}:{destination.port}"
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "") if answer is not None else ""
        return f"{place} rejected the association{': ' if reason else ''}{reason}"
    failure = tls_failure(association)
    if failure is not None:
        return f"{place}: no TLS connection: {failure}"
    return f"{place} cannot be reached or did not answer"
