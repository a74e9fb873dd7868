"""Pixel attributes of a protected object: class, layout, window, functional groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.derived_attributes import (
    decimals,
    frame_time,
    has_planes,
    orientation_of,
    write_frame_of_reference,
)
from gateway.dicom.lenient import frame_item, items, numbers, text
from gateway.dicom.repair import copy_attributes, valid_value
from gateway.dicom.voi import rescale_of
from gateway.errors import Unprotectable
from gateway.vault.layout import PixelLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.types import Rendering
    from gateway.dicom.pixels import Source

BYTE: Final = 8
FRAME_TIME: Final = Tag("FrameTime")
PAGE_NUMBERS: Final = Tag("PageNumberVector")


def secondary_capture_class(source: Source) -> str:
    """SOP class of the protected object (PS3.3 A.8).

    Raises
    ------
    Unprotectable
        ``unsupported-pixels``: no class holds several frames of colour beyond
        8 bits.
    """
    if len(source.frames) == 1:
        return str(SecondaryCaptureImageStorage)
    if source.colour and source.bits_stored > BYTE:
        raise Unprotectable(
            "unsupported-pixels",
            "no Secondary Capture class holds several frames of 16-bit colour",
        )
    if source.colour:
        return str(MultiFrameTrueColorSecondaryCaptureImageStorage)
    if source.bits_stored <= BYTE:
        return str(MultiFrameGrayscaleByteSecondaryCaptureImageStorage)
    return str(MultiFrameGrayscaleWordSecondaryCaptureImageStorage)


def protected_layout(source: Source) -> PixelLayout:
    """How the marked frames lie in the protected object.

    Single frames keep sign and polarity. Several grey frames have to be
    unsigned MONOCHROME2 without a modality LUT: values are moved to start at 0,
    or counted down from the highest where low values show white.
    """
    frame = source.frames[0]
    shape = frame.stored.shape
    many_grey = len(source.frames) > 1 and not source.colour
    mirrored = many_grey and frame.rendering.inverted
    origin = frame.maximum if mirrored else frame.minimum
    return PixelLayout(
        rows=shape[0],
        columns=shape[1],
        samples=3 if source.colour else 1,
        frames=len(source.frames),
        bits_allocated=BYTE if source.bits_stored <= BYTE else 2 * BYTE,
        signed=source.signed and not many_grey,
        origin=origin if many_grey else 0,
        mirrored=mirrored,
    )


def write_pixel_module(source: Source, target: Dataset, layout: PixelLayout) -> None:
    """Write the image pixel module, without the pixel data (PS3.3 C.7.6.3)."""
    target.SamplesPerPixel = layout.samples
    target.PhotometricInterpretation = _photometric(source, layout)
    target.Rows = layout.rows
    target.Columns = layout.columns
    target.BitsAllocated = layout.bits_allocated
    target.BitsStored = source.bits_stored
    target.HighBit = source.bits_stored - 1
    target.PixelRepresentation = int(layout.signed)
    if source.colour:
        target.PlanarConfiguration = 0


def write_single_window(source: Source, target: Dataset) -> None:
    """Modality and VOI transformation of a single grey frame.

    The source's own are kept. Where the engine used a window that it made,
    that one is written, so that viewers show what was protected.
    """
    dataset = source.dataset
    rescale = rescale_of(dataset, 0)
    group = frame_item(dataset, 0, "PixelValueTransformationSequence") or dataset
    slope, intercept = 1.0, 0.0
    if rescale is not None and numbers(group, "RescaleSlope"):
        slope, intercept = rescale.slope, rescale.intercept
        target.RescaleSlope = _decimal(slope)
        target.RescaleIntercept = _decimal(intercept)
        unknown = "HU" if text(dataset, "Modality") == "CT" else "US"
        target.RescaleType = valid_value(group, "RescaleType") or unknown
    voi = frame_item(dataset, 0, "FrameVOILUTSequence") or dataset
    if source.own_window:
        _copy_windows(voi, target)
    else:
        _write_window(source.frames[0].rendering, target, slope, intercept)


def write_multi_frame(
    source: Source, target: Dataset, layout: PixelLayout, *, frame_of_reference: str
) -> None:
    """Multi-frame, cine and functional group modules.

    Parameters
    ----------
    source, target
        From and to.
    layout
        Of the protected frames.
    frame_of_reference
        UID for positions that the source gives no frame of reference.
    """
    dataset = source.dataset
    target.NumberOfFrames = layout.frames
    time = frame_time(dataset)
    if time is not None and not items(dataset, "PerFrameFunctionalGroupsSequence"):
        target.FrameIncrementPointer = FRAME_TIME
        target.FrameTime = _decimal(time)
    else:
        target.FrameIncrementPointer = PAGE_NUMBERS
        target.PageNumberVector = list(range(1, layout.frames + 1))
    windows = [] if source.colour else _moved_windows(source, layout)
    if windows:
        # Multi-frame Secondary Capture has no modality LUT: windows are in
        # stored units, and the rescale is the identity (PS3.3 C.8.6.3).
        target.PresentationLUTShape = "IDENTITY"
        target.RescaleIntercept, target.RescaleSlope = "0", "1"
        target.RescaleType = "US"
        target.WindowCenter, target.WindowWidth = windows[0]
    planes = has_planes(dataset, layout.frames)
    if planes:
        write_frame_of_reference(dataset, target, frame_of_reference)
    if planes or len(set(windows)) > 1:
        target.InstanceNumber = target.InstanceNumber or "1"  # type 1 here
        _write_functional_groups(dataset, target, windows, planes=planes)


def _write_functional_groups(
    source: Dataset,
    target: Dataset,
    windows: Sequence[tuple[str, str]],
    *,
    planes: bool,
) -> None:
    shared = Dataset()
    if planes:
        measures = _group(source, 0, "PixelMeasuresSequence", MEASURES)
        if measures is not None:
            shared.PixelMeasuresSequence = [measures]
    target.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in range(target.NumberOfFrames):
        group = Dataset()
        if planes:
            _write_plane(source, group, index)
        if len(set(windows)) > 1:
            voi = Dataset()
            voi.WindowCenter, voi.WindowWidth = windows[index]
            group.FrameVOILUTSequence = [voi]
        groups.append(group)
    target.PerFrameFunctionalGroupsSequence = groups
    if len(set(windows)) > 1:
        del target.WindowCenter
        del target.WindowWidth


MEASURES: Final = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")


def _write_plane(source: Dataset, group: Dataset, index: int) -> None:
    position = _group(source, index, "PlanePositionSequence", ("ImagePositionPatient",))
    found = frame_item(source, index, "PlaneOrientationSequence")
    cosines = None if found is None else orientation_of(found)
    orientation = Dataset()
    orientation.ImageOrientationPatient = decimals(cosines or ())
    group.PlanePositionSequence = [position]
    group.PlaneOrientationSequence = [orientation]


def _group(
    source: Dataset, index: int, keyword: str, attributes: tuple[str, ...]
) -> Dataset | None:
    found = frame_item(source, index, keyword)
    if found is None:
        return None
    copied = Dataset()
    copy_attributes(found, copied, attributes)
    return copied if len(copied) else None


def _moved_windows(source: Source, layout: PixelLayout) -> list[tuple[str, str]]:
    """Centre and width of each frame in the units of the protected object."""
    return [_moved_window(frame.rendering, layout) for frame in source.frames]


def _moved_window(rendering: Rendering, layout: PixelLayout) -> tuple[str, str]:
    ends = (rendering.lo - layout.origin, rendering.hi - layout.origin)
    middle = (ends[0] + ends[1]) / 2
    centre = -middle if layout.mirrored else middle
    return _decimal(centre + 0.5), _decimal(ends[1] - ends[0] + 1)


def _copy_windows(voi: Dataset, target: Dataset) -> None:
    centres, widths = numbers(voi, "WindowCenter"), numbers(voi, "WindowWidth")
    pairs = list(zip(centres, widths, strict=False))
    target.WindowCenter = [_decimal(centre) for centre, _ in pairs]
    target.WindowWidth = [_decimal(width) for _, width in pairs]
    explanations = valid_value(voi, "WindowCenterWidthExplanation")
    known = explanations if isinstance(explanations, list) else [explanations]
    if len(known) == len(pairs) and None not in known:
        target.WindowCenterWidthExplanation = explanations
    if text(voi, "VOILUTFunction") == "LINEAR_EXACT":
        target.VOILUTFunction = "LINEAR_EXACT"


def _write_window(
    rendering: Rendering, target: Dataset, slope: float, intercept: float
) -> None:
    ends = (rendering.lo * slope + intercept, rendering.hi * slope + intercept)
    target.WindowCenter = _decimal((ends[0] + ends[1]) / 2 + 0.5)
    target.WindowWidth = _decimal(abs(ends[1] - ends[0]) + 1)


def _photometric(source: Source, layout: PixelLayout) -> str:
    if source.colour:
        return "RGB"
    given = text(source.dataset, "PhotometricInterpretation")
    return given if layout.frames == 1 else "MONOCHROME2"


def _decimal(number: float) -> str:
    return str(format_number_as_ds(float(number)))
