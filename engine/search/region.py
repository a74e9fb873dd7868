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
        ``(G+3, G+3)`` int64 summed-area table of the forbidden pixels, its edges
        doubled: a footprint with one pixel more on each side may reach beyond.
    """

    sums: NDArray[np.int64] = field(repr=False)

    @property
    def side(self) -> int:
        """Side of the grid, G."""
        return int(self.sums.shape[0]) - 3

    def feasible(self, x: int, y: int, size: tuple[int, int]) -> bool:
        """Whether a whole footprint lies inside and meets no lesion box.

        One pixel more on each side is kept free, so that rounding to native
        positions cannot bring the mark onto a box.
        """
        w, h = size
        if x < 0 or y < 0 or x + w > self.side or y + h > self.side:
            return False
        s, x1, y1 = self.sums, x + w + 2, y + h + 2
        return bool(s[y1, x1] - s[y, x1] - s[y1, x] + s[y, x] == 0)

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
        s, w, h = self.sums, w + 2, h + 2
        free: NDArray[np.bool_] = s[h:, w:] - s[:-h, w:] == s[h:, :-w] - s[:-h, :-w]
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
    inside = np.pad(forbidden.astype(np.int64), ((1, 0), (1, 0)))
    sums = inside.cumsum(axis=0).cumsum(axis=1)
    return Region(sums=np.pad(sums, 1, mode="edge"))
