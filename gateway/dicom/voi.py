"""Which window a frame is shown with, in stored units.

The first linear window of the frame is used, with the modality rescale folded
in. Where there is none (absent, empty, a VOI LUT, a sigmoid, or behind a
modality LUT) a linear window is made from the data and written into the
derived object: the whole range for 8-bit frames, as viewers do, otherwise from
the 0.5th to the 99.5th percentile of the values that are not padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.types import Rendering
from gateway.dicom.lenient import frame_item, items, number, numbers, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

ROBUST: Final = (0.5, 99.5)
"""Percentiles between which the made window lies."""

SAMPLED: Final = 1 << 20
"""Values per frame looked at for a made window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescale:
    """Modality rescale: output = slope * stored + intercept (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0


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


def window_of(dataset: Dataset, index: int, *, inverted: bool) -> Rendering | None:
    """Return the frame's own first linear window; None where it has none.

    Parameters
    ----------
    dataset
        The data set, functional groups included.
    index
        Frame, from 0.
    inverted
        Whether the lowest value shows as white (MONOCHROME1).
    """
    rescale = rescale_of(dataset, index)
    group = frame_item(dataset, index, "FrameVOILUTSequence")
    source = dataset if group is None else group
    bounds = _linear_window(source)
    if rescale is None or bounds is None:
        return None
    ends = [(end - rescale.intercept) / rescale.slope for end in bounds]
    lo, hi = min(ends), max(ends)
    if not (math.isfinite(lo) and math.isfinite(hi) and hi > lo):
        return None
    return Rendering(lo=lo, hi=hi, inverted=inverted != (rescale.slope < 0))


def _linear_window(source: Dataset) -> tuple[float, float] | None:
    """Return the ends of the first window in rescaled units (PS3.3 C.11.2.1.2)."""
    centres = numbers(source, "WindowCenter")
    widths = numbers(source, "WindowWidth")
    if not centres or not widths:
        return None
    centre, width = centres[0], widths[0]
    function = text(source, "VOILUTFunction") or "LINEAR"
    if function == "LINEAR" and width > 1:
        half = (width - 1) / 2
        return centre - 0.5 - half, centre - 0.5 + half
    if function == "LINEAR_EXACT" and width > 0:
        return centre - width / 2, centre + width / 2
    return None


def made_window(
    frames: Sequence[NDArray[np.int32]],
    dataset: Dataset,
    *,
    bits_stored: int,
    signed: bool,
    inverted: bool,
) -> Rendering:
    """Make a linear window for frames that bring none, the same for all.

    Parameters
    ----------
    frames
        int32 stored values of every frame.
    dataset
        For the padding values and the sign of the rescale slope.
    bits_stored, signed, inverted
        From the image pixel module.
    """
    rescale = rescale_of(dataset, 0) or Rescale()
    mirrored = inverted != (rescale.slope < 0)
    if bits_stored <= 8 and not signed:
        return Rendering(lo=0.0, hi=float(2**bits_stored - 1), inverted=mirrored)
    values = np.concatenate([_sample(frame) for frame in frames])
    shown = values[~_is_padding(values, dataset)]
    if shown.size == 0:
        shown = values
    lo, hi = (float(end) for end in np.percentile(shown, ROBUST))
    if hi <= lo:
        lo, hi = float(shown.min()), float(shown.max())
    return Rendering(lo=lo, hi=max(hi, lo + 1.0), inverted=mirrored)


def _sample(frame: NDArray[np.int32]) -> NDArray[np.int32]:
    flat = frame.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLED)]


def _is_padding(values: NDArray[np.int32], dataset: Dataset) -> NDArray[np.bool_]:
    """Where values are padding (PS3.3 C.7.5.1.1.2)."""
    first = number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, dtype=np.bool_)
    limit = number(dataset, "PixelPaddingRangeLimit")
    last = first if limit is None else limit
    padding: NDArray[np.bool_] = (values >= min(first, last)) & (
        values <= max(first, last)
    )
    return padding
