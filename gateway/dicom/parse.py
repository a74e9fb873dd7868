"""From received bytes to attributes, and to where the pixel data lies."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MPEGTransferSyntaxes,
)

from gateway.dicom.elements import seems_implicit
from gateway.dicom.lenient import lenient, text
from gateway.dicom.structure import check_structure
from gateway.errors import InvalidObject, Unprotectable
from gateway.store.octets import FileOctets, stream_of
from gateway.store.part10 import read_head
from gateway.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.tag import BaseTag

    from config.schema import Limits
    from gateway.store.octets import Octets

PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009)
UNDEFINED_LENGTH: Final = 0xFFFFFFFF
LONG_VRS: Final = frozenset((b"OB", b"OW", b"OF", b"OD", b"UN"))

MOST_ATTRIBUTES: Final = 128 << 20
"""Octets of attributes; those of 4,000 frames with groups of their own have 8 MiB."""

INFLATED_BASE: Final = 64 << 20
INFLATED_RATIO: Final = 100
"""A deflated data set may grow to 64 MiB, or a hundredfold, and to the site's limit."""

INFLATED_PIECE: Final = 1 << 18
INFLATED_AT_ONCE: Final = 8 << 20

DEFLATED_FRAMES: Final = UID("1.2.840.10008.1.2.8.1")
"""Deflated Image Frame Compression (PS3.5 A.4.13), which pydicom 3.0 does not know."""

JPEG_XL: Final = frozenset(
    f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112)
)
"""JPEG XL lossless, JPEG recompression and JPEG XL: pydicom 3.0 has no decoder."""

