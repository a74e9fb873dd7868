"""Pixel attributes of a protected object: parts, class, layout, windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.lenient import frame_item, numbers, text
from gateway.dicom.repair import valid_value
from gateway.dicom.voi import Rescale, rescale_of
from gateway.errors import Unprotectable
from gateway.vault.layout import PixelLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from engine.types import Rendering
    from gateway.dicom.pixels import Source

BYTE: Final = 8
QUANTITATIVE: Final = ("CT", "PT", "NM")
"""Modalities whose rescaled values are quantities without a Rescale Type."""


Window = tuple[str, str]
"""Centre and width as decimal strings."""

Split = Literal["auto", "never", "always"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One protected object of a source.

    ``frames`` are the source's frames that it holds, ``layout`` is how they lie
    in it, ``sop_class_uid`` its class (PS3.3 A.8).
    """

    frames: range
    layout: PixelLayout
    sop_class_uid: str

    @property
    def single(self) -> bool:
        """Whether it is a single-frame object."""
        return len(self.frames) == 1


def plan_parts(source: Source, split: Split) -> tuple[Part, ...]:
    """Protected objects that a source becomes.

    Multi-frame Secondary Capture knows neither rescale nor colour beyond 8 bits.
    Where that would lose HU, or a rescale that varies by frame, or where there
    is no class, each frame becomes an object of its own.

    Parameters
    ----------
    source
        What was received.
    split
        ``never``: always one object; ``always``: grey frames always apart.

    Raises
    ------
    Unprotectable
        ``unsupported-pixels``: several frames of colour beyond 8 bits, and
        `split` is ``never``.
    """
    wide_colour = source.colour and source.bits_stored > BYTE
    if source.count == 1 or split == "never":
        apart = False
    elif source.colour:
        apart = wide_colour
    else:
        apart = split == "always" or _loses_rescale(source)
    if wide_colour and source.count > 1 and not apart:
        raise Unprotectable(
            "unsupported-pixels",
            "no Secondary Capture class holds several frames of 16-bit colour; "
            "protection.split_frames = 'auto' makes an object of each",
        )
    if not apart and len({shown[0].inverted for shown in source.renderings}) > 1:
        raise Unprotectable(
            "unsupported-pixels",
            "low values are black in some frames and white in others; "
            "protection.split_frames = 'auto' makes an object of each",
        )
    step = 1 if apart else source.count
    return tuple(
        _part(source, range(first, first + step))
        for first in range(0, source.count, step)
    )


def _loses_rescale(source: Source) -> bool:
    """Whether the rescale gives quantities that stored values are not, or varies."""
    dataset = source.dataset
    rescales = {rescale_of(dataset, index) for index in range(source.count)}
    if len(rescales) > 1:
        return True
    if None in rescales:
        return False
    modality = text(dataset, "Modality")
    # Rescale Type of CT is not relied on: real objects say US and mean HU.
    told = text(_transformation(dataset, 0), "RescaleType") == "HU"
    if told or modality == "CT":
        # Signed values would be moved to start at 0 even if they are HU.
        return source.signed or rescales != {Rescale()}
    return modality in QUANTITATIVE and rescales != {Rescale()}


def _part(source: Source, frames: range) -> Part:
    """Class and layout of an object of some frames.

    Single frames keep sign and polarity. Several grey frames have to be
    unsigned MONOCHROME2 without a modality LUT: values are moved to start at 0,
    or counted down from the highest where low values show white.
    """
    byte = source.bits_stored <= BYTE
    many_grey = len(frames) > 1 and not source.colour
    mirrored = many_grey and source.renderings[frames.start][0].inverted
    origin = source.maximum if mirrored else source.minimum
    if len(frames) == 1:
        sop_class = SecondaryCaptureImageStorage
    elif source.colour:
        sop_class = MultiFrameTrueColorSecondaryCaptureImageStorage
    elif byte:
        sop_class = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    else:
        sop_class = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    layout = PixelLayout(
        rows=source.shape[0],
        columns=source.shape[1],
        samples=3 if source.colour else 1,
        frames=len(frames),
        bits_allocated=BYTE if byte else 2 * BYTE,
        signed=source.signed and not many_grey,
        origin=origin if many_grey else 0,
        mirrored=mirrored,
    )
    return Part(frames=frames, layout=layout, sop_class_uid=str(sop_class))


