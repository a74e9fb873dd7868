"""Frames of an object one by one: as values, and compressed without loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID

from gateway.dicom.lenient import number, text
from gateway.dicom.parse import DEFLATED_FRAMES, inflate
from gateway.errors import TranscodingRefused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from gateway.dicom.transcode_parts import Parts

FRAME_LIMIT: Final = 512 << 20
"""Octets of one frame: it is held in memory."""

SUBSAMPLED: Final = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"})


FULL: Final = {"YBR_FULL_422": "YBR_FULL"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The image pixel module (PS3.3 C.7.6.3), as far as frames need it."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: bool
    frames: int

    @classmethod
    def of(cls, dataset: Dataset) -> Picture:
        """Read it.

        Raises
        ------
        TranscodingRefused
            Something of it is missing, or frames are beyond memory or not of
            whole octets.
        """
        found = cls(
            rows=_whole(dataset, "Rows"),
            columns=_whole(dataset, "Columns"),
            samples=_whole(dataset, "SamplesPerPixel", 1),
            photometric=text(dataset, "PhotometricInterpretation"),
            bits_allocated=_whole(dataset, "BitsAllocated"),
            bits_stored=_whole(dataset, "BitsStored"),
            signed=_whole(dataset, "PixelRepresentation", 0) == 1,
            planar=_whole(dataset, "PlanarConfiguration", 0) == 1,
            frames=_whole(dataset, "NumberOfFrames", 1) or 1,
        )
        if found.bits_allocated not in {8, 16, 32} or found.samples not in {1, 3}:
            raise TranscodingRefused("pixels of this kind are not written anew")
        if not 0 < found.frame_octets <= FRAME_LIMIT:
            raise TranscodingRefused(f"its frames are above {FRAME_LIMIT} octets")
        return found

    @property
    def frame_octets(self) -> int:
        """Octets of a frame, uncompressed, all samples of each pixel."""
        return self.rows * self.columns * self.samples * (self.bits_allocated // 8)

    def options(self, photometric: str) -> dict[str, Any]:
        """Return what pydicom's codecs ask for, of one frame."""
        options: dict[str, Any] = {
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": self.samples,
            "photometric_interpretation": photometric,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "number_of_frames": 1,
        }
        if self.samples > 1:
            options["planar_configuration"] = 0
        return options


def frames_of(parts: Parts, picture: Picture) -> Iterator[tuple[bytes, str]]:
    """Yield frames as values, little endian, colour by pixel, and their label.

    Raises
    ------
    TranscodingRefused
        There are fewer than declared, or one does not decode.
    """
    assert parts.pixels is not None
    if parts.pixels.length is None:
        return encapsulated_frames(parts, picture)
    return _uncompressed_frames(parts, picture)


def native_octets(
    parts: Parts, piece: int, length: int | None = None
) -> Iterator[bytes]:
    """Yield an uncompressed value in pieces, little endian.

    Parameters
    ----------
    parts
        Of a data set with uncompressed pixel data.
    piece
        Octets of a piece; even.
    length
        Only so many octets; None: all.
    """
    pixels = parts.pixels
    assert pixels is not None
    assert pixels.length is not None
    swapped = not parts.little and pixels.vr == "OW"
    if swapped and number(parts.dataset, "BitsAllocated") not in {8, 16}:
        raise TranscodingRefused("big endian pixels of this kind are not written anew")
    parts.stream.seek(pixels.start)
    left = pixels.length if length is None else length
    while left:
        octets = parts.stream.read(min(piece, left))
        if not octets:
            raise TranscodingRefused("its pixel data are cut short")
        left -= len(octets)
        yield (
            np.frombuffer(octets, ">u2").astype("<u2").tobytes() if swapped else octets
        )


def encapsulated_frames(parts: Parts, picture: Picture) -> Iterator[tuple[bytes, str]]:
    """Yield decoded frames of encapsulated pixel data, and their label."""
    pixels = parts.pixels
    assert pixels is not None
    parts.stream.seek(pixels.start)
    found = generate_frames(
        parts.stream,
        number_of_frames=picture.frames,
        extended_offsets=_extended_offsets(parts.dataset),
    )
    count = 0
    for count, stream in enumerate(found, 1):
        if count > picture.frames:
            raise TranscodingRefused("it has more frames than declared")
        yield _decoded(stream, picture, parts.syntax)
    if count < picture.frames:
        raise TranscodingRefused("it has fewer frames than declared")


def encoded_frames(
    frames: Iterator[bytes],
    picture: Picture,
    photometric: str,
    target: UID,
    note: Callable[[bytes], object],
) -> Iterator[bytes]:
    """Yield frames compressed without loss; each is noted as it was."""
    encoder = get_encoder(target)
    options = picture.options(photometric)
    for frame in frames:
        note(frame)
        yield encoder.encode(frame, index=None, **options)


def _uncompressed_frames(parts: Parts, picture: Picture) -> Iterator[tuple[bytes, str]]:
    pixels = parts.pixels
    assert pixels is not None
    assert pixels.length is not None
    if picture.photometric in SUBSAMPLED:
        raise TranscodingRefused("subsampled colour is not compressed")
    if pixels.length < picture.frame_octets * picture.frames:
        raise TranscodingRefused("its pixel data are shorter than declared")
    whole = picture.frame_octets * picture.frames
    buffered = bytearray()
    left = picture.frames
    for piece in native_octets(parts, max(2, min(1 << 20, whole + whole % 2))):
        buffered += piece
        while left and len(buffered) >= picture.frame_octets:
            frame = bytes(buffered[: picture.frame_octets])
            del buffered[: picture.frame_octets]
            left -= 1
            yield _by_pixel(frame, picture), picture.photometric


def _by_pixel(frame: bytes, picture: Picture) -> bytes:
    """Put colour planes together, pixel by pixel."""
    if picture.samples == 1 or not picture.planar:
        return frame
    kind = f"<u{picture.bits_allocated // 8}"
    planes = np.frombuffer(frame, kind).reshape(picture.samples, -1)
    return bytes(planes.T.tobytes())


def _decoded(stream: bytes, picture: Picture, syntax: UID) -> tuple[bytes, str]:
    if syntax == DEFLATED_FRAMES:
        octets = inflate(stream, picture.frame_octets + 2)[: picture.frame_octets]
        return _whole_frame(_by_pixel(octets, picture), picture), picture.photometric
    options = picture.options(picture.photometric)
    if picture.samples > 1:
        options["planar_configuration"] = int(picture.planar)
    octets = encapsulate([stream], has_bot=False)
    try:
        array, found = get_decoder(syntax).as_array(
            octets, index=0, raw=True, **options
        )
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the decoder of RLE panics, which is no Exception
        raise TranscodingRefused(
            f"a frame cannot be decoded: {type(error).__name__}"
        ) from error
    frame = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    label = str(found["photometric_interpretation"])
    # A decoder gives every pixel its three samples.
    return _whole_frame(frame, picture), FULL.get(label, label)


def _whole_frame(frame: bytes, picture: Picture) -> bytes:
    if len(frame) != picture.frame_octets:
        raise TranscodingRefused("a frame is not of the size that is declared")
    return frame


def _extended_offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    offsets = dataset.get("ExtendedOffsetTable")
    lengths = dataset.get("ExtendedOffsetTableLengths")
    return (offsets, lengths) if offsets and lengths else None


def _whole(dataset: Dataset, keyword: str, missing: int | None = None) -> int:
    found = number(dataset, keyword)
    if found is None:
        if missing is None:
            raise TranscodingRefused(f"{keyword} is missing")
        return missing
    return int(found)
