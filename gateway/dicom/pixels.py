"""The one bridge from DICOM data sets to the engine's frames."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames, parse_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID, RLELossless

from engine.types import Frame, Rendering
from gateway.dicom.codestream import frame_size
from gateway.dicom.image_pixel import GREY, PALETTE, ImagePixel, read_image_pixel
from gateway.dicom.lenient import lenient, text, value
from gateway.dicom.parse import NATIVE, PIXEL_DATA, ParsedObject, parse_object
from gateway.dicom.voi import made_window, window_of
from gateway.errors import Unprotectable
from gateway.vault.layout import PixelLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gateway.dicom.parse import PixelElement

RLE_RATIO: Final = 64
"""A two-octet RLE run makes 128 octets at most (PS3.5 G.3)."""

OFFSET_TABLES: Final = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeValue:
    """Where uncompressed frames lie in the received data set, and how.

    ``start`` and ``end`` (exclusive) bound the whole value, padding included.
    """

    start: int
    end: int
    layout: PixelLayout


@dataclass(frozen=True, kw_only=True)
class Source:
    """A received object as the engine and the derived object need it.

    Attributes
    ----------
    dataset
        The attributes before the pixel data, which it does not hold.
    transfer_syntax_uid
        Of the received object.
    frames
        Every frame; colour frames are RGB whatever the object stores.
    bits_stored, signed
        Of the frames.
    own_window
        Whether every frame is shown with a window of the object itself.
    native
        Where the frames' values lie in the received octets; None when they
        cannot be put back there (compressed, deflated, YBR or palette).
    pixel_bytes
        Octets of the received pixel data value.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    frames: tuple[Frame, ...]
    bits_stored: int
    signed: bool
    own_window: bool
    native: NativeValue | None
    pixel_bytes: int

    @property
    def colour(self) -> bool:
        """Whether the frames are RGB."""
        return self.frames[0].colour


def read_source(
    data_set: bytes, transfer_syntax_uid: str, *, max_frames: int
) -> Source:
    """Frames and attributes of a received data set.

    Sizes are checked against limits and against the octets that are there
    before anything is decoded or allocated.

    Parameters
    ----------
    data_set
        As received, without file meta information.
    transfer_syntax_uid
        How it is encoded.
    max_frames
        Most frames an object may have.

    Raises
    ------
    Unprotectable
        With the stated reason; the message has no patient attribute.
    """
    with lenient():
        parsed = parse_object(data_set, transfer_syntax_uid)
        if parsed.pixels is None:
            raise Unprotectable("no-pixel-data", "the object has no Pixel Data")
        pixel = read_image_pixel(parsed.dataset, max_frames)
        _check_enough(parsed, parsed.pixels, pixel)
        stored = [_as_shown(frame, parsed, pixel) for frame in _decode(parsed, pixel)]
        return _source(parsed, parsed.pixels, pixel, stored)


def read_stored_values(
    data_set: bytes, transfer_syntax_uid: str
) -> tuple[str, list[NDArray[np.int32]]]:
    """SOP Instance UID and stored values of every frame of a protected object.

    Parameters
    ----------
    data_set, transfer_syntax_uid
        As for `read_source`; any lossless syntax gives the same values.

    Raises
    ------
    Unprotectable
        They cannot be read.
    """
    with lenient():
        parsed = parse_object(data_set, transfer_syntax_uid)
        if parsed.pixels is None:
            raise Unprotectable("no-pixel-data", "the object has no Pixel Data")
        pixel = read_image_pixel(parsed.dataset, max_frames=sys.maxsize)
        _check_enough(parsed, parsed.pixels, pixel)
        frames = [_as_shown(frame, parsed, pixel) for frame in _decode(parsed, pixel)]
        return text(parsed.dataset, "SOPInstanceUID"), frames


