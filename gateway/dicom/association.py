"""An acceptor's association: admission, streamed C-STORE, own services.

pynetdicom 3.0.4 keeps a received data set whole in memory, builds responses
through data sets, re-encodes what C-MOVE sends and cannot answer C-MOVE with
0x0124. Its upper layer (PS3.8) is used as it is; the service side of the
associations that this product accepts is the few classes below.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Protocol

import structlog
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, DIMSEPrimitive
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext
from typing_extensions import override

from gateway.access.caller import Caller
from gateway.dicom.admission import Admission, Call
from gateway.dicom.connections import Passage, PeerLimits, TokenBucket
from gateway.dicom.contexts import (
    HIERARCHICAL_MODELS,
    Purpose,
    Roles,
    contexts_for,
    contexts_in_roles,
)
from gateway.dicom.dimse import LAST_COMMAND, Incoming, StreamingDimse
from gateway.dicom.negotiation import (
    ACCEPTED,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    negotiate,
)
from gateway.dicom.upper_layer import BoundedSocket, BoundedUpperLayer
from gateway.dicom.user_identity import identity_in
from gateway.errors import AssociationLost
from gateway.tls.certificates import PeerCertificate

LOG = structlog.get_logger(component="association")

LOOK_SECONDS = 0.25
"""How long a stop of this side may go unnoticed by a thread that waits for data."""
POLL_SECONDS = 0.001
ABORT_SECONDS = 1.0
APPLICATION_CONTEXT = UID("1.2.840.10008.3.1.1.1")
"""DICOM (PS3.7 A.2.1)."""
RELATIONAL = b"\x01"
NOT_SUPPORTED = b"\x00"


class Service(Protocol):
    """What is offered on the associations of one AE title."""

    def sent_syntaxes(self) -> list[tuple[str, str]]:
        """Return SOP class and transfer syntax of what may be sent to a requestor.

        The most frequent come first.
        """

    def begin_store(
        self,
        association: GatewayAssociation,
        context_id: int,
        request: dict[int, bytes],
    ) -> Incoming | None:
        """Start to take a C-STORE request in; None where none is accepted."""

    def serve(
        self, association: GatewayAssociation, message: object, context_id: int
    ) -> None:
        """Answer a complete request; called in the association's thread."""

    def ended(self, association: GatewayAssociation) -> None:
        """Let go of an association that is over, however it ended."""


