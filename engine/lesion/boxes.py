"""From activation maps to lesion boxes (Alg. 2) and feasible positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from skimage import measure

from engine.types import LEVELS, Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesions:
    """Where the mark must not go.

    Attributes
    ----------
    boxes
        On the model grid, margin included.
    mask
        ``(G, G)`` bool: the thresholded maps, their union.
    source
        ``cnn``, ``transformer`` or ``central``: which step of the fallback
        ladder gave the boxes.
    """

    boxes: tuple[Box, ...]
    mask: NDArray[np.bool_]
    source: str

    @property
    def forbidden(self) -> NDArray[np.bool_]:
        """``(G, G)`` bool: the union of the boxes."""
        return fill(self.boxes, self.mask.shape)


CENTRAL_SHARE: Final = 0.5
"""Side of the fallback box relative to the grid."""


def binarise(activation: NDArray[np.float32], threshold: int) -> NDArray[np.bool_]:
    """Alg. 2, line 9: min-max to 0..255, then at least the threshold.

    Parameters
    ----------
    activation
        ``(G, G)`` float; a flat map gives an empty mask.
    threshold
        t of 0..255.
    """
    low, high = float(activation.min()), float(activation.max())
    if not high > low:
        return np.zeros(activation.shape, dtype=np.bool_)
    levels = (activation - low) * (LEVELS / (high - low))
    mask: NDArray[np.bool_] = levels >= threshold
    return mask


def region_boxes(mask: NDArray[np.bool_], margin: int) -> tuple[Box, ...]:
    """One box per 8-connected region, widened by a margin, kept inside.

    Parameters
    ----------
    mask
        ``(G, G)`` bool.
    margin
        In grid pixels.
    """
    rows, columns = mask.shape
    # scikit-image's own functions carry no annotations.
    label: Any = measure.label
    regionprops: Any = measure.regionprops
    boxes = []
    for region in regionprops(label(mask, connectivity=2)):
        y0, x0, y1, x1 = region.bbox
        boxes.append(
            Box(
                x0=max(0, x0 - margin),
                y0=max(0, y0 - margin),
                x1=min(columns, x1 + margin),
                y1=min(rows, y1 + margin),
            )
        )
    return tuple(boxes)


def central_box(side: int) -> Box:
    """Conservative box for an image in which no map has a peak."""
    inset = int(side * (1 - CENTRAL_SHARE) / 2)
    return Box(x0=inset, y0=inset, x1=side - inset, y1=side - inset)


def fill(boxes: Sequence[Box], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """``shape`` bool, true inside any of the boxes."""
    filled = np.zeros(shape[:2], dtype=np.bool_)
    for box in boxes:
        filled[box.y0 : box.y1, box.x0 : box.x1] = True
    return filled


def overlaps(a: Box, b: Box) -> bool:
    """Whether two boxes share a pixel."""
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
