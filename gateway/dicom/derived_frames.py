"""Multi-frame modules of a protected object: cine, functional groups, planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from gateway.dicom.derived_attributes import (
    decimals,
    frame_time,
    frame_times,
    has_planes,
    orientation_of,
    write_frame_of_reference,
)
from gateway.dicom.derived_pixels import decimal, moved_windows, write_windows
from gateway.dicom.lenient import frame_item, items
from gateway.dicom.repair import copy_attributes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.dicom.derived_pixels import Part, Window
    from gateway.dicom.pixels import Source

FRAME_TIME: Final = Tag("FrameTime")
FRAME_TIMES: Final = Tag("FrameTimeVector")
PAGE_NUMBERS: Final = Tag("PageNumberVector")
MEASURES: Final = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")


def write_multi_frame(
    source: Source, part: Part, target: Dataset, *, frame_of_reference: str
) -> None:
    """Multi-frame, cine and functional group modules.

    Parameters
    ----------
    source, target
        From and to.
    part
        The frames.
    frame_of_reference
        UID to write with positions.
    """
    dataset = source.dataset
    count = len(part.frames)
    target.NumberOfFrames = count
    _write_increments(dataset, target, count)
    windows = [] if source.colour else moved_windows(source, part)
    if windows:
        # Multi-frame Secondary Capture has no modality LUT: windows are in
        # stored units, and the rescale is the identity (PS3.3 C.8.6.3).
        target.PresentationLUTShape = "IDENTITY"
        target.RescaleIntercept, target.RescaleSlope = "0", "1"
        target.RescaleType = "US"
    varying = len(set(windows)) > 1
    if windows and not varying:
        write_windows(windows[0], target)
    planes = has_planes(dataset, count)
    if planes:
        write_frame_of_reference(dataset, target, frame_of_reference)
    if planes or varying:
        target.InstanceNumber = target.InstanceNumber or "1"  # type 1 here
        _write_groups(dataset, target, windows if varying else (), planes=planes)


def _write_increments(source: Dataset, target: Dataset, count: int) -> None:
    """Say what moves from frame to frame: time in a cine, else the number."""
    grouped = items(source, "PerFrameFunctionalGroupsSequence")
    time, times = frame_time(source), frame_times(source, count)
    if time is not None and not grouped:
        target.FrameIncrementPointer = FRAME_TIME
        target.FrameTime = decimal(time)
    elif times and not grouped:
        target.FrameIncrementPointer = FRAME_TIMES
        target.FrameTimeVector = decimals(times)
    else:
        target.FrameIncrementPointer = PAGE_NUMBERS
        target.PageNumberVector = list(range(1, count + 1))


def _write_groups(
    source: Dataset,
    target: Dataset,
    windows: Sequence[tuple[Window, ...]],
    *,
    planes: bool,
) -> None:
    """Functional groups; ``windows`` is empty where all frames share theirs."""
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
        if windows:
            voi = Dataset()
            write_windows(windows[index], voi)
            group.FrameVOILUTSequence = [voi]
        groups.append(group)
    target.PerFrameFunctionalGroupsSequence = groups


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
