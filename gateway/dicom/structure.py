"""Whether a data set is nested and divided as real ones are, told from lengths.

A parser that follows nested sequences by calling itself, or makes an object of
every element it meets, is at the mercy of who wrote the data set. This walks
over lengths only, without recursion and without taking memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydicom._dicom_dict import DicomDictionary

from gateway.errors import InvalidObject

if TYPE_CHECKING:
    from gateway.store.octets import Octets

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF
PIXEL_DATA: Final = 0x7FE00010
ITEM_GROUP: Final = 0xFFFE
SHORT_VRS: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO"}
    | {b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV"}
    | {b"UC", b"UN", b"UR", b"UT", b"UV"}
)
MOST_ELEMENTS: Final = 1_000_000
"""Of a data set, at all depths; 4000 frames with groups of their own have 300,000."""


@dataclass(slots=True)
class _Level:
    """A data set or item (``items`` False), or a sequence of items.

    ``end`` is None where the length is undefined.
    """

    items: bool
    end: int | None
    implicit: bool
    raw: bool = False  # its items are fragments, not data sets


def check_structure(
    data_set: Octets, *, implicit: bool, little: bool, max_depth: int
) -> int:
    """Check nesting and number of elements up to the pixel data.

    What else is wrong is left to the parser: the walk ends where it cannot go on.

    Parameters
    ----------
    data_set
        As encoded, inflated.
    implicit, little
        How it is encoded.
    max_depth
        Sequences within sequences.

    Returns
    -------
    int
        Where the walk ended: at the pixel data, or at the end.

    Raises
    ------
    InvalidObject
        It is nested deeper, or has more elements than any real object.
    """
    walk = _Walk(data_set, little=little, max_depth=max_depth)
    return walk.run(implicit=implicit)


class _Walk:
    def __init__(self, data: Octets, *, little: bool, max_depth: int) -> None:
        self._data = data
        self._end = len(data)
        order = "<" if little else ">"
        self._head = struct.Struct(f"{order}HHL")
        self._long = struct.Struct(f"{order}L")
        self._short = struct.Struct(f"{order}H")
        self._max_depth = max_depth
        self._at = 0
        self._depth = 0
        self._stack: list[_Level] = []

    def run(self, *, implicit: bool) -> int:
        self._stack = [_Level(items=False, end=self._end, implicit=implicit)]
        count = 0
        while self._stack and self._at + 8 <= self._end:
            level = self._stack[-1]
            if level.end is not None and self._at >= level.end:
                self._close()
                continue
            count += 1
            if count > MOST_ELEMENTS:
                raise InvalidObject(f"The data set has over {MOST_ELEMENTS} elements")
            going_on = self._item(level) if level.items else self._element(level)
            if not going_on:
                break
        return min(self._at, self._end)

    def _read(self, at: int, size: int) -> bytes:
        return self._data[at : at + size]

    def _close(self) -> None:
        level = self._stack.pop()
        if level.items:
            self._depth -= 1

    def _open(self, end: int | None, *, implicit: bool, raw: bool = False) -> None:
        self._depth += 1
        if self._depth > self._max_depth:
            raise InvalidObject(f"Sequences are nested deeper than {self._max_depth}")
        self._stack.append(_Level(items=True, end=end, implicit=implicit, raw=raw))

    def _item(self, level: _Level) -> bool:
        """Take an item's header, or the end of the sequence."""
        group, number, length = self._head.unpack(self._read(self._at, 8))
        tag = group << 16 | number
        self._at += 8
        if tag == SEQUENCE_END:
            self._close()
            return True
        if tag != ITEM:
            return False
        if level.raw:
            self._at += length
        else:
            end = None if length == UNDEFINED else self._at + length
            self._stack.append(_Level(items=False, end=end, implicit=level.implicit))
        return True

    def _element(self, level: _Level) -> bool:
        """Take an element: step over its value, or into its sequence."""
        head = self._read(self._at, 8)
        group, number, length = self._head.unpack(head)
        tag = group << 16 | number
        if tag == PIXEL_DATA and len(self._stack) == 1:
            return False
        if tag == ITEM_END:
            self._at += 8
            self._close()
            return True
        if group == ITEM_GROUP:
            return False
        if level.implicit:
            self._at += 8
            known = DicomDictionary.get(tag)
            vr = b"SQ" if known is not None and known[0] == "SQ" else b"UN"
        else:
            vr = head[4:6]
            if not self._explicit_length(vr):
                return False
            length = self._length
        return self._value(vr, length, implicit=level.implicit)

    def _explicit_length(self, vr: bytes) -> bool:
        at = self._at
        if vr in SHORT_VRS:
            (self._length,) = self._short.unpack(self._read(at + 6, 2))
            self._at += 8
            return True
        if vr not in LONG_VRS or at + 12 > self._end:
            return False
        (self._length,) = self._long.unpack(self._read(at + 8, 4))
        self._at += 12
        return True

    def _value(self, vr: bytes, length: int, *, implicit: bool) -> bool:
        undefined = length == UNDEFINED
        if vr == b"SQ" or (undefined and vr == b"UN"):
            # Unknown with undefined length is a sequence in implicit VR (PS3.5 6.2.2).
            end = None if undefined else self._at + length
            self._open(end, implicit=implicit or vr == b"UN")
        elif undefined:
            self._open(None, implicit=implicit, raw=True)
        else:
            self._at += length
        return True
