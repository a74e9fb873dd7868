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
class GridRegions:
    """Regions marked by someone else, on the model grid.

    ``boxes`` as given, without a margin; ``mask`` is ``(G, G)`` bool, and each
    connected part of it gets a box.
    """

    boxes: tuple[Box, ...]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesions:
    """Where the mark must not go.

    Attributes
    ----------
    boxes
        On the model grid, margin included.
    mask
        ``(G, G)`` bool: the thresholded maps and given masks, their union.
    source
        What gave the boxes: ``cnn``, ``transformer`` or ``all`` members,
        ``central`` where no map has a peak, ``external`` where regions were
        given; ``cnn+external`` and the like for both.
    maps
        Grad-CAM maps the boxes were made from, ``(h, w)`` float32 each, at the
        size of the members' feature maps.
    given
        Regions marked by someone else.
    """

    boxes: tuple[Box, ...]
    mask: NDArray[np.bool_]
    source: str
    maps: tuple[NDArray[np.float32], ...] = ()
    given: GridRegions | None = None

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
    # scikit-image's own functions carry no annotations.
    label: Any = measure.label
    regionprops: Any = measure.regionprops
    found = []
    for region in regionprops(label(mask, connectivity=2)):
        y0, x0, y1, x1 = region.bbox
        found.append(Box(x0=x0, y0=y0, x1=x1, y1=y1))
    return tuple(widened(box, margin, mask.shape) for box in found)


def widened(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    """Grow a box by a margin on every side, kept inside ``shape``."""
    return Box(
        x0=max(0, box.x0 - margin),
        y0=max(0, box.y0 - margin),
        x1=min(shape[1], box.x1 + margin),
        y1=min(shape[0], box.y1 + margin),
    )


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
