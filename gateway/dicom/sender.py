"""C-STORE of stored objects to a node outside (storage SCU, PS3.4 B).

Data sets leave as they are stored where the node takes that, or written anew
without loss. Each object has its own result, so that one refused object does not
keep the others back.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from pynetdicom.association import Association

from config.schema import Address, Destination
from gateway.dicom.offers import describe_syntax, offers_for
from gateway.dicom.pool import AssociationPool, Held
from gateway.dicom.rawstore import OpenPart10, OutboundObject, store_bytes
from gateway.dicom.requestor import (
    MAX_CONTEXTS,
    Peer,
    Requestor,
    Timeouts,
    open_association,
    peer_of,
    tls_failure,
)
from gateway.dicom.status import StoreStatus, is_stored
from gateway.errors import (
    AssociationLost,
    ConfigurationError,
    StoredObjectDamaged,
    StoreFull,
    TranscodingRefused,
)
from gateway.log import get_logger
from gateway.tls.identity import TlsIdentity

ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3  # PS3.8 Table 9-18

Transcode = Callable[[OutboundObject, str], AbstractContextManager[OpenPart10]]
"""Writes an object anew in another transfer syntax, for as long as the block lasts;
raises TranscodingRefused where that would change it."""

Results = Generator["SendResult", None, None]


class Verdict(Enum):
    """What a result means for an object owed to a destination."""

    SENT = "sent"
    """The peer keeps it."""
    WARNED = "warned"
    """The peer keeps it, with a remark."""
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
        For people; empty when the peer keeps the object without a remark.
    verdict
        What follows.
    address
        ``AE@host:port`` that answered, or was tried last.
    transfer_syntax_uid
        What it was sent in; '' where it was not sent.
    """

    sop_instance_uid: str
    status: int | None
    error: str
    verdict: Verdict
    address: str = ""
    transfer_syntax_uid: str = ""


def verdict_of(status: int) -> Verdict:
    """Return what a C-STORE status means (PS3.4 Table B.2-1, PS3.7 C).

    0x0111 counts as sent: the peer already holds this instance, as after an
    answer that was lost. Out of resources (0xA7xx), cancel (0xFE00) and
    processing failure (0x0110) pass; warnings mean that it is kept; everything
    else is the peer's no.
    """
    if status in (StoreStatus.SUCCESS, StoreStatus.DUPLICATE_SOP_INSTANCE):
        return Verdict.SENT
    if is_stored(status):
        return Verdict.WARNED
    if 0xA700 <= status <= 0xA7FF or status in (0xFE00, 0x0110):
        return Verdict.TRANSIENT
    return Verdict.REFUSED