class GatewayAssociation(Association):
    """An association that was requested of this side.

    Parameters
    ----------
    ae
        Its application entity.
    admission
        Decides whether it is accepted.
    service
        Answers its requests.
    limits
        What the peer may take.
    passage
        Of its connection, which is left when the association is over.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        admission: Admission,
        service: Service,
        *,
        limits: PeerLimits,
        passage: Passage,
    ) -> None:
        super().__init__(ae, "acceptor")
        self.certificate: PeerCertificate | None = None
        """The one the peer has shown; None without TLS."""
        self.admitted: Caller | None = None
        """Who was admitted; None before."""
        self._call: Call | None = None
        self._admission = admission
        self._service = service
        self._passage = passage
        rate = limits.requests_per_second
        self._pace = TokenBucket(rate, rate, time.monotonic())
        self.dul: BoundedUpperLayer = BoundedUpperLayer(self)
        self.acse = AdmittingACSE(self, admission, service)
        self.dimse: StreamingDimse = StreamingDimse(self, self, limits)
        self.bind(evt.EVT_CONN_CLOSE, _stop_waiting)
        self.bind(evt.EVT_SOP_EXTENDED, _agree)

    @property
    def call(self) -> Call:
        """Who called whom, from where."""
        if self._call is not None:
            return self._call
        request = self.requestor.primitive
        assert request is not None
        self._call = Call(
            calling_ae=(request.calling_ae_title or "").strip(),
            called_ae=(request.called_ae_title or "").strip(),
            peer_address=self.requestor.address,
            certificate=self.certificate,
            identity=identity_in(self.requestor.user_identity),
        )
        return self._call

    def context(self, context_id: int) -> PresentationContext | None:
        """Return the presentation context accepted under a number."""
        return self._accepted_cx.get(context_id)

    def begin_store(
        self, context_id: int, request: dict[int, bytes]
    ) -> Incoming | None:
        """Start to take a C-STORE request in; None where none is accepted."""
        return self._service.begin_store(self, context_id, request)

    def refuse(self, reason: str) -> None:
        """End because of what the peer sent."""
        self.dul.refuse(reason)

    @property
    def caller(self) -> Caller:
        """Who asks, for every decision; there is one once it was admitted."""
        assert self.admitted is not None
        return self.admitted

    def is_over(self) -> bool:
        """Whether the peer is gone, though this thread may not have seen it yet."""
        return bool(self.acse.is_aborted()) or not self.is_established

    @override
    def _bind_defaults(self) -> None:
        """Bind no logging handlers: they format every PDU, read or not."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    @override
    def run_reactor(self) -> None:
        """Run until the association is over, then let go of what it held."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - pynetdicom, on odd proposals
            self.dul.fail(error)
        finally:
            self.dimse.discard_all()
            self._admission.leave(self)
            self._passage.leave()
            self._service.ended(self)

    def let_in(self) -> None:
        """Say that admission knows whose it is."""
        self._passage.identified()

    def serve_waiting(self, message: object, context_id: int) -> None:
        """Answer a request that came while an answer of the peer was waited for."""
        self._serve_request(message, context_id)

    @override
    def _run_reactor(self) -> None:
        """Serve until the association is over.

        Objects are taken in and answered by this thread alone. For everything else
        the upper layer's thread reads too: it hears a C-CANCEL, and the answers to
        C-STORE sub-operations, while a request is served here.
        """
        while not self._kill:
            waiting = self.dimse.take_waiting() or self._take_objects()
            if waiting is not None:
                self._serve_request(waiting[1], waiting[0])
            else:
                time.sleep(POLL_SECONDS)
            self._look_for_the_end()
        if self._sent_abort:  # it is to go out before the connection is closed
            self.dul.join(ABORT_SECONDS)

    def _take_objects(self) -> tuple[int, object] | None:
        """Take objects in and answer while nothing but data comes.

        Returns
        -------
        tuple or None
            A request of another kind, with its presentation context; None where
            the state machine has to go on.
        """
        connection = self.dul.borrow()
        if connection is None:
            return None
        try:
            while True:
                while (waiting := self.dimse.take_waiting()) is not None:
                    if isinstance(waiting[1], DIMSEPrimitive):
                        return waiting
                    self._serve_request(waiting[1], waiting[0])
                if not self._has_more(connection):
                    return None
                pdu = self.dul.take_in(connection)
                if pdu is None:
                    return None
                self.dimse.take(pdu)
        finally:
            self.dul.give_back()

    def _has_more(self, connection: BoundedSocket) -> bool:
        """Wait for data; False where something else is due."""
        while not (self._kill or self.dul.is_disturbed()):
            if connection.reader.wait(LOOK_SECONDS):
                return True
            if self.dul.idle_timer_expired():
                return False
        return False

    def _look_for_the_end(self) -> None:
        """Release (PS3.8 7.2), or notice that it was aborted or fell silent.

        What was asked before the release is answered before it: where a release is
        seen, all that came before it waits already.
        """
        is_next = isinstance(self.dul.peek_next_pdu(), A_RELEASE)
        if (
            self.is_established
            and is_next
            and self.dimse.msg_queue.empty()
            and self.acse.is_release_requested()
        ):
            # Before the answer: who was told may come again at once.
            self._admission.leave(self)
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            evt.trigger(self, evt.EVT_RELEASED, {})
            self.kill()
        elif self.acse.is_aborted():
            self.dul.receive_pdu(wait=False)
            self.is_aborted = True
            self.is_established = False
            evt.trigger(self, evt.EVT_ABORTED, {})
            self.kill()
        elif not self.dul.is_alive():
            self.kill()
        elif self.dul.idle_timer_expired():
            self.dul.tell("nothing came in the network timeout")
            self.abort()

    @override
    def kill(self) -> None:
        """End; the upper layer's thread, which has to end first, gets its turn."""
        if threading.current_thread() is self:
            self.dul.give_back()
        super().kill()

    def answer(self, context_id: int, command_set: bytes) -> None:
        """Send a response without a data set."""
        self.dul.send_data(context_id, LAST_COMMAND + command_set)

    @override
    def _serve_request(self, msg: object, context_id: int) -> None:
        """Answer one request; a fault in the answer ends this association only."""
        if threading.current_thread() is not self:
            # pynetdicom has a thread for each N-EVENT-REPORT: one after the other.
            self.dimse.msg_queue.put((context_id, msg))  # type: ignore[arg-type]
            return
        wait = self._pace.wait_seconds(time.monotonic())
        if wait > 0:  # a sleep of nothing would give the interpreter away
            time.sleep(wait)
        if isinstance(msg, C_ECHO):
            super()._serve_request(msg, context_id)
            return
        self.dimse.cancel_req = {}
        try:
            self._service.serve(self, msg, context_id)
        except AssociationLost as lost:
            LOG.info("request abandoned", reason=str(lost), **vars(self.call))
            self.abort()
        except Exception:
            LOG.exception("request failed")
            self.abort()
        # A long C-MOVE hears nothing from its peer meanwhile: that is not idle.
        self.dul._idle_timer.restart()


