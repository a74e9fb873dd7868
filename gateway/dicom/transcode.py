"""Writing a stored object in another transfer syntax, without loss (PS3.5 A).

What is written is read again and compared before it is used: the same pixel
values, the same attributes. Memory holds the attributes and one frame; the object
itself lies in a spool that is gone afterwards.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
)

from gateway.dicom.lenient import lenient
from gateway.dicom.offers import COMPRESSED
from gateway.dicom.parse import BOUNDS, Bounds
from gateway.dicom.transcode_frames import (
    Picture,
    encapsulated_frames,
    encoded_frames,
    frames_of,
    native_octets,
)
from gateway.dicom.transcode_parts import Parts, read_parts, same_attributes
from gateway.errors import InvalidObject, StoredObjectDamaged, TranscodingRefused
from gateway.store.octets import PIECE, Joined, Octets, stream_of
from gateway.store.part10 import FileMeta, encode_head, read_head
from gateway.store.spool import Spool

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from gateway.dicom.rawstore import OpenPart10, OutboundObject

IN_MEMORY: Final = 1 << 20
"""Octets of an object that lie in memory before the others go to the disk."""
LONGEST_VALUE: Final = 0xFFFFFFFE
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"
EMPTY_OFFSETS: Final = b"\xfe\xff\x00\xe0\0\0\0\0"
ITEM: Final = b"\xfe\xff\x00\xe0"
PIXEL_TAG: Final = b"\xe0\x7f\x10\x00"
CHANGED: Final = frozenset(
    {
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
    }
)
"""Attributes that say how the pixel values are encoded, not what they are."""


class Transcoder:
    """Writes objects anew; an instance is what `Sender` takes.

    Parameters
    ----------
    bounds
        What a deflated data set may grow to.
    """

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self._bounds = bounds

    @contextmanager
    def __call__(
        self, outbound: OutboundObject, transfer_syntax_uid: str
    ) -> Iterator[OpenPart10]:
        """Write an object in another syntax, for as long as the block lasts.

        Parameters
        ----------
        outbound
            The object, in a syntax of ``offers.LOSSLESS`` or ``offers.LOSSY``.
        transfer_syntax_uid
            One of ``offers.SYNTAXES``.

        Yields
        ------
        Callable
            Opens what was written, a Part 10 file.

        Raises
        ------
        TranscodingRefused
            It would not be the same object, or cannot be read.
        StoreFull
            There is no room for it.
        StoredObjectDamaged
            What is stored is not whole.
        """
        with ExitStack() as stack:
            try:
                with lenient():
                    written = self._written(outbound, UID(transfer_syntax_uid), stack)
            except (InvalidObject, StoredObjectDamaged, TranscodingRefused):
                raise
            except OSError:
                raise
            except Exception as error:
                # Codecs raise whatever they meet in damaged streams.
                raise TranscodingRefused(
                    f"it cannot be written anew: {type(error).__name__}"
                ) from error
            yield written.open

    def _written(
        self, outbound: OutboundObject, target: UID, stack: ExitStack
    ) -> _Written:
        source, syntax = self._source(outbound, stack)
        parts = read_parts(source, syntax)
        written = _Written()
        meta = FileMeta(
            sop_class_uid=outbound.sop_class_uid,
            sop_instance_uid=outbound.sop_instance_uid,
            transfer_syntax_uid=str(target),
        )
        written.write(encode_head(meta))
        digest = _write(parts, target, written.write)
        with written.open() as stream:
            read_head(stream)
            again = read_parts(stream, target)
            _check(parts, again, digest)
        return written

    def _source(
        self, outbound: OutboundObject, stack: ExitStack
    ) -> tuple[BinaryIO, UID]:
        """Open the data set; a deflated one is inflated first."""
        syntax = UID(outbound.transfer_syntax_uid)
        if not callable(outbound.data):
            stream: BinaryIO = BytesIO(outbound.data)
        else:
            stream = stack.enter_context(outbound.data())
            read_head(stream)
        if syntax != DeflatedExplicitVRLittleEndian:
            return stream, syntax
        inflated = _Written()
        _inflate(stream, inflated.write, self._bounds.max_inflated_bytes)
        return stack.enter_context(inflated.open()), ExplicitVRLittleEndian


class _Written:
    """Octets in a spool, which ends with whoever holds this or reads them."""

    def __init__(self) -> None:
        self._spool = Spool(in_memory=IN_MEMORY)
        self._pieces: list[Octets] = []

    def write(self, piece: bytes) -> None:
        self._pieces.append(self._spool.add(piece))

    def open(self) -> BinaryIO:
        return stream_of(Joined(self._pieces))


def _write(parts: Parts, target: UID, write: Callable[[bytes], object]) -> str:
    """Write a data set; return the digest of its pixel values as they were read."""
    if parts.pixels is None:
        if target in COMPRESSED:
            raise TranscodingRefused("there are no pixel data to compress")
        write(_encoded(parts.dataset, target))
        return ""
    digest = hashlib.sha256()
    if target in COMPRESSED:
        _write_compressed(parts, target, write, digest.update)
    elif parts.pixels.length is not None:
        _write_copied(parts, target, write, digest.update)
    else:
        _write_native(parts, target, write, digest.update)
    if parts.after is not None:
        write(_encoded(parts.after, target))
    return digest.hexdigest()


Take = Callable[[bytes], object]


def _write_copied(parts: Parts, target: UID, write: Take, note: Take) -> None:
    """Write uncompressed values as they are; their octets in the other order."""
    pixels = parts.pixels
    assert pixels is not None
    assert pixels.length is not None
    write(_encoded(parts.dataset, target))
    write(_native_header(pixels.vr, pixels.length, target))
    for piece in native_octets(parts, PIECE):
        note(piece)
        write(piece)


def _write_native(parts: Parts, target: UID, write: Take, note: Take) -> None:
    """Write compressed frames decoded."""
    picture = Picture.of(parts.dataset)
    length = picture.frame_octets * picture.frames
    padding = length % 2
    if length + padding > LONGEST_VALUE:
        raise TranscodingRefused("decompressed it is longer than a value may be")
    frames = frames_of(parts, picture)
    first, photometric = next(frames)
    write(_encoded(_relabelled(parts.dataset, picture, photometric), target))
    vr = "OB" if picture.bits_allocated <= 8 else "OW"
    write(_native_header(vr, length + padding, target))
    for frame in _first_and_rest(first, photometric, frames):
        note(frame)
        write(frame)
    write(b"\0" * padding)


def _write_compressed(parts: Parts, target: UID, write: Take, note: Take) -> None:
    """Write frames compressed without loss, one fragment each."""
    picture = Picture.of(parts.dataset)
    frames = frames_of(parts, picture)
    first, photometric = next(frames)
    write(_encoded(_relabelled(parts.dataset, picture, photometric), target))
    write(PIXEL_TAG + b"OB\0\0\xff\xff\xff\xff" + EMPTY_OFFSETS)
    every = _first_and_rest(first, photometric, frames)
    for octets in encoded_frames(every, picture, photometric, target, note):
        padded = octets + b"\0" * (len(octets) % 2)
        write(ITEM + len(padded).to_bytes(4, "little"))
        write(padded)
    write(SEQUENCE_END)


def _first_and_rest(
    first: bytes, photometric: str, rest: Iterator[tuple[bytes, str]]
) -> Iterator[bytes]:
    yield first
    for frame, label in rest:
        if label != photometric:
            raise TranscodingRefused("its frames are of different colour spaces")
        yield frame


def _relabelled(dataset: Dataset, picture: Picture, photometric: str) -> Dataset:
    """Return the attributes with those that say how the values are encoded now."""
    changed = deepcopy(dataset)  # a plain copy shares its elements
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in changed:
            delattr(changed, keyword)
    if photometric != picture.photometric:
        changed.PhotometricInterpretation = photometric
    if picture.samples > 1:
        changed.PlanarConfiguration = 0
    return changed


def _encoded(dataset: Dataset, target: UID) -> bytes:
    stream = BytesIO()
    out = DicomFileLike(stream)
    out.is_implicit_VR = target.is_implicit_VR
    out.is_little_endian = True
    write_dataset(out, dataset)
    return stream.getvalue()


def _native_header(vr: str, length: int, target: UID) -> bytes:
    size = length.to_bytes(4, "little")
    if target.is_implicit_VR:
        return PIXEL_TAG + size
    return PIXEL_TAG + vr.encode() + b"\0\0" + size


def _check(parts: Parts, again: Parts, digest: str) -> None:
    """Refuse what does not read as the same object.

    Raises
    ------
    TranscodingRefused
        A pixel value or an attribute is another.
    """
    same = same_attributes(parts.dataset, again.dataset, CHANGED)
    if not same or not same_attributes(parts.after, again.after):
        raise TranscodingRefused("its attributes would not stay as they are")
    if again.pixels is None:
        return
    found = hashlib.sha256()
    if again.pixels.length is not None and parts.pixels is not None:
        whole = again.pixels.length
        if parts.pixels.length is None:  # decoded: the padding is not a value
            picture = Picture.of(again.dataset)
            whole = picture.frame_octets * picture.frames
        for piece in native_octets(again, PIECE, whole):
            found.update(piece)
    else:
        picture = Picture.of(again.dataset)
        for frame, _ in encapsulated_frames(again, picture):
            found.update(frame)
    if found.hexdigest() != digest:
        raise TranscodingRefused("its pixel values would not stay as they are")


def _inflate(stream: BinaryIO, write: Take, most: int) -> None:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or stream.read(PIECE)
        if not packed:
            raise TranscodingRefused("its deflated data set is cut short")
        piece = unpacker.decompress(packed, PIECE)
        size += len(piece)
        if size > most:
            raise TranscodingRefused(f"its data set grows beyond {most} octets")
        write(piece)
