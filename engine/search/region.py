"""Where on the model grid a footprint may lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """The grid without the lesion boxes.

    Attributes
    ----------
    sums
        ``(G+1, G+1)`` int64 summed-area table of the forbidden pixels.
    """

    sums: NDArray[np.int64] = field(repr=False)

    @property
    def side(self) -> int:
        """Side of the grid, G."""
        return int(self.sums.shape[0]) - 1

    def feasible(self, x: int, y: int, size: tuple[int, int]) -> bool:
        """Whether a whole footprint lies inside and meets no lesion box.

        One pixel more on each side is kept free, so that rounding to native
        positions cannot bring the mark onto a box.
        """
        w, h = size
        if x < 0 or y < 0 or x + w > self.side or y + h > self.side:
            return False
        x0, y0 = max(0, x - 1), max(0, y - 1)
        x1, y1 = min(self.side, x + w + 1), min(self.side, y + h + 1)
        s = self.sums
        return bool(s[y1, x1] - s[y0, x1] - s[y1, x0] + s[y0, x0] == 0)

    def free(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Whether each position is feasible.

        Returns
        -------
        NDArray[np.bool_]
            ``(G - h + 1, G - w + 1)``, indexed row, column; empty where the
            footprint is larger than the grid.
        """
        w, h = size
        if w > self.side or h > self.side:
            return np.empty((0, 0), dtype=np.bool_)
        xs, ys = np.arange(self.side - w + 1), np.arange(self.side - h + 1)
        x0, y0 = np.maximum(xs - 1, 0), np.maximum(ys - 1, 0)[:, None]
        x1 = np.minimum(xs + w + 1, self.side)
        y1 = np.minimum(ys + h + 1, self.side)[:, None]
        s = self.sums
        free: NDArray[np.bool_] = s[y1, x1] - s[y0, x1] - s[y1, x0] + s[y0, x0] == 0
        return free

    def positions(self, size: tuple[int, int]) -> NDArray[np.int64]:
        """All feasible positions of a footprint, ``(n, 2)`` int64 of (x, y)."""
        return np.argwhere(self.free(size))[:, ::-1]


def region(forbidden: NDArray[np.bool_]) -> Region:
    """Build the feasible region.

    Parameters
    ----------
    forbidden
        ``(G, G)`` bool, true inside lesion boxes.
    """
    sums = np.zeros((forbidden.shape[0] + 1, forbidden.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = forbidden.cumsum(axis=0).cumsum(axis=1)
    return Region(sums=sums)
