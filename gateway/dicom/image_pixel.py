"""The image pixel module of a data set, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydicom.uid import (
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from engine.types import MIN_SIDE
from gateway.dicom.lenient import number, text, value
from gateway.errors import Unprotectable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LABEL_MAP_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.7"
GREY: Final = ("MONOCHROME1", "MONOCHROME2")
PALETTE: Final = "PALETTE COLOR"
COLOUR: Final = (
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
)
BITS_ALLOCATED: Final = (8, 16)
OneBit = Literal["hold", "convert"]

NOT_PICTURES: Final = frozenset(
    (
        SegmentationStorage,
        LABEL_MAP_STORAGE,
        ParametricMapStorage,
        RTDoseStorage,
    )
)
"""Classes whose pixel data are labels or quantities, not pictures."""

IDENTIFIERS: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
)
MANDATORY: Final = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)

FRAME_LIMIT: Final = 512 << 20
OBJECT_LIMIT: Final = 0xFFFFFFFE
"""Largest decoded frame and object in octets: no uncompressed value holds more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePixel:
    """What the image pixel module declares (PS3.3 C.7.6.3); all of it checked.

    ``frames`` is the number of frames, ``signed`` the pixel representation,
    ``shift`` how many bits lie below the stored ones (PS3.5 8.1.1).
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: bool
    frames: int
    shift: int = 0

    @property
    def one_bit(self) -> bool:
        """Whether the image is a bitmap."""
        return self.bits_stored == 1

    @property
    def frame_bytes(self) -> int:
        """Octets of one decoded frame."""
        octets = max(1, self.bits_allocated // 8)
        return self.rows * self.columns * self.samples * octets

    @property
    def native_frame_bytes(self) -> int:
        """Octets of one frame in an uncompressed syntax (PS3.3 C.7.6.3.1.2)."""
        if self.photometric == "YBR_FULL_422":
            return self.frame_bytes // 3 * 2
        return self.frame_bytes

    @property
    def native_bytes(self) -> int:
        """Octets of all frames in an uncompressed syntax; bitmaps are packed."""
        if self.bits_allocated == 1:
            return (self.rows * self.columns * self.frames + 7) // 8
        return self.native_frame_bytes * self.frames

    @property
    def minimum(self) -> int:
        """Smallest value the stored bits hold."""
        return -(1 << (self.bits_stored - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest value the stored bits hold."""
        return (1 << (self.bits_stored - self.signed)) - 1


def read_image_pixel(
    dataset: Dataset, max_frames: int, one_bit: OneBit = "hold"
) -> ImagePixel:
    """Check and return the image pixel module.

    Nothing is allocated: sizes are compared as numbers.

    Parameters
    ----------
    dataset
        Everything before the pixel data.
    max_frames
        Most frames an object may have.
    one_bit
        Whether bitmaps are held, or read to be converted to 8 bits.

    Raises
    ------
    Unprotectable
        With the reason that is stated for each kind of object.
    """
    _check_identified(dataset)
    _check_kind(dataset)
    _check_mandatory(dataset)
    bits_stored = _integer(dataset, "BitsStored")
    pixel = ImagePixel(
        rows=_integer(dataset, "Rows"),
        columns=_integer(dataset, "Columns"),
        samples=_integer(dataset, "SamplesPerPixel"),
        photometric=text(dataset, "PhotometricInterpretation"),
        bits_allocated=_integer(dataset, "BitsAllocated"),
        bits_stored=bits_stored,
        signed=_integer(dataset, "PixelRepresentation") == 1 and bits_stored > 1,
        planar=number(dataset, "PlanarConfiguration") == 1,
        frames=_frame_count(dataset),
        shift=_high_bit(dataset, bits_stored) - (bits_stored - 1),
    )
    _check_samples(pixel)
    _check_bits(pixel, one_bit)
    _check_size(pixel, max_frames)
    return pixel


def _check_identified(dataset: Dataset) -> None:
    for keyword in IDENTIFIERS:
        if not text(dataset, keyword):
            raise Unprotectable("missing-attribute", f"{keyword} is missing or empty")


