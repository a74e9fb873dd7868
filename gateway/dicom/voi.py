"""Which windows a frame is shown with, in stored units.

The frame's own windows are used, with the modality rescale or LUT folded in.
Where there is none, a linear one is made from the data and written into the
derived object: the whole range for 8-bit frames, as viewers do, otherwise from
the 0.5th to the 99.5th percentile of the values that are not padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from engine.types import Rendering
from gateway.dicom.lenient import frame_item, items, number, numbers, text
from gateway.dicom.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from gateway.dicom.image_pixel import ImagePixel

ROBUST: Final = (0.5, 99.5)
"""Percentiles between which the made window lies."""

LOG_FOR_PROCESSING: Final = frozenset(
    ("1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2")
)
"""X-ray angiography and fluoroscopy: the modality LUT of logarithmic pixels gives
intensity to processing; the display shows stored values (PS3.3 C.8.7.1.1.2)."""

Ends = tuple[float, float]


class Modality(Protocol):
    """Modality transformation of a frame, as windows need it."""

    @property
    def slope(self) -> float:
        """Its sign says whether higher stored values are higher outputs."""

    def inputs(self, low: float, high: float) -> Ends:
        """Find stored values, lowest first, that span outputs from low to high."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescale:
    """Modality rescale: output = slope * stored + intercept (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0

    def inputs(self, low: float, high: float) -> Ends:
        """Find stored values, lowest first, that span outputs from low to high."""
        ends = [(end - self.intercept) / self.slope for end in (low, high)]
        return min(ends), max(ends)


def rescale_of(dataset: Dataset, index: int) -> Rescale | None:
    """Rescale of one frame; None where a modality LUT stands in its place.

    Parameters
    ----------
    dataset
        The data set, functional groups included.
    index
        Frame, from 0.
    """
    if items(dataset, "ModalityLUTSequence"):
        return None
    group = frame_item(dataset, index, "PixelValueTransformationSequence")
    source = dataset if group is None else group
    slope = number(source, "RescaleSlope")
    intercept = number(source, "RescaleIntercept")
    if slope is None or slope == 0 or not math.isfinite(slope):
        return Rescale()
    shift = intercept if intercept is not None and math.isfinite(intercept) else 0.0
    return Rescale(slope=slope, intercept=shift)


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Windows of the frames of one object.

    Attributes
    ----------
    dataset
        The data set, functional groups included.
    pixel
        Its image pixel module.
    little
        Its byte order.
    """

    dataset: Dataset
    pixel: ImagePixel
    little: bool

    @property
    def _inverted(self) -> bool:
        return self.pixel.photometric == "MONOCHROME1"

    def modality(self, index: int) -> Modality | None:
        """Modality transformation of a frame; None where no window can follow it."""
        rescale = rescale_of(self.dataset, index)
        if rescale is not None:
            return rescale
        if (
            text(self.dataset, "SOPClassUID") in LOG_FOR_PROCESSING
            and text(self.dataset, "PixelIntensityRelationship") == "LOG"
        ):
            return Rescale()
        item = items(self.dataset, "ModalityLUTSequence")[0]
        return read_table(item, signed=self.pixel.signed, little=self.little)

    def own(self, index: int) -> tuple[Rendering, ...]:
        """Every window of a frame itself, in the order of the object.

        Linear and sigmoid windows, else VOI LUTs, each as the linear window
        between the values outside of which it is flat.
        """
        modality = self.modality(index)
        if modality is None:
            return ()
        group = frame_item(self.dataset, index, "FrameVOILUTSequence")
        source = self.dataset if group is None else group
        shown = [
            _rendering(modality.inputs(*ends), inverted=self._turned(modality))
            for ends in _window_ends(source)
        ]
        found = [window for window in shown if window is not None]
        found = found or list(self._of_tables(source, modality))
        # An object has one polarity: LUTs that turn the first's are left out.
        return tuple(each for each in found if each.inverted == found[0].inverted)

    def of_presets(
        self, index: int, presets: tuple[Ends, ...], *, inverted: bool
    ) -> tuple[Rendering, ...]:
        """Windows given as centre and width in rescaled units, on a frame.

        ``inverted`` is the polarity of the frame's own window.
        """
        modality = self.modality(index)
        if modality is None:
            return ()
        shown = [
            _rendering(modality.inputs(*linear_ends(*preset)), inverted=inverted)
            for preset in presets
        ]
        return tuple(window for window in shown if window is not None)

    def made(
        self, values: NDArray[np.int32], bits_stored: int
    ) -> tuple[Rendering, ...]:
        """Make a window for frames that bring none: each has the same ends.

        Parameters
        ----------
        values
            int32 sample of the stored values of all frames.
        bits_stored
            Of the values.
        """
        lo, hi = self._made_ends(values, bits_stored)
        modalities = map(self.modality, range(self.pixel.frames))
        return tuple(
            Rendering(lo=lo, hi=hi, inverted=self._turned(modality or Rescale()))
            for modality in modalities
        )

    def _made_ends(self, values: NDArray[np.int32], bits_stored: int) -> Ends:
        if bits_stored <= 8 and not self.pixel.signed:
            return 0.0, float(2**bits_stored - 1)
        shown = values[~self._is_padding(values)]
        if shown.size == 0:
            shown = values
        lo, hi = (float(end) for end in np.percentile(shown, ROBUST))
        if hi <= lo:
            lo, hi = float(shown.min()), float(shown.max())
        return lo, max(hi, lo + 1.0)

    def _turned(self, modality: Modality) -> bool:
        """Whether low stored values show white."""
        return self._inverted != (modality.slope < 0)

    def _of_tables(self, source: Dataset, modality: Modality) -> Iterator[Rendering]:
        # Inputs of a VOI LUT are outputs of the modality transformation.
        below_zero = isinstance(modality, Rescale) and modality.intercept < 0
        signed = self.pixel.signed or below_zero
        for item in items(source, "VOILUTSequence"):
            table = read_table(item, signed=signed, little=self.little)
            if table is not None:
                inverted = self._turned(modality) != table.falling
                ends = modality.inputs(*table.changing)
                window = _rendering(ends, inverted=inverted)
                if window is not None:
                    yield window

    def _is_padding(self, values: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Where values are padding (PS3.3 C.7.5.1.1.2)."""
        first = self._padding("PixelPaddingValue")
        if first is None:
            return np.zeros(values.shape, dtype=np.bool_)
        limit = self._padding("PixelPaddingRangeLimit")
        last = first if limit is None else limit
        padding: NDArray[np.bool_] = (values >= min(first, last)) & (
            values <= max(first, last)
        )
        return padding

    def _padding(self, keyword: str) -> float | None:
        found = number(self.dataset, keyword)
        if found is not None and self.pixel.signed and found > self.pixel.maximum:
            # The sign is lost where the encoding leaves US or SS open.
            return found - (1 << self.pixel.bits_allocated)
        return found


def linear_ends(centre: float, width: float) -> Ends:
    """Return the ends of a LINEAR window (PS3.3 C.11.2.1.2.1)."""
    half = (width - 1) / 2
    return centre - 0.5 - half, centre - 0.5 + half


def _window_ends(source: Dataset) -> Iterator[Ends]:
    """Yield the ends of every window with a width, in rescaled units."""
    function = text(source, "VOILUTFunction") or "LINEAR"
    centres = numbers(source, "WindowCenter")
    widths = numbers(source, "WindowWidth")
    for centre, width in zip(centres, widths, strict=False):
        if function == "LINEAR" and width > 1:
            yield linear_ends(centre, width)
        elif function in {"LINEAR_EXACT", "SIGMOID"} and width > 0:
            # The line is the sigmoid's tangent in its centre (C.11.2.1.3.1).
            yield centre - width / 2, centre + width / 2


def _rendering(ends: Ends, *, inverted: bool) -> Rendering | None:
    lo, hi = ends
    if not (math.isfinite(lo) and math.isfinite(hi) and hi > lo):
        return None
    return Rendering(lo=lo, hi=hi, inverted=inverted)
