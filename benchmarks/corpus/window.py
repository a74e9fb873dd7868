"""The windows a protected object asks a viewer to use, read with pydicom alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from engine.types import Rendering

LINEAR: Final = "LINEAR"
LINEAR_EXACT: Final = "LINEAR_EXACT"


@dataclass(frozen=True, kw_only=True)
class StoredWindow:
    """One window of an object (PS3.3 C.11.2.1.2).

    Attributes
    ----------
    number
        Its place in the data set, from 1; 0 in a functional group.
    center, width
        In rescaled units.
    function
        VOI LUT Function.
    """

    number: int
    center: float
    width: float
    function: str = LINEAR

    @property
    def linear(self) -> tuple[float, float] | None:
        """Centre and width of the same map as a LINEAR one; None for a sigmoid.

        LINEAR spans c - 0.5 ∓ (w - 1)/2, LINEAR_EXACT c ∓ w/2.
        """
        if self.function == LINEAR:
            return self.center, self.width
        if self.function == LINEAR_EXACT:
            return self.center + 0.5, self.width + 1.0
        return None


def windows_of(dataset: Dataset, frame: int) -> list[StoredWindow]:
    """Return the windows of one frame: its functional group's, or the data set's.

    Parameters
    ----------
    dataset
        A protected object.
    frame
        From 0.
    """
    group = _group(dataset, frame, "FrameVOILUTSequence")
    source = dataset if group is None else group
    function = str(source.get("VOILUTFunction") or LINEAR)
    centers = _numbers(source, "WindowCenter")
    widths = _numbers(source, "WindowWidth")
    return [
        StoredWindow(
            number=0 if group is not None else place,
            center=center,
            width=width,
            function=function,
        )
        for place, (center, width) in enumerate(
            zip(centers, widths, strict=True), start=1
        )
    ]


def rendering_of(
    dataset: Dataset, frame: int, center: float, width: float
) -> Rendering:
    """Map from stored values to levels under a LINEAR window.

    Parameters
    ----------
    dataset
        For the rescale and the polarity.
    frame
        From 0.
    center, width
        In rescaled units.
    """
    group = _group(dataset, frame, "PixelValueTransformationSequence")
    source = dataset if group is None else group
    slope = float(source.get("RescaleSlope") or 1.0)
    intercept = float(source.get("RescaleIntercept") or 0.0)
    half = (width - 1) / 2
    ends = [(center - 0.5 + end - intercept) / slope for end in (-half, half)]
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return Rendering(lo=min(ends), hi=max(ends), inverted=inverted != (slope < 0))


def _group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """First item of a functional group, the frame's own before the shared one."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*own[frame : frame + 1], *shared[:1]):
        if group.get(keyword):
            return group[keyword].value[0]
    return None


def _numbers(source: Dataset, keyword: str) -> Sequence[float]:
    found = source.get(keyword)
    if found is None or found == "":
        return ()
    values = found if isinstance(found, MultiValue) else [found]
    return [float(value) for value in values]
