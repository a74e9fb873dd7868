"""Reading PDUs (PS3.8 9.3) within limits of size and time.

pynetdicom 3.0.4 takes the length that a PDU claims, waits for each piece of it
anew, so that one octet a minute keeps a connection for ever, and lets an
exception in its state machine end a thread with a traceback. Here a PDU has a
longest size and a time from its first to its last octet, and whatever is wrong
with it ends the association by the abort of PS3.8 with one line in the log.
"""

from __future__ import annotations

import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE, StateMachine
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import P_DATA
from typing_extensions import override

from gateway.dicom.connections import PeerLimits
from gateway.dicom.negotiation import Proposed, split_request, with_answers
from gateway.dicom.pdu_checks import (
    ASSOCIATE_RQ,
    HEADER_BYTES,
    P_DATA_TF,
    bad_ae_titles,
    check_data,
    check_request,
)
from gateway.dicom.pdu_reader import PduReader
from gateway.dicom.status import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    Rejection,
)
from gateway.dicom.transport import GatewaySocket
from gateway.errors import InvalidPdu

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

LOG = structlog.get_logger(component="upper-layer")

LARGEST_REQUEST_BYTES: Final = 1 << 20  # A-ASSOCIATE-RQ is not bound by the maximum
RECEIVE_BYTES: Final = 1 << 18
DRAINED_BYTES: Final = 1 << 20
CLOSED: Final = "Evt17"  # transport connection closed
INVALID: Final = "Evt19"  # unrecognised or invalid PDU
OUT_OF_TURN: Final = "AA-8"
DATA_TRANSFER: Final = "Sta6"
ENDING: Final = "Sta13"  # waits for the transport connection to be closed
LOOK_SECONDS: Final = 0.05
P_DATA_HEAD: Final = struct.Struct(">BxLLB")  # of a PDU with one item
ABORT: Final = b"\x07\0\0\0\0\4\0\0\2\0"  # A-ABORT of the provider (PS3.8 9.3.8)


class RequestNotTaken(Exception):
    """No association request came.

    Attributes
    ----------
    answer
        What the peer is sent: a PDU, or nothing where it has gone.
    """

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


