"""The candidates of one frame: what may be proposed at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.search.grid import Grid
from engine.watermark.sit import draw

if TYPE_CHECKING:
    from engine.params import SearchParams
    from engine.search.candidate import Candidate
    from engine.search.region import Region
    from engine.search.show import Gallery
    from engine.types import SIT
    from engine.watermark.maker import PatchMaker


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Candidates of one frame.

    Attributes
    ----------
    region
        The grid without lesion boxes.
    maker
        Patches of the logo at the size that is tried.
    params
        Ranges and bounds.
    gallery
        Shows candidates; for strategies that look at pictures themselves.
    """

    region: Region
    maker: PatchMaker
    params: SearchParams
    gallery: Gallery | None = None

    @property
    def grid(self) -> Grid:
        """Positions of Eq. 9 for the logo before rotation."""
        (w, h), side = self.maker.grid_size, self.region.side
        return Grid(room=(side - w, side - h), r_p=self.params.r_p)

    def size(self, sit: SIT) -> tuple[int, int]:
        """Width and height of the footprint of a transformed logo, on the grid."""
        return self.maker.footprint(sit)

    def feasible(self, one: Candidate) -> bool:
        """Whether the whole footprint keeps clear of lesions and α of its bounds."""
        low, high = self.params.alpha_min, self.params.alpha_max
        return low <= one.alpha <= high and self.region.feasible(
            one.x, one.y, self.size(one.sit)
        )

    def alpha(self, value: float) -> int:
        """Nearest allowed α byte."""
        low, high = self.params.alpha_min, self.params.alpha_max
        return int(min(max(round(value), low), high))

    def place(self, sit: SIT, generator: np.random.Generator) -> tuple[int, int] | None:
        """One uniform feasible position (x, y) of a transform, None without any."""
        free = self.region.free(self.size(sit))
        places = np.flatnonzero(free)
        if not len(places):
            return None
        y, x = divmod(int(places[generator.integers(len(places))]), free.shape[1])
        return x, y

    def nearest(self, x: float, y: float, sit: SIT) -> tuple[int, int] | None:
        """Feasible position nearest to a point, None where there is none."""
        column, row = round(x), round(y)
        size = self.size(sit)
        if self.region.feasible(column, row, size):
            return column, row
        free = self.region.positions(size)
        if not len(free):
            return None
        best = np.square(free - np.array([x, y])).sum(axis=1).argmin()
        return int(free[best, 0]), int(free[best, 1])

    def transform(self, generator: np.random.Generator) -> SIT:
        """Draw a transform within the ranges."""
        return draw(self.params.sit, generator)
