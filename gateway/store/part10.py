"""The head of a Part 10 file (PS3.10 7.1), written and read as bytes.

The data set after it is never touched here: it is what was received.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from gateway.errors import InvalidObject

IMPLEMENTATION_CLASS_UID = "2.25.99906809639761058997364923681552422528"
IMPLEMENTATION_VERSION_NAME = "MIAD_GATEWAY_0_1"

PREAMBLE = bytes(128) + b"DICM"
META_GROUP = 0x0002
GROUP_LENGTH = struct.pack("<HH2sH", META_GROUP, 0x0000, b"UL", 4)
LONGEST_META_BYTES = 1 << 20
LONG_VRS = frozenset({b"OB", b"OW", b"UN", b"SQ", b"UT", b"UC", b"UR"})

# PS3.5 9.1: digits and dots, at most 64 characters. Checked before a UID becomes
# part of a path. Leading zeros of a component are forbidden there and yet sent
# by real devices; they harm nothing, so they pass.
UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")


@dataclass(frozen=True, kw_only=True)
class FileMeta:
    """What the file meta information says of the data set that follows."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def check_uid(value: str, name: str) -> str:
    """Return a UID if it is one (PS3.5 9.1).

    Raises
    ------
    InvalidObject
        It is not; the message names the element, never the value.
    """
    if len(value) > 64 or not UID.fullmatch(value):
        raise InvalidObject(f"{name} is not a valid UID")
    return value


def encode_head(meta: FileMeta) -> bytes:
    """Encode preamble, prefix and file meta information.

    Raises
    ------
    InvalidObject
        One of the UIDs is not a UID.
    """
    elements = b"".join(
        [
            struct.pack("<HH2sHL", META_GROUP, 0x0001, b"OB", 0, 2) + b"\0\1",
            _uid(0x0002, check_uid(meta.sop_class_uid, "SOP Class UID")),
            _uid(0x0003, check_uid(meta.sop_instance_uid, "SOP Instance UID")),
            _uid(0x0010, check_uid(meta.transfer_syntax_uid, "Transfer Syntax UID")),
            _uid(0x0012, IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"), b" "),
        ]
    )
    return PREAMBLE + GROUP_LENGTH + struct.pack("<L", len(elements)) + elements


def read_head(stream: BinaryIO) -> FileMeta:
    """Read the head of a Part 10 file and leave the stream at its data set.

    Raises
    ------
    InvalidObject
        The stream does not start with a readable head.
    """
    head = stream.read(len(PREAMBLE) + len(GROUP_LENGTH) + 4)
    if head[128:132] != b"DICM" or head[132:140] != GROUP_LENGTH:
        raise InvalidObject("No Part 10 file with file meta information")
    (length,) = struct.unpack("<L", head[140:144])
    encoded = stream.read(min(length, LONGEST_META_BYTES))
    if len(encoded) != length:
        raise InvalidObject("The file meta information is cut short")
    values = _meta_values(encoded)
    try:
        return FileMeta(
            sop_class_uid=values[0x0002],
            sop_instance_uid=values[0x0003],
            transfer_syntax_uid=values[0x0010],
        )
    except KeyError as missing:
        raise InvalidObject(
            f"The file meta information lacks element (0002,{missing.args[0]:04X})"
        ) from missing


def _uid(element: int, value: str) -> bytes:
    return _element(element, b"UI", value.encode("ascii"), b"\0")


def _element(element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", META_GROUP, element, vr, len(value)) + value


def _meta_values(encoded: bytes) -> dict[int, str]:
    """Return the values of file meta elements by element number, as text."""
    values: dict[int, str] = {}
    position = 0
    try:
        while position < len(encoded):
            _, element, vr, length = struct.unpack_from("<HH2sH", encoded, position)
            position += 8
            if vr in LONG_VRS:
                (length,) = struct.unpack_from("<L", encoded, position)
                position += 4
            value = encoded[position : position + length]
            values[element] = value.decode("ascii", "replace").rstrip("\0 ")
            position += length
    except struct.error as error:
        raise InvalidObject("The file meta information is cut short") from error
    return values
