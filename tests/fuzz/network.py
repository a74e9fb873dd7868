"""Entry points of the network: PDUs, messages, whole associations."""

from __future__ import annotations

import io
import queue
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AddressInformation

from gateway.dicom.association import GatewayAssociation
from gateway.dicom.connections import PeerLimits
from gateway.dicom.contexts import Purpose
from gateway.dicom.dimse import StreamingDimse
from gateway.dicom.header import read_attributes
from gateway.dicom.pdu_checks import check_data
from gateway.dicom.retrieve_identifier import (
    parse_find,
    parse_retrieve,
    read_identifier,
)
from gateway.dicom.upper_layer import BoundedSocket, RequestNotTaken, receive_request
from gateway.errors import InvalidObject, InvalidPdu, InvalidQuery
from tests.fuzz import seeds
from tests.fuzz.target import Entry, Target

LIMITS: Final = PeerLimits(
    request_seconds=1.0,
    pdu_seconds=1.0,
    max_pdu_bytes=1 << 17,
    requests_per_second=1e9,
    max_command_bytes=1 << 16,
    max_identifier_bytes=1 << 16,
)
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2.1"
MOST_STEPS: Final = 20_000
"""Of the state machine for one input: far more than any input has octets."""


class Kept:
    """A data set that comes in, in memory."""

    def __init__(self) -> None:
        self.data = io.BytesIO()

    def write(self, piece: memoryview) -> None:
        """Take a piece."""
        self.data.write(piece)

    def discard(self) -> None:
        """Forget it."""
        self.data = io.BytesIO()


class Everything:
    """Admits everyone to everything, and reads what is asked as the gateway does."""

    offered = frozenset(Purpose)

    def admit(self, call: Any, _association: Any) -> None:
        """Look at who calls, as admission does."""
        if call.identity is not None:
            call.identity.why_not(secure=False)

    def purposes(self, _call: Any) -> Collection[Purpose]:
        """Allow all."""
        return self.offered

    def leave(self, association: Any) -> None:
        """Let go."""

    def note_declined(self, call: Any, sop_classes: Any) -> None:
        """Audit nothing."""

    def sent_syntaxes(self) -> list[tuple[str, str]]:
        """Have one object to send."""
        return [(seeds.CT, seeds.EXPLICIT)]

    def begin_store(self, *_: object) -> Kept:
        """Take every object."""
        return Kept()

    def serve(self, _association: Any, message: object, _context_id: int) -> None:
        """Read what came whole."""
        if isinstance(message, Kept):
            _read_object(seeds.part10(b"\0" + message.data.getvalue()))
            return
        identifier = getattr(message, "Identifier", None)
        with suppress(InvalidObject, InvalidQuery):
            read = read_identifier(identifier, UID(seeds.IMPLICIT))
            parse_find(read, STUDY_ROOT, relational=False)

    def ended(self, _association: Any) -> None:
        """Let go."""


class _Passage:
    def identified(self) -> None: ...

    def leave(self) -> None: ...


def _read_object(part10: bytes) -> None:
    with suppress(InvalidObject):
        read_attributes(io.BytesIO(part10), seeds.syntax_of(part10[:1]))


@contextmanager
def _connection(sent: bytes) -> Iterator[socket.socket]:
    """A connection whose peer has sent this and closed its half."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        yield ours


def _new_association(ae: AE) -> GatewayAssociation:
    everything: Any = Everything()
    passage: Any = _Passage()
    association = GatewayAssociation(
        ae, everything, everything, limits=LIMITS, passage=passage
    )
    acceptor = association.acceptor
    acceptor.maximum_length = 1 << 17
    acceptor.ae_title = "MIAD-GATEWAY"
    acceptor.address_info = AddressInformation("127.0.0.1", 104)
    acceptor.implementation_class_uid = ae.implementation_class_uid
    acceptor.implementation_version_name = ae.implementation_version_name
    association.requestor.address_info = AddressInformation("127.0.0.1", 40000)
    return association


class Player:
    """An association on one thread: each step of its two reactors in turn."""

    def __init__(self, association: GatewayAssociation) -> None:
        self._association = association

    def play(self) -> None:
        """Go on until nothing comes any more."""
        for _ in range(MOST_STEPS):
            if not (self._provider() or self._user()):
                return
            if self._association._kill and self._association.dul.event_queue.empty():
                return
        raise AssertionError("an association does not come to its end")

    def _provider(self) -> bool:
        """One turn of the upper layer's reactor."""
        provider = self._association.dul
        moved = provider._process_recv_primitive() or provider._is_transport_event()
        try:
            event = provider.event_queue.get(block=False)
        except queue.Empty:
            return moved and provider.state_machine.current_state not in {
                "Sta1",
                "Sta13",
            }
        provider.state_machine.do_action(event)
        return provider.state_machine.current_state != "Sta1"

    def _user(self) -> bool:
        """One turn of the association's reactor."""
        association = self._association
        if association.requestor.primitive is None:
            primitive = association.dul.receive_pdu(wait=False)
            if not isinstance(primitive, A_ASSOCIATE):
                return False
            association.requestor.primitive = primitive
            association.acse.negotiate_association()
            return True
        context_id, message = association.dimse.get_msg(block=False)
        if message is not None and context_id is not None:
            association._serve_request(message, context_id)
            return True
        if association.is_established and association.acse.is_release_requested():
            association.acse.send_release(is_response=True)
            association.is_released, association.is_established = True, False
            return True
        return False