def receive_request(
    connection: socket.socket,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Read the first PDU of a connection, which must be an association request.

    Until it is there a connection has one thread, which sleeps.

    Parameters
    ----------
    connection
        Connected; its timeout is changed.
    seconds
        From now to the last octet.
    clock
        Seconds that never go back.

    Raises
    ------
    RequestNotTaken
        It is no such request, it is too large, too slow, or the peer has gone.
    """
    deadline = clock() + seconds
    try:
        header = _receive(connection, HEADER_BYTES, deadline, clock)
        length = _request_length(header)
        body = bytes(_receive(connection, length, deadline, clock))
        check_request(body)
    except InvalidPdu as error:
        raise RequestNotTaken(str(error), ABORT) from error
    except TimeoutError as error:
        raise RequestNotTaken("no association request in time", ABORT) from error
    except (OSError, ValueError) as error:  # also one closed by another thread
        raise RequestNotTaken("the connection was closed") from error
    called, calling = bad_ae_titles(body)
    if called or calling:
        rejection = CALLED_AE_NOT_RECOGNISED if called else CALLING_AE_NOT_RECOGNISED
        raise RequestNotTaken("an AE title that is none", _rejected(rejection))
    return bytes(header) + body


def _request_length(header: bytearray) -> int:
    kind, _, length = struct.unpack(">BBL", header)
    if kind != ASSOCIATE_RQ:
        raise InvalidPdu("the first PDU is no association request")
    if length > LARGEST_REQUEST_BYTES:
        raise InvalidPdu(f"an association request above {LARGEST_REQUEST_BYTES} octets")
    return int(length)


def _rejected(rejection: Rejection) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return b"\x03\0\0\0\0\4\0" + bytes(rejection)


def _receive(
    connection: socket.socket, size: int, deadline: float, clock: Callable[[], float]
) -> bytearray:
    """Read exactly that many octets.

    Raises
    ------
    TimeoutError
        They did not come in time.
    OSError
        The peer closed before the last one.
    """
    received = bytearray()
    while len(received) < size:
        left = deadline - clock()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(min(size - len(received), RECEIVE_BYTES))
        if not piece:
            raise ConnectionResetError("the peer closed the connection")
        received += piece
    return received


class BoundedSocket(GatewaySocket):
    """A connection of which the first PDU has been read already.

    Parameters
    ----------
    association
        It belongs to.
    connection
        Accepted.
    first
        The PDU that was read.
    limits
        What the peer may take.
    """

    def __init__(
        self,
        association: Association,
        connection: socket.socket,
        first: bytes,
        limits: PeerLimits,
    ) -> None:
        super().__init__(association, client_socket=connection)
        self._first = first
        self._limits = limits
        self.reader = PduReader(connection, limits)

    @property
    @override
    def ready(self) -> bool:
        """Whether there is something to read, or the end of it."""
        return bool(self._first) or (self.socket is not None and self.reader.wait(0))

    def receive_pdu(self) -> bytes:
        """Read one whole PDU.

        Raises
        ------
        InvalidPdu
            It is none, above what was announced, or slower than is allowed.
        OSError
            The connection ended.
        """
        if self._first:
            first, self._first = self._first, b""
            return first
        return bytes(self.reader.next())

    @override
    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a peer that takes it too slowly has closed."""
        deadline = time.monotonic() + self._limits.seconds_for(len(bytestream))
        view = memoryview(bytestream)
        try:
            while view and self.socket is not None:
                view = view[self._send_some(self.socket, view, deadline) :]
        except (OSError, ValueError):
            self.event_queue.put(CLOSED)

    @staticmethod
    def _send_some(connection: socket.socket, view: memoryview, deadline: float) -> int:
        """Send what the connection takes; wait while it takes nothing."""
        try:
            return connection.send(view)
        except ssl.SSLWantReadError:
            wanted = select.POLLIN
        except (BlockingIOError, ssl.SSLWantWriteError):
            wanted = select.POLLOUT
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        poll = select.poll()
        poll.register(connection, wanted)
        poll.poll(left * 1000)
        return 0

    def drain(self) -> None:
        """Read what the peer has sent meanwhile, so that it sees the last answer.

        Closing with octets unread resets the connection (RFC 1122 4.2.2.13).
        """
        connection = self.socket
        if connection is None:
            return
        with suppress(OSError, ValueError):
            connection.settimeout(0.0)
            left = DRAINED_BYTES
            while left > 0 and (piece := connection.recv(RECEIVE_BYTES)):
                left -= len(piece)


class BoundedUpperLayer(DULServiceProvider):
    """The upper layer of one association, over a `BoundedSocket`.

    Its thread runs the state machine of PS3.8 9.2. While data is transferred and
    nothing else (Sta6), it can lend the connection to the association's thread,
    which then reads P-DATA-TF PDUs without the state machine: DT-2 leads from Sta6
    to Sta6. Any other PDU it hands over and gives the connection back.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.proposed: list[Proposed] = []
        """The presentation contexts of the request."""
        self.answered: list[PresentationContext] = []
        """What is sent with its acceptance."""
        self.state_machine = _Machine(self)
        self._turns = threading.Condition()
        self._wanted = False
        self._lent = False

    def borrow(self) -> BoundedSocket | None:
        """Have the connection; None where more than data is under way.

        Called by the association's thread, which must `give_back`.
        """
        with self._turns:
            self._wanted = True
            while not self._lent:
                if not self._may_lend():
                    self._wanted = False
                    return None
                self._turns.wait(LOOK_SECONDS)
        return self.socket if isinstance(self.socket, BoundedSocket) else None

    def give_back(self) -> None:
        """Let the state machine have the connection."""
        with self._turns:
            self._wanted = self._lent = False
            self._turns.notify_all()

    def take_in(self, connection: BoundedSocket) -> memoryview | None:
        """Read a PDU of a borrowed connection.

        Returns
        -------
        memoryview or None
            A P-DATA-TF with its header, lengths checked, valid until the next is
            read. None: it was something else, which the state machine has now.
        """
        self._idle_timer.restart()
        try:
            pdu = connection.reader.next()
            if pdu[0] == P_DATA_TF:
                check_data(pdu)
                return pdu
        except OSError:
            self.event_queue.put(CLOSED)
        except InvalidPdu as error:
            self.refuse(str(error))
        else:
            self._note_pdu(bytes(pdu))
        return None

    def is_disturbed(self) -> bool:
        """Whether the state machine has something to do."""
        return (
            not self.event_queue.empty()
            or not self.to_provider_queue.empty()
            or self._kill_thread
        )

    def send_data(self, context_id: int, fragment: bytes) -> None:
        """Send one PDV (PS3.8 9.3.5.1): at once while the connection is lent."""
        if self._lent and self.socket is not None:
            size = len(fragment)
            head = P_DATA_HEAD.pack(P_DATA_TF, size + 5, size + 1, context_id)
            self.socket.send(head + fragment)
            return
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, fragment))
        self.send_pdu(primitive)

    @override
    def _send(self, pdu: Any) -> None:
        """Send a PDU; the contexts were negotiated here."""
        if isinstance(pdu, A_ASSOCIATE_AC) and self.socket is not None:
            self.socket.send(with_answers(pdu.encode(), self.answered))
        else:
            super()._send(pdu)

    def _may_lend(self) -> bool:
        transfers = self.state_machine.current_state == DATA_TRANSFER
        return transfers and self.is_alive() and not self._kill_thread

    def _lend(self) -> None:
        """Wait until the connection is given back."""
        with self._turns:
            self._lent = self._wanted
            self._turns.notify_all()
            while self._lent:
                self._turns.wait()

    def refuse(self, reason: str) -> None:
        """End the association because of what the peer sent (PS3.8 9.2, AA-8)."""
        self.tell(reason)
        self.event_queue.put(INVALID)

    def tell(self, reason: str) -> None:
        """Log why the association is aborted."""
        address = self.assoc.requestor.address
        LOG.warning("association aborted", reason=reason, peer_address=address)

    def fail(self, error: Exception) -> None:
        """End the association at once: its state is not known any more."""
        self.tell(f"what it sent cannot be read: {type(error).__name__}")
        if self.socket is not None:
            with suppress(Exception):
                self.socket.send(ABORT)
            self.socket.close()
        self.assoc.is_aborted = True
        self.assoc.is_established = False
        self.assoc._kill = True
        self._kill_thread = True
        # It may wait for a request, or for an answer.
        self.to_user_queue.put(None)

    @override
    def _process_recv_primitive(self) -> bool:
        """Send what is to be sent, unless the association is over."""
        if self.state_machine.current_state != ENDING:
            return super()._process_recv_primitive()
        with suppress(queue.Empty):
            while True:
                self.to_provider_queue.get_nowait()
        return False

    @override
    def _is_transport_event(self) -> bool:
        """Read a PDU if there is one; read none of an association that is over."""
        connection = self.socket
        if self._wanted and self._may_lend() and self.event_queue.empty():
            self._lend()
            return False
        if self.state_machine.current_state == ENDING:
            if isinstance(connection, BoundedSocket):
                connection.drain()
                connection.close()
            return True
        if connection is not None and connection.ready:
            self._read_pdu_data()
            return True
        return False

    @override
    def _read_pdu_data(self) -> None:
        connection = self.socket
        assert isinstance(connection, BoundedSocket)
        try:
            encoded = connection.receive_pdu()
            if encoded[0] == P_DATA_TF:
                check_data(encoded)
        except OSError:
            self.event_queue.put(CLOSED)
        except InvalidPdu as error:
            self.refuse(str(error))
        else:
            self._note_pdu(encoded)

    def _note_pdu(self, encoded: bytes) -> None:
        """Give a PDU to the state machine."""
        try:
            if encoded[0] == ASSOCIATE_RQ:
                encoded, self.proposed = split_request(encoded)
            pdu, event = self._decode_pdu(encoded)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - pynetdicom raises anything
            self.refuse(f"a PDU cannot be decoded: {type(error).__name__}")
        else:
            self.event_queue.put(event)
            self._recv_pdu.put(pdu)


class _Machine(StateMachine):
    """The state machine of PS3.8 9.2; what it raises ends one association."""

    @override
    def do_action(self, event: str) -> None:
        dul = self.dul
        assert isinstance(dul, BoundedUpperLayer)
        try:
            name = TRANSITION_TABLE[event, self.current_state]
            if name == OUT_OF_TURN and event != INVALID:
                dul.tell("a PDU out of turn")
            self.transition(ACTIONS[name][1](dul))
        except Exception as error:  # noqa: BLE001 - an odd PDU, or an event out of turn
            dul.fail(error)