NATIVE: Final = frozenset(
    (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a data set may be at most.

    Attributes
    ----------
    max_depth
        Sequences within sequences.
    max_inflated_bytes
        Of a deflated data set or frame, unpacked.
    """

    max_depth: int = 64
    max_inflated_bytes: int = 1 << 30

    @classmethod
    def of(cls, limits: Limits) -> Bounds:
        """Return those of a site."""
        return cls(
            max_depth=limits.max_sequence_depth,
            max_inflated_bytes=limits.max_inflated_bytes,
        )


BOUNDS: Final = Bounds()
"""Of data sets that no site's settings go with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelElement:
    """Where the value of Pixel Data lies in ``body``.

    ``end`` is exclusive; ``vr`` is ``OW`` where the syntax does not say.
    ``declared`` is the length its header gives, None when undefined.
    """

    start: int
    end: int
    vr: str
    declared: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedObject:
    """Attributes of a data set and its pixel data, not yet decoded.

    Attributes
    ----------
    dataset
        Everything before the pixel data.
    body
        The data set as encoded; inflated for the deflated syntax. What is not in
        memory is read when it is asked for.
    verbatim
        Whether ``body`` is what was received, so that places in it are places
        in the received bytes.
    pixels
        None when there is no Pixel Data element.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    body: Octets
    verbatim: bool
    pixels: PixelElement | None

    @property
    def little(self) -> bool:
        """Whether the least significant octet comes first."""
        return self.transfer_syntax_uid != ExplicitVRBigEndian


def parse_object(
    data: Octets, transfer_syntax_uid: str, bounds: Bounds = BOUNDS
) -> ParsedObject:
    """Read the attributes of a data set up to its pixel data.

    Parameters
    ----------
    data
        The data set as received, without file meta information; nothing from the
        pixel data on is read.
    transfer_syntax_uid
        How it is encoded.
    bounds
        What it may be at most.

    Raises
    ------
    Unprotectable
        ``unknown-transfer-syntax``, ``unreadable``, or ``unsupported-pixels``
        for video and floating point.
    """
    syntax = _known_syntax(transfer_syntax_uid)
    implicit_vr = syntax == ImplicitVRLittleEndian
    little = syntax != ExplicitVRBigEndian
    deflated = syntax == DeflatedExplicitVRLittleEndian
    body = inflated(data, bounds.max_inflated_bytes) if deflated else data
    stream = stream_of(body)
    try:
        attributes = check_structure(
            body,
            implicit=seems_implicit(stream, implicit_vr),
            little=little,
            max_depth=bounds.max_depth,
        )
        _check_attributes(attributes)
        with lenient():
            dataset = read_dataset(
                stream,
                implicit_vr,
                little,
                stop_when=_at_pixel_data,
            )
            implicit, _ = dataset.original_encoding
    except Unprotectable:
        raise
    except InvalidObject as error:
        raise Unprotectable("unreadable", str(error)) from error
    except Exception as error:
        raise Unprotectable(
            "unreadable", f"data set cannot be read: {type(error).__name__}"
        ) from error
    at = stream.tell()
    pixels = _pixel_element(body, at, implicit=bool(implicit), little=little)
    return ParsedObject(
        dataset=dataset,
        transfer_syntax_uid=transfer_syntax_uid,
        body=body,
        verbatim=not deflated,
        pixels=pixels,
    )


def _check_attributes(octets: int) -> None:
    """Refuse attributes that would fill the memory: they are held as a whole."""
    if octets > MOST_ATTRIBUTES:
        raise Unprotectable(
            "too-large",
            f"the attributes beside the pixel data have {octets} octets; "
            f"{MOST_ATTRIBUTES} are the limit",
        )


def data_set_offset(part10: Octets) -> tuple[int, str]:
    """Where the data set of a Part 10 file starts, and its transfer syntax.

    Parameters
    ----------
    part10
        A whole file (PS3.10 7.1); its file meta information may have flaws.

    Raises
    ------
    Unprotectable
        ``unreadable``: no Part 10 file; ``unknown-transfer-syntax``: its file
        meta information does not say.
    """
    if part10[128:132] != b"DICM":
        raise Unprotectable("unreadable", "not a DICOM Part 10 file")
    stream = stream_of(part10)
    stream.seek(132)
    try:
        with lenient():
            meta = read_dataset(
                stream, is_implicit_VR=False, is_little_endian=True, stop_when=_not_meta
            )
            syntax = text(meta, "TransferSyntaxUID")
    except Exception as error:
        raise Unprotectable(
            "unreadable", "file meta information cannot be read"
        ) from error
    if not syntax:
        raise Unprotectable(
            "unknown-transfer-syntax", "file meta information has no transfer syntax"
        )
    return stream.tell(), syntax


def _not_meta(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return tag >> 16 != 2


def head_of(part10: BinaryIO, bounds: Bounds = BOUNDS) -> Dataset:
    """Read the attributes of a stored object up to its pixel data.

    Parameters
    ----------
    part10
        The file, at its start; it can seek.
    bounds
        What its data set may be at most.

    Raises
    ------
    InvalidObject
        It is no Part 10 file.
    Unprotectable
        As `parse_object`.
    """
    meta = read_head(part10)
    syntax = UID(meta.transfer_syntax_uid)
    if syntax == DeflatedExplicitVRLittleEndian:
        received = FileOctets(part10, part10.tell())
        part10 = stream_of(inflated(received, bounds.max_inflated_bytes))
    try:
        with lenient():
            return read_dataset(
                part10,
                syntax == ImplicitVRLittleEndian,
                syntax != ExplicitVRBigEndian,
                stop_when=_at_pixel_data,
            )
    except Exception as error:
        raise Unprotectable(
            "unreadable", f"data set cannot be read: {type(error).__name__}"
        ) from error


def inflate(data: bytes, most: int = BOUNDS.max_inflated_bytes) -> bytes:
    """Inflate a deflated data set or frame, within limits (PS3.5 A.5).

    Parameters
    ----------
    data
        Deflated.
    most
        Octets that may come of it.

    Raises
    ------
    Unprotectable
        ``unreadable``: damaged, or larger than any real object of that size.
    """
    return inflated(data, most)[:]


def inflated(data: Octets, most: int = BOUNDS.max_inflated_bytes) -> Octets:
    """Inflate what may be large; memory holds some of it, a file the rest.

    It is inflated twice: what it would grow to is counted first, piece by piece,
    so that one above the limit takes no memory and no room on the disk.

    Parameters
    ----------
    data, most
        As for `inflate`.

    Raises
    ------
    Unprotectable
        As `inflate`.
    StoreFull
        The disk has no room.
    """
    limit = min(INFLATED_BASE + INFLATED_RATIO * len(data), most)
    size = 0
    try:
        for piece in _inflated_pieces(data):
            size += len(piece)
            if size > limit:
                break
        else:
            pieces = _inflated_pieces(data)
            if size <= INFLATED_AT_ONCE:
                return b"".join(pieces)
            return Spool().add_all(pieces)
    except zlib.error as error:
        raise Unprotectable("unreadable", "deflated data set is damaged") from error
    raise Unprotectable(
        "unreadable",
        f"deflated data set of {len(data)} octets grows beyond {limit} octets",
    )


def _inflated_pieces(data: Octets) -> Iterator[bytes]:
    """Yield the pieces that deflated data grow to."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(data), INFLATED_PIECE):
        piece = data[start : start + INFLATED_PIECE]
        while piece and not stream.eof:
            yield stream.decompress(piece, INFLATED_PIECE)
            piece = stream.unconsumed_tail
    yield stream.flush()


def _known_syntax(transfer_syntax_uid: str) -> UID:
    syntax = UID(transfer_syntax_uid)
    if syntax == DEFLATED_FRAMES:
        return syntax
    if syntax in JPEG_XL:
        raise Unprotectable(
            "unsupported-pixels",
            "JPEG XL cannot be decoded; send the image in another transfer syntax",
        )
    if syntax in MPEGTransferSyntaxes:
        raise Unprotectable(
            "unsupported-pixels", f"video ({syntax.name}) cannot be marked"
        )
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise Unprotectable(
            "unknown-transfer-syntax", f"transfer syntax {transfer_syntax_uid!r}"
        )
    return syntax


def _at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return tag == PIXEL_DATA or tag in FLOAT_PIXEL_DATA


def _pixel_element(
    body: Octets, at: int, *, implicit: bool, little: bool
) -> PixelElement | None:
    order: Literal["little", "big"] = "little" if little else "big"
    header = body[at : at + 12]
    if len(header) < 8:
        return None
    group = int.from_bytes(header[:2], order)
    tag = group << 16 | int.from_bytes(header[2:4], order)
    if tag in FLOAT_PIXEL_DATA:
        raise Unprotectable(
            "unsupported-pixels", "floating point pixel data cannot be marked"
        )
    if tag != PIXEL_DATA:
        return None
    vr = b"OW" if implicit else header[4:6]
    if implicit or vr not in LONG_VRS:
        length, start = int.from_bytes(header[4:8], order), at + 8
    else:
        length, start = int.from_bytes(header[8:12], order), at + 12
    declared = None if length == UNDEFINED_LENGTH else length
    end = len(body) if declared is None else min(start + declared, len(body))
    return PixelElement(
        start=start, end=end, vr=vr.decode("latin-1"), declared=declared
    )