def _stop_waiting(event: evt.Event) -> None:
    """End the wait for an A-ASSOCIATE-RQ on a connection that has closed."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _agree(event: evt.Event) -> dict[str, bytes]:
    """Answer extended negotiation of query/retrieve (PS3.4 C.5.1.1 to C.5.3.1).

    Relational queries and retrieval are agreed to where they are proposed;
    every other field (combined date-time matching, fuzzy semantic matching of
    names, timezone adjustment, conversion to enhanced multi-frame) is answered
    with 0: not supported.
    """
    usable = {c.abstract_syntax for c in event.assoc.acceptor.supported_contexts}
    return {
        uid: (RELATIONAL if proposed[:1] == RELATIONAL else NOT_SUPPORTED)
        + NOT_SUPPORTED * (len(proposed) - 1)
        for uid, proposed in event.assoc.requestor.sop_class_extended.items()
        if uid in HIERARCHICAL_MODELS & usable and proposed
    }


class AdmittingACSE(ACSE):
    """Asks admission before it negotiates anything."""

    def __init__(
        self, association: GatewayAssociation, admission: Admission, service: Service
    ) -> None:
        super().__init__(association)
        self._admission = admission
        self._service = service
        self._association = association
        self._roles: dict[str, Roles] = {}
        self._supported: list[PresentationContext] = []

    @override
    def negotiate_association(self) -> None:
        """Reject or negotiate (PS3.8 7.1)."""
        call = self._association.call
        rejection = self._admission.admit(call, self._association)
        if rejection is None:
            self._association.let_in()
            self._offer(call)
            super().negotiate_association()
            self._note_declined(call)
            return
        self.send_reject(*rejection)
        evt.trigger(self.assoc, evt.EVT_REJECTED, {})
        self.assoc.kill()

    @override
    def _check_user_identity(self) -> tuple[bool, UserIdentityNegotiation | None]:
        """Answer the user identity that admission has let pass."""
        identity = self._association.call.identity
        return True, identity.response() if identity is not None else None

    @override
    def send_accept(self) -> None:
        """Answer the presentation contexts, and accept (PS3.8 9.3.3)."""
        association = self._association
        answer = negotiate(association.dul.proposed, self._supported, self._roles)
        for role in answer.roles:
            self.acceptor.add_negotiation_item(role)
        association._accepted_cx = {
            c.context_id or 0: c for c in answer.contexts if c.result == ACCEPTED
        }
        association._rejected_cx = [c for c in answer.contexts if c.result != ACCEPTED]
        association.dul.answered = answer.contexts
        association.dul.send_pdu(self._acceptance())

    def _acceptance(self) -> A_ASSOCIATE:
        """Return what accepts, but for the contexts (PS3.8 7.1.1)."""
        request = self.requestor.primitive
        assert request is not None
        primitive = A_ASSOCIATE()
        primitive.application_context_name = APPLICATION_CONTEXT
        primitive.calling_ae_title = request.calling_ae_title
        primitive.called_ae_title = request.called_ae_title
        primitive.result = 0
        primitive.result_source = 1
        primitive.user_information = self.acceptor.user_information
        self.acceptor.primitive = primitive
        return primitive

    def _offer(self, call: Call) -> None:
        """Support what the node that calls may use, in the roles it proposed."""
        self._roles = {
            str(uid): Roles(scu=bool(role.scu_role), scp=bool(role.scp_role))
            for uid, role in self.requestor.role_selection.items()
        }
        purposes = self._admission.purposes(call)
        sent = []
        if Purpose.RETRIEVE in purposes and any(
            role.scp for role in self._roles.values()
        ):
            sent = self._service.sent_syntaxes()
        usable = contexts_for(purposes)
        self._supported = contexts_in_roles(usable, self._roles, sent)
        self.acceptor.supported_contexts = self._supported

    def _note_declined(self, call: Call) -> None:
        """Audit what was proposed and is here, but not for this node."""
        declined = {
            str(context.abstract_syntax)
            for context in self._association.rejected_contexts
            if context.result != TRANSFER_SYNTAXES_NOT_SUPPORTED
        }
        if declined:
            offered = contexts_for(self._admission.offered)
            declined &= {str(context.abstract_syntax) for context in offered}
        if declined:
            self._admission.note_declined(call, sorted(declined))


def set_no_delay(connection: socket.socket) -> None:
    """Send small PDUs at once: waiting to fill segments costs 40 ms an image."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