def _source(
    parsed: ParsedObject,
    element: PixelElement,
    pixel: ImagePixel,
    stored: list[NDArray[np.int32]],
) -> Source:
    bits_stored = _bits_needed(pixel, stored)
    signed = pixel.signed
    low = -(1 << (bits_stored - 1)) if signed else 0
    high = (1 << (bits_stored - signed)) - 1
    renderings, own = _renderings(parsed.dataset, pixel, stored, bits_stored)
    frames = tuple(
        Frame(stored=values, rendering=rendering, minimum=low, maximum=high)
        for values, rendering in zip(stored, renderings, strict=True)
    )
    return Source(
        dataset=parsed.dataset,
        transfer_syntax_uid=parsed.transfer_syntax_uid,
        frames=frames,
        bits_stored=bits_stored,
        signed=signed,
        own_window=own,
        native=_native_value(parsed, element, pixel),
        pixel_bytes=element.end - element.start,
    )


def _bits_needed(pixel: ImagePixel, stored: list[NDArray[np.int32]]) -> int:
    """Bits stored of the frames.

    Palettes become 8-bit RGB. Lossy decoders overshoot what BitsStored
    allows; then all allocated bits count as stored.
    """
    if pixel.photometric == PALETTE:
        return 8
    low = min(int(values.min()) for values in stored)
    high = max(int(values.max()) for values in stored)
    fits = pixel.minimum <= low and high <= pixel.maximum
    return pixel.bits_stored if fits else pixel.bits_allocated


def _renderings(
    dataset: Dataset,
    pixel: ImagePixel,
    stored: list[NDArray[np.int32]],
    bits_stored: int,
) -> tuple[list[Rendering], bool]:
    """How each frame is shown, and whether the object itself says so."""
    if pixel.photometric not in GREY:
        full = Rendering(lo=0.0, hi=float((1 << bits_stored) - 1))
        return [full] * len(stored), True
    inverted = pixel.photometric == "MONOCHROME1"
    own = [window_of(dataset, i, inverted=inverted) for i in range(len(stored))]
    found = [window for window in own if window is not None]
    if len(found) == len(stored):
        return found, True
    made = made_window(
        stored,
        dataset,
        bits_stored=bits_stored,
        signed=pixel.signed,
        inverted=inverted,
    )
    return [made] * len(stored), False


