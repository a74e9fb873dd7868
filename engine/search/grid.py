"""Sampling grid and mutation steps of the search (Eqs. 9 and 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Positions of the upper-left corner that Eq. 9 samples.

    Attributes
    ----------
    room
        W - w' and H - h': largest column and row of the corner. Negative where
        the logo is larger than the frame: such a grid has no points.
    r_p
        Sampling rate of positions, (0, 1].
    """

    room: tuple[int, int]
    r_p: float

    @property
    def pitch(self) -> int:
        """Distance of neighbouring points in pixels, g of Eq. 9."""
        # The tiny term keeps 1/r_p of exact squares (0.01 -> 100) from falling short.
        return math.floor(math.sqrt(1 / self.r_p) + 1e-9)

    @property
    def counts(self) -> tuple[int, int]:
        """N_x and N_y; without room along one axis, a single row or column."""
        (free_x, free_y), g = self.room, self.pitch
        if free_x <= 0 or free_y <= 0:
            return max(free_x, 0) // g, max(free_y, 0) // g
        n = math.floor(self.r_p * free_x * free_y)
        return (
            min(math.floor(math.sqrt(n * free_x / free_y)), free_x // g),
            min(math.floor(math.sqrt(n * free_y / free_x)), free_y // g),
        )

    def points(self, *, spread: bool = False) -> tuple[tuple[int, int], ...]:
        """Candidate positions (x, y), column by column.

        Parameters
        ----------
        spread
            The same number of points, evenly over 0..W-w' and 0..H-h'. Eq. 9
            never visits what is left beyond its last whole pitch.

        Returns
        -------
        tuple of (x, y)
            (n·g, m·g) for n = 0..N_x and m = 0..N_y, both inclusive; empty
            where the logo is larger than the frame. All lie within the room.
        """
        if min(self.room) < 0:
            return ()
        xs, ys = (
            _spread(free, last) if spread else [n * self.pitch for n in range(last + 1)]
            for free, last in zip(self.room, self.counts, strict=True)
        )
        return tuple((x, y) for x in xs for y in ys)

    def spacing(self) -> tuple[float, float]:
        """d_x and d_y: (W - w')/N_x and (H - h')/N_y, in pixels.

        An axis with a single row or column is one cell: its whole room.
        """
        x, y = (
            max(free, 0) / max(last, 1)
            for free, last in zip(self.room, self.counts, strict=True)
        )
        return x, y


def mutation_step(d: float, n_g: int) -> int:
    """Position step s_p of Eq. 10, so that a parent stays in its own cell.

    Parameters
    ----------
    d
        Distance of neighbouring grid points in pixels.
    n_g
        Number of generations N_g.
    """
    return math.floor(d / (2 * n_g)) if n_g and d > 2 * n_g else 1


def _spread(free: int, last: int) -> Sequence[int]:
    """`last` + 1 whole numbers evenly over 0..free; only 0 for a single one."""
    spread: list[int] = np.rint(np.linspace(0, free, last + 1)).astype(int).tolist()
    return spread
