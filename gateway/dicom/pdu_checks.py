"""Whether a PDU is well formed, told from its lengths before it is decoded.

pynetdicom makes objects of every item it meets; here the items of an
association request are counted and the lengths of a PDU compared first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

from gateway.errors import InvalidPdu

ASSOCIATE_RQ: Final = 0x01
P_DATA_TF: Final = 0x04
PDU_TYPES: Final = range(0x01, 0x08)
HEADER_BYTES: Final = 6  # type, reserved, length (PS3.8 9.3.1)

ITEMS_AT: Final = 68  # of an A-ASSOCIATE-RQ after its header (PS3.8 9.3.2)
APPLICATION_CONTEXT: Final = 0x10
PRESENTATION_CONTEXT: Final = 0x20
USER_INFORMATION: Final = 0x50

MOST_SYNTAXES: Final = 128
"""Of one context; the standard has about 60 transfer syntaxes."""
MOST_USER_ITEMS: Final = 512
"""Roles and extended negotiations, one for each SOP class, and a few more."""
LONGEST_UID: Final = 64

SMALLEST_VALUE_BYTES: Final = 6  # length, context, control header (PS3.8 9.3.5.1)
VALUE_HEAD: Final = struct.Struct(">LB")  # length, context
CONTEXT_BYTES: Final = 4  # of a presentation context item before its sub-items
AE_TITLE: Final = re.compile(rb"[\x20-\x5b\x5d-\x7e]{16}")  # PS3.5 6.2
AE_TITLES_AT: Final = (4, 20)  # called, calling


def bad_ae_titles(body: bytes) -> tuple[bool, bool]:
    """Whether the called and the calling AE title of a request are none."""
    called, calling = (
        AE_TITLE.fullmatch(body[at : at + 16]) is None or not body[at : at + 16].strip()
        for at in AE_TITLES_AT
    )
    return called, calling


def check_request(body: bytes) -> None:
    """Check the items of an A-ASSOCIATE-RQ (PS3.8 9.3.2).

    Numbers of presentation contexts are odd and unique, so there are 128 at most.

    Parameters
    ----------
    body
        The PDU after its header.

    Raises
    ------
    InvalidPdu
        Lengths contradict each other, or there are more items than the standard
        has use for.
    """
    if len(body) < ITEMS_AT:
        raise InvalidPdu("an association request is cut short")
    numbers: set[int] = set()
    for kind, item in items_of(body[ITEMS_AT:]):
        if kind == PRESENTATION_CONTEXT:
            _check_context(item, numbers)
        elif kind == USER_INFORMATION:
            _check_count(item, MOST_USER_ITEMS, "user items")
        elif kind == APPLICATION_CONTEXT:
            _check_uid(item)


def check_data(pdu: bytes | memoryview) -> None:
    """Check the lengths of a P-DATA-TF's items (PS3.8 9.3.5).

    Parameters
    ----------
    pdu
        With its header.

    Raises
    ------
    InvalidPdu
        An item ends behind the PDU, or has no place for its control header.
    """
    at = HEADER_BYTES
    while at < len(pdu):
        if len(pdu) - at < SMALLEST_VALUE_BYTES:
            raise InvalidPdu("a presentation data value is cut short")
        (length,) = struct.unpack_from(">L", pdu, at)
        if not 2 <= length <= len(pdu) - at - 4:
            raise InvalidPdu("a presentation data value's length is not the PDU's")
        at += 4 + length


def values_of(pdu: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the items of a P-DATA-TF that was checked (PS3.8 9.3.5).

    Each is the number of its presentation context and its value, which begins with
    the message control header.
    """
    at = HEADER_BYTES
    while at < len(pdu):
        length, context_id = VALUE_HEAD.unpack_from(pdu, at)
        yield context_id, pdu[at + VALUE_HEAD.size : at + 4 + length]
        at += 4 + length


def items_of(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the items that make up something.

    Raises
    ------
    InvalidPdu
        Their lengths contradict each other.
    """
    at = 0
    while at < len(encoded):
        if len(encoded) - at < 4:
            raise InvalidPdu("an item is cut short")
        kind, _, length = struct.unpack_from(">BBH", encoded, at)
        if length > len(encoded) - at - 4:
            raise InvalidPdu("an item ends behind what holds it")
        yield kind, encoded[at + 4 : at + 4 + length]
        at += 4 + length


def _check_context(item: bytes, numbers: set[int]) -> None:
    if len(item) < CONTEXT_BYTES:
        raise InvalidPdu("a presentation context is cut short")
    if item[0] in numbers or item[0] % 2 == 0:
        raise InvalidPdu("a presentation context's number is even or used twice")
    numbers.add(item[0])
    for count, (_, uid) in enumerate(items_of(item[CONTEXT_BYTES:])):
        if count > MOST_SYNTAXES:
            raise InvalidPdu(
                f"a presentation context has over {MOST_SYNTAXES} syntaxes"
            )
        _check_uid(uid)


def _check_count(item: bytes, most: int, what: str) -> None:
    for count, _ in enumerate(items_of(item), 1):
        if count > most:
            raise InvalidPdu(f"an association request has over {most} {what}")


def _check_uid(value: bytes) -> None:
    if len(value) > LONGEST_UID or not value.isascii():
        raise InvalidPdu("an association request has a UID that is none")