def _native_value(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> NativeValue | None:
    if not parsed.verbatim or parsed.transfer_syntax_uid not in NATIVE:
        return None
    if pixel.photometric not in (*GREY, "RGB"):
        return None
    layout = PixelLayout(
        rows=pixel.rows,
        columns=pixel.columns,
        samples=pixel.samples,
        frames=pixel.frames,
        bits_allocated=pixel.bits_allocated,
        signed=pixel.signed,
        big_endian=not UID(parsed.transfer_syntax_uid).is_little_endian,
        planar=pixel.planar,
    )
    return NativeValue(start=element.start, end=element.end, layout=layout)


def _check_enough(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> None:
    """Refuse when the octets cannot hold what the attributes claim."""
    available = element.end - element.start
    if element.declared is not None and element.declared > available:
        raise Unprotectable(
            "short-pixel-data",
            f"pixel data ends after {available} of {element.declared} octets",
        )
    if parsed.transfer_syntax_uid in NATIVE:
        _check_native(element, pixel, available)
    else:
        _check_encapsulated(parsed, element, pixel)


def _check_native(element: PixelElement, pixel: ImagePixel, available: int) -> None:
    if element.declared is None:
        raise Unprotectable(
            "undecodable", "encapsulated pixel data in an uncompressed syntax"
        )
    expected = pixel.native_frame_bytes * pixel.frames
    if available < expected:
        raise Unprotectable(
            "short-pixel-data",
            f"pixel data has {available} octets where {expected} are declared",
        )


def _check_encapsulated(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> None:
    if element.declared is not None:
        raise Unprotectable("undecodable", "compressed pixel data not encapsulated")
    octets = parsed.body[element.start : element.end]
    try:
        fragments, _ = parse_fragments(octets)
        # One fragment more for the offset table.
        if fragments - 1 < pixel.frames:
            raise Unprotectable(
                "short-pixel-data",
                f"{max(fragments - 1, 0)} fragments for {pixel.frames} frames",
            )
        for stream in generate_frames(octets, number_of_frames=pixel.frames):
            _check_stream(stream, parsed.transfer_syntax_uid, pixel)
    except (ValueError, EOFError, IndexError) as error:
        raise Unprotectable(
            "undecodable", "encapsulation of the pixel data is damaged"
        ) from error


def _check_stream(stream: bytes, transfer_syntax_uid: str, pixel: ImagePixel) -> None:
    if transfer_syntax_uid == RLELossless:
        if pixel.frame_bytes > RLE_RATIO * len(stream):
            raise Unprotectable(
                "short-pixel-data", "RLE frame is too short for its rows and columns"
            )
        return
    size = frame_size(stream)
    if size is not None and size != (pixel.rows, pixel.columns):
        raise Unprotectable(
            "undecodable",
            f"compressed frame of {size[1]}x{size[0]} pixels where "
            f"{pixel.columns}x{pixel.rows} are declared",
        )


def _decode(parsed: ParsedObject, pixel: ImagePixel) -> Iterator[NDArray[np.generic]]:
    """Frames as pydicom decodes them: YBR already RGB, palette still indices."""
    source = _decoder_input(parsed, pixel)
    try:
        decoder = get_decoder(UID(parsed.transfer_syntax_uid))
    except NotImplementedError as error:
        raise Unprotectable(
            "unknown-transfer-syntax",
            f"no decoder for {UID(parsed.transfer_syntax_uid).name}",
        ) from error
    indices = range(pixel.frames)
    try:
        for frame, _ in decoder.iter_array(source, indices=indices):
            yield frame
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Decoders raise whatever they meet in damaged streams; the one of RLE
        # panics, which is no Exception.
        raise Unprotectable(
            "undecodable", f"pixel data cannot be decoded: {type(error).__name__}"
        ) from error


def _decoder_input(parsed: ParsedObject, pixel: ImagePixel) -> Dataset:
    element = parsed.pixels
    assert element is not None
    source = Dataset()
    source.Rows, source.Columns = pixel.rows, pixel.columns
    source.SamplesPerPixel = pixel.samples
    source.PhotometricInterpretation = pixel.photometric
    source.BitsAllocated, source.BitsStored = pixel.bits_allocated, pixel.bits_stored
    source.PixelRepresentation = int(pixel.signed)
    source.PlanarConfiguration = int(pixel.planar)
    source.NumberOfFrames = pixel.frames
    for keyword in OFFSET_TABLES:
        table = value(parsed.dataset, keyword)
        if isinstance(table, bytes):
            setattr(source, keyword, table)
    octets = parsed.body[element.start : element.end]
    source.add_new(PIXEL_DATA, element.vr, octets)
    source["PixelData"].is_undefined_length = element.declared is None
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = UID(parsed.transfer_syntax_uid)
    implicit, little = parsed.dataset.original_encoding
    source.set_original_encoding(implicit, little)
    return source


def _as_shown(
    frame: NDArray[np.generic], parsed: ParsedObject, pixel: ImagePixel
) -> NDArray[np.int32]:
    """Return stored values; palettes are applied and brought to 8 bits."""
    if pixel.photometric == PALETTE:
        frame = _apply_palette(frame, parsed.dataset)
    shape = (pixel.rows, pixel.columns)
    if frame.shape[:2] != shape or frame.ndim not in {2, 3}:
        raise Unprotectable("undecodable", f"decoded frame has shape {frame.shape}")
    return np.ascontiguousarray(frame, dtype=np.int32)


def _apply_palette(indices: NDArray[np.generic], dataset: Dataset) -> NDArray[np.uint8]:
    try:
        colours = apply_color_lut(indices, dataset)
    except Exception as error:
        raise Unprotectable(
            "undecodable", f"palette cannot be applied: {type(error).__name__}"
        ) from error
    if colours.dtype == np.uint16:
        colours = colours >> 8
    return colours[..., :3].astype(np.uint8)
