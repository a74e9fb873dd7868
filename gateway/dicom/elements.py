"""Top-level elements of an encoded data set, as bytes (PS3.5 7.1).

The receiving side wants a few short values of the head of a data set, from
several threads, without warnings and without ever reading pixels; pydicom's
reader converts, warns and inflates. Sequences are stepped over.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from gateway.errors import InvalidObject

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
CHARACTER_SET = 0x00080005
DEEPEST = 64
MOST_ELEMENTS = 100_000  # of a head; `structure` counts those of the rest
LONGEST_VALUE_BYTES = 1 << 16
INFLATED_HEAD_BYTES = 16 << 20  # a small file can inflate to any size
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV"}
    | {b"UC", b"UN", b"UR", b"UT", b"UV"}
)
SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO"}
    | {b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
SHORT_HEAD, LONG_HEAD = 8, 12  # octets of an element before its value
ESCAPE = b"\x1b"  # to another character set (PS3.5 6.1.2.5)
BLOCK_BYTES = 1 << 12
NAME_DELIMITERS = {0x5E, 0x3D}  # ^ and =


@dataclass(frozen=True)
class Elements:
    """Encoded values by tag; sequences and overlong values have none."""

    values: dict[int, bytes]

    def raw(self, keyword: str) -> bytes:
        """Return an encoded value; empty where there is none."""
        tag = tag_for_keyword(keyword)
        return b"" if tag is None else self.values.get(tag, b"")

    def uid(self, keyword: str) -> str:
        """Return a UID without padding; several stay joined by backslashes."""
        return self.raw(keyword).decode("ascii", "replace").strip("\0 ")

    def text(self, keyword: str) -> str:
        """Return a text without padding and control characters."""
        value = self.raw(keyword)
        if value.isascii() and ESCAPE not in value:
            text = value.decode("ascii")  # so it is in every character set
        else:
            try:
                text = decode_bytes(value, self._encodings, NAME_DELIMITERS)
            except (ValueError, LookupError, Warning):
                text = value.decode("latin_1")
        if not text.isprintable():
            text = "".join(c for c in text if c.isprintable())
        return text.strip()

    @cached_property
    def _encodings(self) -> list[str]:
        """Return the Python codecs of the character sets (PS3.5 6.1)."""
        value = self.values.get(CHARACTER_SET, b"").decode("ascii", "replace")
        terms = [term.strip("\0 ") for term in value.split("\\")]
        return [python_encoding.get(term, "latin_1") for term in terms]


def read_elements(
    stream: BinaryIO,
    transfer_syntax: UID,
    last_tag: int = ITEM - 1,
    *,
    wanted: Collection[int] | None = None,
    max_depth: int = DEEPEST,
) -> Elements:
    """Read the elements of a data set in order, up to and with ``last_tag``.

    Parameters
    ----------
    stream
        Stands at the first byte of the data set and can seek.
    transfer_syntax
        How it is encoded; an unknown one is read as explicit little endian
        (PS3.5 A.4).
    wanted
        Tags whose values are kept; None: of all.
    max_depth
        Sequences within sequences.

    Raises
    ------
    InvalidObject
        The bytes are no data set, end within an element, or are nested deeper
        or have more elements than any real object.
    """
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        stream = inflate_head(stream)
    known = not transfer_syntax.is_private and transfer_syntax.is_transfer_syntax
    implicit = known and transfer_syntax.is_implicit_VR
    order = "<" if not known or transfer_syntax.is_little_endian else ">"
    reader = _Reader(stream, order, seems_implicit(stream, implicit), wanted, max_depth)
    return Elements(reader.values_up_to(last_tag))


def inflate_head(stream: BinaryIO) -> BinaryIO:
    """Inflate the beginning of a deflated data set (PS3.5 A.5).

    Raises
    ------
    InvalidObject
        It is damaged.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    try:
        while piece := stream.read(LONGEST_VALUE_BYTES):
            room = INFLATED_HEAD_BYTES - len(inflated)
            inflated += inflater.decompress(piece, room)
            if inflater.eof or len(inflated) >= INFLATED_HEAD_BYTES:
                break
    except zlib.error as error:
        raise InvalidObject("The deflated data set cannot be inflated") from error
    return io.BytesIO(inflated)


