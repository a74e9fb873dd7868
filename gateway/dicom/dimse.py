"""Messages (PS3.7) taken apart as their PDUs come, within limits."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from typing_extensions import override

from gateway.dicom import command
from gateway.dicom.contexts import STORAGE_COMMITMENT
from gateway.dicom.pdu_checks import values_of
from gateway.errors import InvalidObject, InvalidPdu

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

    from gateway.dicom.admission import Call
    from gateway.dicom.connections import PeerLimits

LOG = structlog.get_logger(component="dimse")

COMMAND_FRAGMENT: Final = 0x01  # PS3.8 E.2, message control header
LAST_FRAGMENT: Final = 0x02
LAST_COMMAND: Final = b"\x03"
LAST_DATA: Final = b"\x02"
UNREADABLE: Final = b"\0"  # no data set is one octet long
MOST_WAITING: Final = 16
"""Requests without their answers; none but one was agreed to."""

Octets = bytes | memoryview


class Incoming(Protocol):
    """A C-STORE request on its way in."""

    def write(self, piece: memoryview) -> None:
        """Take a piece of the data set; never raises."""

    def discard(self) -> None:
        """Forget it: the association ended before its last piece."""


class Owner(Protocol):
    """The association that messages come on."""

    @property
    def call(self) -> Call:
        """Who called whom, from where."""

    def context(self, context_id: int) -> PresentationContext | None:
        """Return the presentation context accepted under a number."""

    def begin_store(
        self, context_id: int, request: dict[int, bytes]
    ) -> Incoming | None:
        """Start to take a C-STORE request in; None where none is accepted."""

    def refuse(self, reason: str) -> None:
        """End because of what the peer sent."""


class StreamingDimse(DIMSEServiceProvider):
    """Takes messages apart, within limits, in the reader's thread.

    C-STORE data sets are handed on piece by piece; commands and the identifiers
    of queries are gathered up to their limits, and pynetdicom decodes them.

    Parameters
    ----------
    association
        Whose messages they are.
    owner
        What that association does with them.
    limits
        What the peer may take.
    """

    def __init__(
        self, association: Association, owner: Owner, limits: PeerLimits
    ) -> None:
        super().__init__(association)
        self._owner = owner
        self._limits = limits
        self._context_id: int | None = None  # of the message that is coming in
        self._command = bytearray()
        self._incoming: Incoming | None = None
        self._identifier: bytearray | None = None

    @override
    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the PDVs of one PDU (PS3.8 9.3.5.1)."""
        self._take_all(primitive.presentation_data_value_list)

    def take(self, pdu: memoryview) -> None:
        """Take the PDVs of one encoded P-DATA-TF."""
        self._take_all(values_of(pdu))

    def take_waiting(self) -> tuple[int, object] | None:
        """Return a request that came whole, with its presentation context."""
        if self.msg_queue.empty():  # as it is after most PDUs: an exception costs more
            return None
        try:
            context_id, message = self.msg_queue.get_nowait()
        except queue.Empty:
            return None
        return (context_id, message) if context_id is not None else None

    def _take_all(self, values: Iterable[tuple[int, bytes | memoryview]]) -> None:
        try:
            for context_id, value in values:
                self._take(context_id, value)
        except InvalidPdu as error:
            self.discard()
            self._owner.refuse(str(error))

    def discard(self) -> None:
        """Forget a data set of which the rest will not come."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def discard_all(self) -> None:
        """Forget that, and what came whole and will not be answered any more."""
        self.discard()
        with suppress(queue.Empty):
            while True:
                waiting: object = self.msg_queue.get_nowait()[1]
                discard = getattr(waiting, "discard", None)
                if discard is not None:
                    discard()

    def _take(self, context_id: int, value: Octets) -> None:
        if self._context_id not in {None, context_id}:
            raise InvalidPdu("a message comes in two presentation contexts")
        self._context_id = context_id
        is_command = bool(value[0] & COMMAND_FRAGMENT)
        has_command = self._incoming is not None or self._identifier is not None
        if is_command == has_command:
            raise InvalidPdu("a message is not a command and then its data set")
        if is_command:
            self._take_command(context_id, value)
        elif self._incoming is not None:
            self._take_data(self._incoming, context_id, value)
        else:
            self._take_identifier(context_id, value)

    def _take_data(self, incoming: Incoming, context_id: int, value: Octets) -> None:
        incoming.write(memoryview(value)[1:])
        if value[0] & LAST_FRAGMENT:
            self._incoming = None
            self._context_id = None
            self._check_waiting(incoming)
            self.msg_queue.put((context_id, incoming))  # type: ignore[arg-type]

    def _take_identifier(self, context_id: int, value: Octets) -> None:
        """Gather an identifier; one above the limit becomes an unreadable one.

        Then it is answered with the status for that, and the association lives.
        """
        assert self._identifier is not None
        limit = self._limits.max_identifier_bytes
        if len(self._identifier) <= limit:
            self._identifier += value[1:]
        if not value[0] & LAST_FRAGMENT:
            return
        identifier, self._identifier = bytes(self._identifier), None
        if len(identifier) > limit:
            LOG.warning(
                "identifier too large", limit_bytes=limit, **vars(self._owner.call)
            )
            identifier = UNREADABLE
        self._pass_on(context_id, LAST_DATA + identifier)

    def _take_command(self, context_id: int, value: Octets) -> None:
        self._command += value[1:]
        if len(self._command) > self._limits.max_command_bytes:
            raise InvalidPdu(
                f"a command set above {self._limits.max_command_bytes} octets"
            )
        if not value[0] & LAST_FRAGMENT:
            return
        encoded, self._command = bytes(self._command), bytearray()
        elements = _decode(encoded)
        field = _number(elements, command.COMMAND_FIELD)
        if field not in command.SERVED or (
            field in command.COMMITMENT and not self._commits(context_id)
        ):
            raise InvalidPdu(f"command 0x{field:04X} is not served")
        kind = _number(elements, command.COMMAND_DATA_SET_TYPE)
        has_data_set = kind != command.NO_DATA_SET
        if has_data_set and field == command.C_STORE_RQ:
            self._incoming = self._owner.begin_store(context_id, elements)
        if self._incoming is None:
            if has_data_set:
                self._identifier = bytearray()
            self._pass_on(context_id, LAST_COMMAND + encoded, more=has_data_set)

    def _commits(self, context_id: int) -> bool:
        """Whether a context is one of storage commitment."""
        context = self._owner.context(context_id)
        return context is not None and context.abstract_syntax == STORAGE_COMMITMENT

    def _pass_on(self, context_id: int, value: bytes, *, more: bool = False) -> None:
        """Let pynetdicom decode; ``more``: the data set is still to come."""
        self._check_waiting(None)
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, value))
        if not more:
            self._context_id = None
        try:
            super().receive_primitive(primitive)
        except Exception as error:
            # pynetdicom raises anything on what it does not expect.
            raise InvalidPdu(
                f"a message cannot be decoded: {type(error).__name__}"
            ) from error

    def _check_waiting(self, incoming: Incoming | None) -> None:
        """Refuse more requests than one at a time, and a few (PS3.7 D.3.3.3)."""
        if self.msg_queue.qsize() >= MOST_WAITING:
            if incoming is not None:
                incoming.discard()
            raise InvalidPdu(f"over {MOST_WAITING} requests without their answers")


def _decode(request: bytes) -> dict[int, bytes]:
    """Decode a command set; an unreadable one is left to pynetdicom to abort."""
    try:
        return command.decode_command(request)
    except InvalidObject:
        return {}


def _number(elements: dict[int, bytes], element: int) -> int:
    return command.as_number(elements.get(element, b""))
