"""Frames of a data set, each decoded when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from gateway.dicom.codestream import frame_size
from gateway.dicom.encapsulated import FrameIndex, index_frames
from gateway.dicom.image_pixel import GREY, PALETTE
from gateway.dicom.lenient import lenient
from gateway.dicom.parse import DEFLATED_FRAMES, NATIVE, inflate
from gateway.dicom.tables import apply_palette
from gateway.errors import Unprotectable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.dicom.image_pixel import ImagePixel
    from gateway.dicom.parse import ParsedObject, PixelElement

RLE_RATIO: Final = 64
"""A two-octet RLE run makes 128 octets at most (PS3.5 G.3)."""

DEFLATED_PADDING: Final = 2
"""Octets that a deflated frame may have beyond its pixels."""

COMPRESSED_RATIO: Final = 2
COMPRESSED_BASE: Final = 16 << 20
"""A compressed frame has no more than twice the octets of its pixels, and 16 MiB."""

ONE_BIT_LEVELS: Final = 255
"""What a set bit becomes where bitmaps are converted to 8 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameDecoder:
    """Decodes single frames; holds nothing but the received octets.

    Attributes
    ----------
    parsed, element, pixel
        The data set, its pixel data and its image pixel module, checked.
    index
        Where compressed frames lie; None for an uncompressed syntax.
    """

    parsed: ParsedObject
    element: PixelElement
    pixel: ImagePixel
    index: FrameIndex | None

    @property
    def uncompressed(self) -> bool:
        """Whether values cannot exceed what BitsStored allows, nor fail to decode."""
        return self.index is None

    def decode(self, index: int) -> NDArray[np.int32]:
        """Decode one frame: YBR and palette become RGB, bitmaps 0 and 255.

        Parameters
        ----------
        index
            Frame, from 0.

        Returns
        -------
        NDArray[np.int32]
            ``(rows, columns)`` or ``(rows, columns, 3)``.

        Raises
        ------
        Unprotectable
            ``undecodable``.
        """
        with lenient():
            if self.pixel.one_bit:
                frame = self._bitmap(index)
            elif self.pixel.shift:
                frame = self._aligned(index)
            else:
                frame = self._decoded(index)
            if self.pixel.photometric == PALETTE:
                frame = apply_palette(
                    frame, self.parsed.dataset, little=self.parsed.little
                )
        grey = self.pixel.photometric in GREY
        shape = (self.pixel.rows, self.pixel.columns, *(() if grey else (3,)))
        if frame.shape != shape:
            raise Unprotectable("undecodable", f"decoded frame has shape {frame.shape}")
        return np.ascontiguousarray(frame, dtype=np.int32)

    @property
    def holds_all_bits(self) -> bool:
        """Whether bits beside the stored ones can be read: grey, not JPEG."""
        if self.pixel.samples > 1 or self.pixel.one_bit:
            return False
        return self.index is None or self._syntax == RLELossless

    def allocated_bits(self, index: int) -> NDArray[np.int32]:
        """All allocated bits of one grey frame, unsigned; see `holds_all_bits`."""
        with lenient():
            return self._decoded(index, all_bits=True).astype(np.int32)

    @property
    def _syntax(self) -> UID:
        return UID(self.parsed.transfer_syntax_uid)

    def _decoded(self, index: int, *, all_bits: bool = False) -> NDArray[np.generic]:
        """Frame as pydicom decodes it: YBR already RGB, palette still indices."""
        syntax, octets, frames, at = self._input(index)
        pixel = self.pixel
        # pydicom takes these as keywords of any type, and annotates otherwise.
        options: dict[str, Any] = {
            "rows": pixel.rows,
            "columns": pixel.columns,
            "samples_per_pixel": pixel.samples,
            "photometric_interpretation": pixel.photometric,
            "bits_allocated": pixel.bits_allocated,
            "bits_stored": pixel.bits_allocated if all_bits else pixel.bits_stored,
            "pixel_representation": 0 if all_bits else int(pixel.signed),
            "planar_configuration": int(pixel.planar),
            "number_of_frames": frames,
            "pixel_keyword": "PixelData",
            "pixel_vr": self.element.vr,
        }
        try:
            frame, _ = get_decoder(syntax).as_array(octets, index=at, **options)
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Decoders raise whatever they meet in damaged streams; the one of
            # RLE panics, which is no Exception.
            raise Unprotectable(
                "undecodable", f"pixel data cannot be decoded: {type(error).__name__}"
            ) from error
        return frame

    def _input(self, index: int) -> tuple[UID, bytes, int, int]:
        """Syntax, octets, frames in them, and which of these is the frame."""
        if self.index is None:
            return self._syntax, self._native(index), 1, 0
        stream = self.index.stream(index)
        if self._syntax == DEFLATED_FRAMES:
            return ExplicitVRLittleEndian, self._inflated(stream), 1, 0
        return self._syntax, encapsulate([stream], has_bot=False), 1, 0

    def _native(self, index: int) -> bytes:
        """Octets of one uncompressed frame."""
        size = self.pixel.native_frame_bytes
        start = self.element.start + index * size
        return self.parsed.body[start : start + size]

    def _inflated(self, stream: bytes) -> bytes:
        octets = inflate(stream, self.pixel.native_frame_bytes + DEFLATED_PADDING)
        if len(octets) < self.pixel.native_frame_bytes:
            raise Unprotectable(
                "short-pixel-data", "a deflated frame is too short for its attributes"
            )
        return octets

    def _aligned(self, index: int) -> NDArray[np.generic]:
        """Move stored values down to the lowest bits (HighBit)."""
        pixel = self.pixel
        every = self.allocated_bits(index)
        values = every >> pixel.shift & (1 << pixel.bits_stored) - 1
        if pixel.signed:
            values -= (values >> pixel.bits_stored - 1) << pixel.bits_stored
        return values

    def _bitmap(self, index: int) -> NDArray[np.generic]:
        pixel = self.pixel
        if pixel.bits_allocated > 1:
            return self._decoded(index).astype(np.int32) * ONE_BIT_LEVELS
        size = pixel.rows * pixel.columns
        first = index * size
        start = self.element.start + first // 8
        end = start + (first % 8 + size + 7) // 8
        octets = np.frombuffer(self.parsed.body[start:end], np.uint8)
        bits = np.unpackbits(octets, bitorder="little")[first % 8 :][:size]
        frame: NDArray[np.int32] = bits.reshape(pixel.rows, pixel.columns) * np.int32(
            ONE_BIT_LEVELS
        )
        return frame