def write_pixel_module(source: Source, part: Part, target: Dataset) -> None:
    """Write the image pixel module, without the pixel data (PS3.3 C.7.6.3)."""
    layout = part.layout
    # The multi-frame classes have all bits of a byte stored (PS3.3 C.8.6.3).
    bits_stored = source.bits_stored if part.single else max(BYTE, source.bits_stored)
    target.SamplesPerPixel = layout.samples
    target.PhotometricInterpretation = "RGB" if source.colour else "MONOCHROME2"
    target.Rows = layout.rows
    target.Columns = layout.columns
    target.BitsAllocated = layout.bits_allocated
    target.BitsStored = bits_stored
    target.HighBit = bits_stored - 1
    target.PixelRepresentation = int(layout.signed)
    if source.colour:
        target.PlanarConfiguration = 0


def write_single_window(source: Source, index: int, target: Dataset) -> None:
    """Modality and VOI transformation of one grey frame.

    The source's rescale is kept, and all its windows, as linear ones; where the
    engine used a window that it made, that one is written: viewers show what
    was protected.

    Parameters
    ----------
    source, target
        From and to.
    index
        The source's frame, from 0.
    """
    dataset = source.dataset
    rescale = _kept_rescale(source, index)
    if rescale is not None:
        target.RescaleSlope = decimal(rescale.slope)
        target.RescaleIntercept = decimal(rescale.intercept)
        unknown = "HU" if text(dataset, "Modality") == "CT" else "US"
        group = _transformation(dataset, index)
        target.RescaleType = valid_value(group, "RescaleType") or unknown
    rescale = rescale or Rescale()
    turned = source.renderings[index][0].inverted != (rescale.slope < 0)
    target.PhotometricInterpretation = "MONOCHROME1" if turned else "MONOCHROME2"
    windows = [_rescaled(window, rescale) for window in source.windows[index]]
    write_windows(windows, target)
    if source.own_window:
        voi = frame_item(dataset, index, "FrameVOILUTSequence") or dataset
        _copy_explanations(voi, target, len(windows))


def _kept_rescale(source: Source, index: int) -> Rescale | None:
    """Rescale of a frame that a single-frame object has; None for none.

    Viewers round rescaled values to integers (DCMTK does). Where that shows,
    because a level of a window is less than one rescaled unit, the rescale is
    folded into the windows, unless its unit is told.
    """
    dataset = source.dataset
    rescale = rescale_of(dataset, index)
    group = _transformation(dataset, index)
    if rescale is None or not numbers(group, "RescaleSlope"):
        return None
    whole = rescale.slope.is_integer() and rescale.intercept.is_integer()
    told = text(group, "RescaleType") not in {"", "US"}
    if whole or told or text(dataset, "Modality") in QUANTITATIVE:
        return rescale
    shown = {*source.renderings[index], *source.windows[index]}
    finest = min(window.unit for window in shown) * abs(rescale.slope)
    return rescale if finest >= 1 else None


def _transformation(dataset: Dataset, index: int) -> Dataset:
    """Where the rescale of a frame is written."""
    group = frame_item(dataset, index, "PixelValueTransformationSequence")
    return dataset if group is None else group


def _copy_explanations(voi: Dataset, target: Dataset, count: int) -> None:
    found = valid_value(voi, "WindowCenterWidthExplanation")
    known = found if isinstance(found, list) else [found]
    if len(known) == count and None not in known:
        target.WindowCenterWidthExplanation = found


def _rescaled(window: Rendering, rescale: Rescale) -> Window:
    """Centre and width of a LINEAR window in rescaled units (PS3.3 C.11.2.1.2.1)."""
    ends = [end * rescale.slope + rescale.intercept for end in (window.lo, window.hi)]
    return decimal(sum(ends) / 2 + 0.5), decimal(abs(ends[1] - ends[0]) + 1)


def moved_windows(source: Source, part: Part) -> list[tuple[Window, ...]]:
    """Centres and widths of each frame in the units of a multi-frame object."""
    layout = part.layout
    # Sign and intercept are none; polarity is in the values.
    slope = -1.0 if layout.mirrored else 1.0
    move = Rescale(slope=slope, intercept=-slope * layout.origin)
    return [
        tuple(_rescaled(window, move) for window in source.windows[index])
        for index in part.frames
    ]


def write_windows(windows: Sequence[Window], target: Dataset) -> None:
    """Write windows of one frame, or of all."""
    target.WindowCenter = [centre for centre, _ in windows]
    target.WindowWidth = [width for _, width in windows]


def decimal(number: float) -> str:
    """Write a number as a decimal string, without the noise of binary fractions."""
    return str(format_number_as_ds(float(f"{number:.12g}")))