def _association() -> Entry:
    ae = AE("MIAD-GATEWAY")

    def enter(data: bytes) -> None:
        with _connection(data) as ours:
            try:
                first = receive_request(ours, LIMITS.request_seconds)
            except RequestNotTaken:
                return
            association = _new_association(ae)
            bounded = BoundedSocket(association, ours, first, LIMITS)
            association.set_socket(bounded)
            try:
                Player(association).play()
            except Exception as error:
                # What odd proposals raise ends one association: its own reactor
                # does the same (`GatewayAssociation.run_reactor`).
                if (
                    association.requestor.primitive is None
                    or association.is_established
                ):
                    raise
                association.dul.fail(error)
            finally:
                association.dimse.discard_all()

    return enter


def _request() -> Entry:
    def enter(data: bytes) -> None:
        with _connection(data) as ours, suppress(RequestNotTaken):
            receive_request(ours, LIMITS.request_seconds)

    return enter


def _messages() -> Entry:
    """P-DATA into one DIMSE provider after another; the association is made once."""
    association = _new_association(AE("MIAD-GATEWAY"))

    def enter(data: bytes) -> None:
        association.dimse = StreamingDimse(association, association, LIMITS)
        association.dul.event_queue = queue.Queue()
        at = 0
        while at + 6 <= len(data) and association.dul.event_queue.empty():
            length = int.from_bytes(data[at + 2 : at + 6], "big")
            encoded = b"\4\0" + data[at + 2 : at + 6 + length]
            at += 6 + length
            try:
                check_data(encoded)
                primitive = _primitive(encoded) if len(data) % 2 else None
            except InvalidPdu:
                break
            except Exception:  # noqa: BLE001 - the upper layer refuses it whatever it is
                break
            if primitive is None:  # as the association's own thread reads them
                association.dimse.take(memoryview(encoded))
            else:
                association.dimse.receive_primitive(primitive)
            _served(association)
        association.dimse.discard_all()

    return enter


def _primitive(encoded: bytes) -> Any:
    """Decode a PDU as pynetdicom does."""
    pdu = P_DATA_TF()
    pdu.decode(encoded)
    return pdu.to_primitive()


def _served(association: GatewayAssociation) -> None:
    while True:
        context_id, message = association.dimse.get_msg(block=False)
        if message is None or context_id is None:
            return
        association._service.serve(association, message, context_id)


def _identifier() -> Entry:
    def enter(data: bytes) -> None:
        syntax = UID(seeds.syntax_of(data))
        try:
            read = read_identifier(io.BytesIO(data[1:]), syntax)
        except InvalidObject:
            return
        for model in (STUDY_ROOT, "1.2.840.10008.5.1.4.1.2.1.1"):
            for relational in (True, False):
                with suppress(InvalidQuery):
                    parse_find(read, model, relational)
            with suppress(InvalidQuery):
                parse_retrieve(read, model)

    return enter


TARGETS: Final = (
    Target(
        name="request",
        kind="PDU",
        enters="upper_layer.receive_request, pdu_checks",
        build=_request,
        seeds=seeds.requests,
        mutator="pdus",
    ),
    Target(
        name="association",
        kind="PDU",
        enters="BoundedUpperLayer, AdmittingACSE, StreamingDimse; pynetdicom's",
        build=_association,
        seeds=seeds.associations,
        mutator="pdus",
    ),
    Target(
        name="message",
        kind="DIMSE",
        enters="pdu_checks.check_data, StreamingDimse, command sets",
        build=_messages,
        seeds=seeds.messages,
        mutator="pdus",
    ),
    Target(
        name="identifier",
        kind="DIMSE",
        enters="retrieve_identifier: read, parse_find, parse_retrieve",
        build=_identifier,
        seeds=seeds.queries,
        mutator="elements",
    ),
)