class Sender:
    """Sends to destinations, over associations that are kept for a while.

    Parameters
    ----------
    tls
        This side's TLS identity; without one, destinations that are not
        ``plain`` get nothing.
    transcode
        Writes objects in other transfer syntaxes; None: they leave as stored.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        tls: TlsIdentity | None = None,
        transcode: Transcode | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tls = tls
        self._transcode = transcode
        self._clock = clock
        self._pool = AssociationPool(clock)
        self._away: dict[tuple[str, str], float] = {}

    def send(
        self,
        destination: Destination,
        objects: Sequence[OutboundObject],
        calling_ae: str,
    ) -> Results:
        """Send objects in order, to the first address that can be reached.

        Parameters
        ----------
        destination
            Where to. An address that cannot be reached, rejects the association
            or is lost in the middle is followed by the next one for what is left.
        objects
            What to send; the bytes are read when their turn comes.
        calling_ae
            How this gateway calls itself.

        Yields
        ------
        SendResult
            One per object, each as soon as it is known: record it before taking
            the next. What no address took is ``TRANSIENT``; so is everything
            when TLS fails, and nothing has left. Close the generator to stop in
            between.
        """
        waiting = list(objects)
        why = last = ""
        for address in self._in_order(destination):
            job = _Job(self, destination, address, calling_ae)
            last = describe_address(address)
            try:
                yield from job.send(waiting)
            except _NotReached as failure:
                why = str(failure)
                self._away[destination.name, last] = self._clock()
                get_logger("sender").info(
                    "address-failed", destination=destination.name, address=last
                )
            if not waiting:
                return
        for item in waiting:
            yield SendResult(
                sop_instance_uid=item.sop_instance_uid,
                status=None,
                error=why,
                verdict=Verdict.TRANSIENT,
                address=last,
            )

    def close(self) -> None:
        """End all associations that are kept."""
        self._pool.close()

    def _in_order(self, destination: Destination) -> list[Address]:
        """Return the addresses, those that failed a moment ago last."""
        since = self._clock() - destination.failover_seconds

        def failed(address: Address) -> bool:
            key = destination.name, describe_address(address)
            return self._away.get(key, since) > since

        return sorted(destination.addresses, key=failed)

    def associate(
        self, job: _Job, peer: Peer, contexts: Sequence[tuple[str, str]]
    ) -> Held:
        """Take an association that is kept, or request one.

        Raises
        ------
        _NotReached
            There is none to be had.
        """
        key = (job.calling_ae, peer)
        held = self._pool.take(key, contexts)
        if held is not None:
            return held
        wait = job.destination.timeout_seconds
        idle = wait + job.destination.association_idle_seconds
        entity = Requestor(job.calling_ae, Timeouts(answer=wait, idle=idle))
        try:
            association = open_association(entity, peer, contexts)
        except socket.gaierror as error:
            entity.close()
            raise _NotReached(
                f"{job.destination.name}: no address for {peer.host!r}"
            ) from error
        held = Held(
            key=key,
            entity=entity,
            association=association,
            proposed=frozenset(contexts),
        )
        if not association.is_established and not association.rejected_contexts:
            entity.close()
            raise _NotReached(_why_not(association, peer))
        return held

    def give_back(self, held: Held, idle_seconds: float) -> None:
        """Keep an association for the next job."""
        self._pool.give_back(held, idle_seconds)

    @property
    def tls(self) -> TlsIdentity | None:
        """What this side is known by."""
        return self._tls

    @property
    def transcode(self) -> Transcode | None:
        """What writes objects anew."""
        return self._transcode


class _NotReached(Exception):
    """An address is away, or was lost; the next one may do."""


@dataclass(frozen=True)
class _Job:
    """Sending to one address of a destination."""

    sender: Sender
    destination: Destination
    address: Address
    calling_ae: str

    def send(self, waiting: list[OutboundObject]) -> Results:
        """Send what waits; what has its result is taken out of the list.

        Raises
        ------
        _NotReached
            The address is away, or the association was lost.
        """
        try:
            peer = peer_of(self.address, self.sender.tls)
        except ConfigurationError as error:
            raise _NotReached(str(error)) from error
        while waiting:
            group = list(self._group(waiting))
            kept = yield from self._send_group(peer, group, waiting)
            if kept is not None:  # closed by the peer while nobody used it
                yield from self._again(peer, group, waiting)

    def _again(
        self, peer: Peer, group: list[OutboundObject], waiting: list[OutboundObject]
    ) -> Results:
        """Send over a new association what a kept one could not carry."""
        lost = yield from self._send_group(peer, group, waiting, fresh=True)
        if lost is not None:
            raise _NotReached(lost)

    def offers(self, item: OutboundObject) -> tuple[str, ...]:
        """Return what an object can be sent in, in the order of choice."""
        return offers_for(
            item.transfer_syntax_uid,
            self.destination,
            transcoding=self.sender.transcode is not None,
        )

    def _contexts(self, item: OutboundObject) -> list[tuple[str, str]]:
        return [(item.sop_class_uid, syntax) for syntax in self.offers(item)]

    def _group(self, waiting: Sequence[OutboundObject]) -> Iterator[OutboundObject]:
        """Yield what one association has contexts for, in order."""
        contexts: set[tuple[str, str]] = set()
        for item in waiting:
            contexts |= set(self._contexts(item))
            if len(contexts) > MAX_CONTEXTS:
                return
            yield item

    def _send_group(
        self,
        peer: Peer,
        group: list[OutboundObject],
        waiting: list[OutboundObject],
        *,
        fresh: bool = False,
    ) -> Generator[SendResult, None, str | None]:
        """Send a group; return why, where a kept association turned out to be lost."""
        needed = dict.fromkeys(c for item in group for c in self._contexts(item))
        if not needed:
            yield from self._refuse_all(group, waiting)
            return None
        held = self._take(peer, list(needed), fresh=fresh)
        sent, kept = 0, held.used
        try:
            for item in group:
                result = self._send_one(held, item)
                del waiting[0]
                sent += 1
                yield result
        except AssociationLost as error:
            if kept and not sent:
                return str(error)
            raise _NotReached(str(error)) from error
        finally:
            self.sender.give_back(held, self.destination.association_idle_seconds)
        return None

    def _take(
        self, peer: Peer, contexts: list[tuple[str, str]], *, fresh: bool
    ) -> Held:
        held = self.sender.associate(self, peer, contexts)
        while fresh and held.used:
            held.end()
            held = self.sender.associate(self, peer, contexts)
        return held

    def _refuse_all(
        self, group: list[OutboundObject], waiting: list[OutboundObject]
    ) -> Results:
        for item in group:
            del waiting[0]
            yield self._refused(item, self._none_offered(item))

    def _send_one(self, held: Held, item: OutboundObject) -> SendResult:
        """Send an object in the first syntax that the peer takes and that is it.

        Raises
        ------
        AssociationLost
            It is not known what became of the object.
        """
        accepted = _accepted(held.association)
        faults: list[str] = []
        for syntax in self.offers(item):
            if (item.sop_class_uid, syntax) not in accepted:
                continue
            try:
                return self._send_as(held, item, syntax)
            except TranscodingRefused as error:
                faults.append(f"{describe_syntax(syntax)}: {error}")
            except (OSError, StoredObjectDamaged, StoreFull) as error:
                if held.association.is_established:
                    held.association.abort()
                raise AssociationLost(f"{item.sop_instance_uid}: {error}") from error
        if faults:
            return self._refused(item, "; ".join(faults))
        return self._refused(item, self._why_refused(held.association, item))

    def _send_as(self, held: Held, item: OutboundObject, syntax: str) -> SendResult:
        number = held.next_message_id()
        if syntax == item.transfer_syntax_uid:
            answer = store_bytes(held.association, item, message_id=number)
        else:
            assert self.sender.transcode is not None
            with self.sender.transcode(item, syntax) as data:
                written = replace(item, transfer_syntax_uid=syntax, data=data)
                answer = store_bytes(held.association, written, message_id=number)
        verdict = verdict_of(answer.status)
        error = (
            "" if verdict is Verdict.SENT else f"C-STORE status 0x{answer.status:04X}"
        )
        if error and answer.comment:
            error = f"{error}: {answer.comment}"
        return SendResult(
            sop_instance_uid=item.sop_instance_uid,
            status=answer.status,
            error=error,
            verdict=verdict,
            address=describe_address(self.address),
            transfer_syntax_uid=syntax,
        )

    def _refused(self, item: OutboundObject, why: str) -> SendResult:
        return SendResult(
            sop_instance_uid=item.sop_instance_uid,
            status=StoreStatus.SOP_CLASS_NOT_SUPPORTED,
            error=why,
            verdict=Verdict.REFUSED,
            address=describe_address(self.address),
        )

    def _none_offered(self, item: OutboundObject) -> str:
        own = describe_syntax(item.transfer_syntax_uid)
        return (
            f"transfer_syntaxes of {self.destination.name} leave none that an object in"
            f" {own} can be sent in without loss"
        )

    def _why_refused(self, association: Association, item: OutboundObject) -> str:
        offers = self.offers(item)
        if not offers:
            return self._none_offered(item)
        title = self.address.ae_title
        unknown = any(
            context.abstract_syntax == item.sop_class_uid
            and context.result == ABSTRACT_SYNTAX_NOT_SUPPORTED
            for context in association.rejected_contexts
        )
        if unknown:
            return f"{title} does not take SOP class {item.sop_class_uid}"
        names = ", ".join(map(describe_syntax, offers))
        return (
            f"{title} takes SOP class {item.sop_class_uid} in none of the transfer"
            f" syntaxes offered ({names})"
        )


def describe_address(address: Address) -> str:
    """Return an address as it is recorded and shown."""
    return f"{address.ae_title}@{address.host}:{address.port}"


def _accepted(association: Association) -> set[tuple[str, str]]:
    return {
        (str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in association.accepted_contexts
        if context.as_scu
    }


def _why_not(association: Association, peer: Peer) -> str:
    place = f"{peer.ae_title} at {peer.host}:{peer.port}"
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "") if answer is not None else ""
        return f"{place} rejected the association{': ' if reason else ''}{reason}"
    failure = tls_failure(association)
    if failure is not None:
        return f"{place}: no TLS connection: {failure}"
    return f"{place} cannot be reached or did not answer"
