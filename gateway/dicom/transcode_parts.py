"""A data set taken apart: attributes, where the pixel data lie, what follows."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from pydicom.charset import convert_encodings
from pydicom.filebase import DicomFileLike
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from gateway.dicom.parse import LONG_VRS, PIXEL_DATA, UNDEFINED_LENGTH
from gateway.errors import TranscodingRefused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

ITEM: Final = 0xE000FFFE
SEQUENCE_END: Final = 0xE0DDFFFE
IMPLICIT_HEADER: Final = 8


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Where the value of Pixel Data lies in its stream.

    Attributes
    ----------
    vr
        ``OB`` or ``OW``.
    start, end
        Of the value; of encapsulated data up to and with the delimiter.
    length
        Octets of an uncompressed value; None: encapsulated.
    """

    vr: str
    start: int
    end: int
    length: int | None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A data set whose pixel data stay where they are.

    Attributes
    ----------
    stream, syntax
        Where it is read from, and how it is encoded.
    dataset
        All before the pixel data.
    pixels
        None where there are none.
    after
        What follows them; None where there are none.
    """

    stream: BinaryIO
    syntax: UID
    dataset: Dataset
    pixels: Pixels | None
    after: Dataset | None

    @property
    def little(self) -> bool:
        """Whether the least significant octet comes first."""
        return self.syntax != ExplicitVRBigEndian


def read_parts(stream: BinaryIO, syntax: UID) -> Parts:
    """Take a data set apart, from where a seekable stream stands.

    Raises
    ------
    TranscodingRefused
        It is damaged, or has compressed pixel data in a sequence as well.
    """
    implicit = syntax == ImplicitVRLittleEndian
    little = syntax != ExplicitVRBigEndian
    dataset = read_dataset(stream, implicit, little, stop_when=_at_pixel_data)
    _check_nested(dataset)
    pixels = _pixels(stream, implicit=implicit, little=little)
    after = None
    if pixels is not None:
        stream.seek(pixels.end)
        after = read_dataset(stream, implicit, little)
    return Parts(
        stream=stream, syntax=syntax, dataset=dataset, pixels=pixels, after=after
    )


def same_attributes(
    one: Dataset | None, other: Dataset | None, but: Collection[str] = ()
) -> bool:
    """Whether two data sets have the same values, group lengths apart."""
    if one is None or other is None:
        return not (one or other)
    return _listed(one, but) == _listed(other, but)


def _listed(dataset: Dataset, but: Collection[str] = ()) -> list[tuple[int, bytes]]:
    """Return values as they are encoded where the VR is not: it may be unknown."""
    encodings = convert_encodings(dataset.get("SpecificCharacterSet", "ISO_IR 6"))
    listed = []
    for element in dataset:
        if element.tag.element == 0 or element.keyword in but:
            continue
        stream = BytesIO()
        out = DicomFileLike(stream)
        out.is_implicit_VR, out.is_little_endian = True, True
        write_data_element(out, element, encodings)
        listed.append((int(element.tag), stream.getvalue()[IMPLICIT_HEADER:]))
    return listed


def _at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001 - pydicom gives all three
    return int(tag) == PIXEL_DATA


def _check_nested(dataset: Dataset) -> None:
    """Refuse pixel data in a sequence that are compressed themselves."""
    for element in dataset:
        if not isinstance(element.value, Sequence):
            continue
        for item in element.value:
            pixels = item.get("PixelData")
            if pixels is not None and item["PixelData"].is_undefined_length:
                raise TranscodingRefused("an image in a sequence of it is compressed")
            _check_nested(item)


def _pixels(stream: BinaryIO, *, implicit: bool, little: bool) -> Pixels | None:
    """Read the header of the pixel data, and find their end."""
    order = "<" if little else ">"
    header = stream.read(8)
    if len(header) < 8:
        return None
    vr = "OW" if implicit else header[4:6].decode("latin-1")
    if implicit:
        (length,) = struct.unpack(f"{order}L", header[4:])
    elif header[4:6] in LONG_VRS:
        (length,) = struct.unpack(f"{order}L", stream.read(4))
    else:
        (length,) = struct.unpack(f"{order}H", header[6:])
    start = stream.tell()
    if length == UNDEFINED_LENGTH:
        end = _end_of_items(stream)
        return Pixels(vr="OB", start=start, end=end, length=None)
    size = stream.seek(0, os.SEEK_END)
    if start + length > size:
        raise TranscodingRefused("its pixel data are cut short")
    return Pixels(vr=vr, start=start, end=start + length, length=length)


def _end_of_items(stream: BinaryIO) -> int:
    while len(header := stream.read(8)) == 8:
        tag, length = struct.unpack("<LL", header)
        if tag == SEQUENCE_END:
            return stream.tell()
        if tag != ITEM or length == UNDEFINED_LENGTH:
            break
        stream.seek(length, os.SEEK_CUR)
    raise TranscodingRefused("the encapsulation of its pixel data is damaged")
