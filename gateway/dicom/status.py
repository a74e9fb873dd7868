"""DIMSE statuses and A-ASSOCIATE rejections by name (PS3.7 C, PS3.4, PS3.8)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class StoreStatus(IntEnum):
    """C-STORE responses (PS3.4 B.2.3 and PS3.7 C.5)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    """What some peers answer to an object they hold already."""
    INVALID_SOP_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    CONFLICT = 0xC0C0
    """Other content came before under this SOP Instance UID: kept aside."""


class FindStatus(IntEnum):
    """C-FIND responses (PS3.4 C.4.1.1.4)."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    IDENTIFIER_DOES_NOT_MATCH = 0xA900
    UNABLE_TO_PROCESS = 0xC000
    CANCEL = 0xFE00
    PENDING = 0xFF00
    PENDING_KEYS_NOT_SUPPORTED = 0xFF01


class RetrieveStatus(IntEnum):
    """C-MOVE and C-GET responses (PS3.4 C.4.2.1.5, C.4.3.1.4 and PS3.7 C.5)."""

    SUCCESS = 0x0000
    NOT_AUTHORISED = 0x0124
    OUT_OF_RESOURCES_MATCHES = 0xA701
    OUT_OF_RESOURCES_SUBOPERATIONS = 0xA702
    DESTINATION_UNKNOWN = 0xA801
    """Of C-MOVE only, as is not authorised."""
    IDENTIFIER_DOES_NOT_MATCH = 0xA900
    SOME_FAILED = 0xB000
    UNABLE_TO_PROCESS = 0xC000
    CANCEL = 0xFE00
    PENDING = 0xFF00


class CommitmentStatus(IntEnum):
    """N-ACTION and N-EVENT-REPORT responses (PS3.4 J.3, PS3.7 C.5)."""

    SUCCESS = 0x0000
    INVALID_ATTRIBUTE_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_EVENT_TYPE = 0x0113
    NO_SUCH_SOP_INSTANCE = 0x0112
    INVALID_ARGUMENT_VALUE = 0x0115
    NO_SUCH_SOP_CLASS = 0x0118
    MISSING_ATTRIBUTE = 0x0120
    MISSING_ATTRIBUTE_VALUE = 0x0121
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORISED = 0x0124
    DUPLICATE_TRANSACTION = 0x0131
    RESOURCE_LIMITATION = 0x0213


class FailureReason(IntEnum):
    """Why an object is not committed to (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119


class Rejection(NamedTuple):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int


NO_REASON_GIVEN = Rejection(1, 1, 1)
CALLING_AE_NOT_RECOGNISED = Rejection(1, 1, 3)
CALLED_AE_NOT_RECOGNISED = Rejection(1, 1, 7)
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2)
TEMPORARY_CONGESTION = Rejection(2, 3, 1)


def is_stored(status: int) -> bool:
    """Say whether a C-STORE response means that the peer keeps the object.

    Success, or one of the warnings of PS3.4 B.2.3 (0xB000, 0xB006, 0xB007) and
    PS3.7 C.4 (0x0001, 0x0107, 0x0116): the object was stored with a remark.
    """
    return status in {0x0000, 0x0001, 0x0107, 0x0116} or 0xB000 <= status <= 0xBFFF
