"""DIMSE command sets as bytes (PS3.7 6.3.1: implicit VR little endian).

Building a response through a DICOM data set costs more interpreter time than
everything else a C-STORE needs, so the few fixed commands are packed directly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from gateway.errors import InvalidObject

AFFECTED_SOP_CLASS_UID = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
COMMAND_DATA_SET_TYPE = 0x0800
REQUESTED_SOP_CLASS_UID = 0x0003
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
MOVE_ORIGINATOR_AE_TITLE = 0x1030
MOVE_ORIGINATOR_MESSAGE_ID = 0x1031

REMAINING_SUBOPERATIONS = 0x1020
COMPLETED_SUBOPERATIONS = 0x1021
FAILED_SUBOPERATIONS = 0x1022
WARNING_SUBOPERATIONS = 0x1023

C_STORE_RQ = 0x0001
C_GET_RQ = 0x0010
C_FIND_RQ = 0x0020
C_MOVE_RQ = 0x0021
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RQ = 0x0100
N_ACTION_RQ = 0x0130
C_STORE_RSP = 0x8001
C_GET_RSP = 0x8010
C_FIND_RSP = 0x8020
C_MOVE_RSP = 0x8021
N_EVENT_REPORT_RSP = 0x8100
N_ACTION_RSP = 0x8130

SERVED = frozenset(
    {C_STORE_RQ, C_GET_RQ, C_FIND_RQ, C_MOVE_RQ, C_ECHO_RQ, C_CANCEL_RQ, C_STORE_RSP}
    | {N_ACTION_RQ, N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP}
)
"""Commands that an acceptor takes: requests, and the answers to what it sends in
C-GET and to its reports of storage commitment."""

COMMITMENT = frozenset({N_ACTION_RQ, N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP})
"""Those of them that only a context of storage commitment carries."""

DATA_SET_PRESENT = 0x0001
NO_DATA_SET = 0x0101
MEDIUM_PRIORITY = 0x0000


def us(value: int) -> bytes:
    """Encode an unsigned short."""
    return struct.pack("<H", value)


def ui(value: str) -> bytes:
    """Encode a UID, padded with a null to even length (PS3.5 6.2)."""
    encoded = value.encode("ascii", "replace")
    return encoded + b"\0" * (len(encoded) % 2)


def text(value: str, limit: int = 64) -> bytes:
    """Encode an AE title or short text, padded with a space to even length."""
    encoded = value.encode("ascii", "replace")[:limit]
    return encoded + b" " * (len(encoded) % 2)


def encode_command(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Encode command elements of group 0000 with their group length.

    Parameters
    ----------
    elements
        Pairs of element number and encoded value of even length; they may come
        in any order.

    Returns
    -------
    bytes
        The command set, ready to be sent in PDVs (PS3.8 E.2).
    """
    body = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value
        for element, value in sorted(elements)
    )
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def decode_command(encoded: bytes) -> dict[int, bytes]:
    """Decode a command set to values by element number.

    Raises
    ------
    InvalidObject
        The bytes are no command set.
    """
    values: dict[int, bytes] = {}
    position = 0
    while position < len(encoded):
        if len(encoded) - position < 8:
            raise InvalidObject("A command set is cut short")
        group, element, length = struct.unpack_from("<HHL", encoded, position)
        position += 8
        if group != 0 or length > len(encoded) - position:
            raise InvalidObject("A command set is malformed")
        values[element] = encoded[position : position + length]
        position += length
    return values


def as_number(value: bytes) -> int:
    """Decode an unsigned short; 0 where it has another length."""
    return int.from_bytes(value, "little") if len(value) == 2 else 0


def as_uid(value: bytes) -> str:
    """Decode a UID, its padding removed."""
    return value.decode("ascii", "replace").rstrip("\0 ")