def seems_implicit(stream: BinaryIO, declared: bool) -> bool:
    """Look at the first element: some devices send the other VR than they say."""
    start = stream.tell()
    head = stream.read(8)
    stream.seek(start)
    if len(head) < 8:
        return declared
    return not (head[4:6].isalpha() and head[4:6].isupper())


@dataclass
class _Reader:
    stream: BinaryIO
    order: str
    implicit: bool
    wanted: Collection[int] | None
    max_depth: int
    count: int = 0
    block: bytes = b""  # what was read of the stream,
    at: int = 0  # and how far it was taken
    end: int = field(init=False)

    def __post_init__(self) -> None:
        start = self.stream.tell()
        self.end = self.stream.seek(0, io.SEEK_END)
        self.stream.seek(start)
        self._implicit = struct.Struct(f"{self.order}HHL")
        self._explicit = struct.Struct(f"{self.order}HH2sH")
        self._long = struct.Struct(f"{self.order}L")

    def values_up_to(self, last_tag: int) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        while (header := self._header()) is not None:
            tag, length = header
            if tag > last_tag:
                break
            kept = self.wanted is None or tag in self.wanted
            value = self._value(length, kept=kept)
            if value is not None:
                values.setdefault(tag, value)
        return values

    def _header(self) -> tuple[int, int] | None:
        """Read tag and length; None at the end of the data set."""
        if len(self.block) - self.at < LONG_HEAD:
            self._fill(LONG_HEAD)
        block, at = self.block, self.at
        left = len(block) - at
        if left < SHORT_HEAD:
            if not left:
                return None
            raise InvalidObject("The data set ends within an element")
        self.count += 1
        if self.count > MOST_ELEMENTS:
            raise InvalidObject(f"The data set has over {MOST_ELEMENTS} elements")
        group, number, vr, length = self._explicit.unpack_from(block, at)
        size = SHORT_HEAD
        if self.implicit or group == ITEM >> 16:
            _, _, length = self._implicit.unpack_from(block, at)
        elif vr in LONG_VRS:
            if left < LONG_HEAD:
                raise InvalidObject("The data set ends within an element")
            (length,) = self._long.unpack_from(block, at + SHORT_HEAD)
            size = LONG_HEAD
        elif vr not in SHORT_VRS and not (vr.isalpha() and vr.isupper()):
            raise InvalidObject("The data set has an element without VR")
        self.at = at + size
        return group << 16 | number, length

    def _value(self, length: int, *, kept: bool) -> bytes | None:
        if length == UNDEFINED:
            self._skip_items(1)
            return None
        if not kept or length > LONGEST_VALUE_BYTES:
            self._skip(length)
            return None
        if len(self.block) - self.at < length:
            self._fill(length)
        value = self.block[self.at : self.at + length]
        if len(value) < length:
            raise InvalidObject("The data set ends within an element")
        self.at += length
        return value

    def _skip(self, length: int) -> None:
        beyond = self.at + length - len(self.block)
        if beyond <= 0:
            self.at += length
        elif self.stream.seek(beyond, io.SEEK_CUR) > self.end:
            raise InvalidObject("The data set ends within an element")
        else:
            self.block, self.at = b"", 0

    def _fill(self, length: int) -> None:
        """Have so many octets at hand, fewer only at the end."""
        missing = self.at + length - len(self.block)
        read = self.stream.read(max(missing, BLOCK_BYTES))
        self.block, self.at = self.block[self.at :] + read, 0

    def _skip_items(self, depth: int) -> None:
        """Step over the items of a sequence of undefined length."""
        if depth > self.max_depth:
            raise InvalidObject(f"Sequences are nested deeper than {self.max_depth}")
        while (header := self._header()) is not None:
            tag, length = header
            if tag == SEQUENCE_END:
                return
            if tag != ITEM:
                raise InvalidObject("A sequence holds something else than items")
            if length == UNDEFINED:
                self._skip_item(depth)
            else:
                self._skip(length)
        raise InvalidObject("The data set ends within a sequence")

    def _skip_item(self, depth: int) -> None:
        while (header := self._header()) is not None:
            tag, length = header
            if tag == ITEM_END:
                return
            if length == UNDEFINED:
                self._skip_items(depth + 1)
            else:
                self._skip(length)
        raise InvalidObject("The data set ends within an item")