def open_frames(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> FrameDecoder:
    """Check that octets are there for every frame, and find them.

    Raises
    ------
    Unprotectable
        ``short-pixel-data``, ``undecodable``, ``unsupported-pixels`` or
        ``unknown-transfer-syntax``; nothing was decoded.
    """
    available = element.end - element.start
    if element.declared is not None and element.declared > available:
        raise Unprotectable(
            "short-pixel-data",
            f"pixel data ends after {available} of {element.declared} octets",
        )
    index = None
    if parsed.transfer_syntax_uid in NATIVE:
        _check_native(parsed, element, pixel)
    else:
        index = _index(parsed, element, pixel)
    return FrameDecoder(parsed=parsed, element=element, pixel=pixel, index=index)


def _check_native(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> None:
    if element.declared is None:
        raise Unprotectable(
            "undecodable", "encapsulated pixel data in an uncompressed syntax"
        )
    available, expected = element.end - element.start, pixel.native_bytes
    if available < expected:
        raise Unprotectable(
            "short-pixel-data",
            f"pixel data has {available} octets where {expected} are declared",
        )
    if (
        pixel.bits_allocated == 1
        and not UID(parsed.transfer_syntax_uid).is_little_endian
    ):
        raise Unprotectable(
            "unsupported-pixels", "bitmaps in big endian words cannot be marked"
        )


def _index(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> FrameIndex:
    if element.declared is not None:
        raise Unprotectable("undecodable", "compressed pixel data not encapsulated")
    syntax = UID(parsed.transfer_syntax_uid)
    _check_decodes(syntax, pixel)
    index = index_frames(parsed, element, pixel.frames)
    longest = COMPRESSED_RATIO * pixel.frame_bytes + COMPRESSED_BASE
    for number in range(pixel.frames):
        if index.size(number) > longest:
            raise Unprotectable(
                "undecodable", f"compressed frame of {index.size(number)} octets"
            )
        _check_stream(index.stream(number), syntax, pixel)
    return index


def _check_decodes(syntax: UID, pixel: ImagePixel) -> None:
    if syntax != DEFLATED_FRAMES:
        try:
            get_decoder(syntax)
        except NotImplementedError as error:
            raise Unprotectable(
                "unknown-transfer-syntax", f"no decoder for {syntax.name}"
            ) from error
    if pixel.bits_allocated == 1:
        raise Unprotectable("unsupported-pixels", "compressed bitmaps are not marked")
    if pixel.shift and syntax not in {RLELossless, DEFLATED_FRAMES}:
        raise Unprotectable(
            "unsupported-pixels",
            "the high bit is not the one below BitsStored in a compressed stream",
        )


def _check_stream(stream: bytes, syntax: UID, pixel: ImagePixel) -> None:
    if syntax == RLELossless:
        if pixel.frame_bytes > RLE_RATIO * len(stream):
            raise Unprotectable(
                "short-pixel-data", "RLE frame is too short for its rows and columns"
            )
        return
    if syntax == DEFLATED_FRAMES:
        return
    size = frame_size(stream)
    if size is None:
        raise Unprotectable("undecodable", "compressed frame without a size of its own")
    if (size.samples or 0) > pixel.samples:
        raise Unprotectable(
            "undecodable",
            f"compressed frame of {size.samples} samples where {pixel.samples} are"
            " declared",
        )
    if size[:2] != (pixel.rows, pixel.columns):
        raise Unprotectable(
            "undecodable",
            f"compressed frame of {size.columns}x{size.rows} pixels where "
            f"{pixel.columns}x{pixel.rows} are declared",
        )