def _check_mandatory(dataset: Dataset) -> None:
    for keyword in MANDATORY:
        if value(dataset, keyword) is None:
            raise Unprotectable("missing-attribute", f"{keyword} is missing or empty")


def _check_kind(dataset: Dataset) -> None:
    sop_class = text(dataset, "SOPClassUID")
    if sop_class in NOT_PICTURES:
        raise Unprotectable(
            "unsupported-pixels",
            "segmentations, parametric maps and dose grids are not pictures",
        )
    intent = text(dataset, "PresentationIntentType").upper()
    name = getattr(dataset.get("SOPClassUID"), "name", "")
    if intent == "FOR PROCESSING" or name.endswith("For Processing"):
        raise Unprotectable(
            "unsupported-pixels",
            "For Processing pixels are not shown as they are; "
            "protect the For Presentation object made from them",
        )


def _integer(dataset: Dataset, keyword: str) -> int:
    found = number(dataset, keyword)
    if found is None or found != int(found) or found < 0:
        raise Unprotectable("missing-attribute", f"{keyword} is not a valid number")
    return int(found)


def _frame_count(dataset: Dataset) -> int:
    if value(dataset, "NumberOfFrames") is None:
        return 1
    return max(1, _integer(dataset, "NumberOfFrames"))


def _check_samples(pixel: ImagePixel) -> None:
    expected = 1 if pixel.photometric in (*GREY, PALETTE) else 3
    if pixel.photometric not in (*GREY, PALETTE, *COLOUR):
        problem = "photometric interpretation is none of grey, palette, RGB or YBR"
    elif pixel.samples != expected:
        problem = f"{pixel.samples} samples per pixel do not fit {pixel.photometric}"
    elif pixel.signed and pixel.samples == 3:
        problem = "signed colour samples"
    else:
        return
    raise Unprotectable("unsupported-pixels", problem)


def _check_bits(pixel: ImagePixel, one_bit: OneBit) -> None:
    bitmap = pixel.one_bit and pixel.photometric in GREY and not pixel.shift
    if bitmap and one_bit == "hold":
        problem = "a bitmap of 1 bit; protection.one_bit = 'convert' marks it in 8 bits"
    elif pixel.bits_allocated not in (*BITS_ALLOCATED, *((1,) if bitmap else ())):
        problem = f"{pixel.bits_allocated} bits allocated; 8 and 16 can be marked"
    elif not (2 - bitmap) <= pixel.bits_stored <= pixel.bits_allocated:
        problem = f"{pixel.bits_stored} bits stored of {pixel.bits_allocated}"
    elif not 0 <= pixel.shift <= pixel.bits_allocated - pixel.bits_stored:
        problem = f"the high bit leaves no place for {pixel.bits_stored} bits stored"
    elif pixel.shift and pixel.photometric not in GREY:
        problem = "left-aligned colour samples"
    else:
        return
    raise Unprotectable("unsupported-pixels", problem)


def _high_bit(dataset: Dataset, bits_stored: int) -> int:
    found = number(dataset, "HighBit")
    return bits_stored - 1 if found is None else int(found)


def _check_size(pixel: ImagePixel, max_frames: int) -> None:
    size = f"{pixel.columns}x{pixel.rows}"
    if min(pixel.rows, pixel.columns) < MIN_SIDE:
        raise Unprotectable(
            "too-small", f"frame of {size} pixels; at least {MIN_SIDE}x{MIN_SIDE}"
        )
    if pixel.frames > max_frames:
        raise Unprotectable(
            "too-many-frames",
            f"{pixel.frames} frames; protection.max_frames is {max_frames}",
        )
    octets = pixel.frame_bytes
    if octets > FRAME_LIMIT or octets * pixel.frames > OBJECT_LIMIT:
        raise Unprotectable(
            "unsupported-pixels",
            f"{pixel.frames} frames of {size} pixels would take "
            f"{octets * pixel.frames} octets; the limit is {OBJECT_LIMIT}",
        )
