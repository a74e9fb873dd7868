"""Initial populations: places for marks, on the grid or anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.search.candidate import Candidate
from engine.search.grid import grid_points
from engine.types import LEVELS, SIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.search.space import Space

DRAWS: Final = 4
"""Transforms drawn for a grid point before the logo is kept upright there."""

TRANSFORMING: Final = frozenset({"he-sit", "random-sit", "gradient", "cma-es"})
"""Strategies that transform the logo."""

Place = tuple[int, int, SIT]
"""A candidate still without opacity."""


def on_grid(space: Space, generator: np.random.Generator) -> list[Place]:
    """Feasible points of Eq. 9, each with its own transform where there is one."""
    side = space.region.side
    points = grid_points((side, side), space.maker.grid_size, space.params.r_p)
    places = []
    for point in points:
        for sit in _attempts(space, generator):
            place = _clamped(space, point, sit)
            if place:
                places.append((*place, sit))
                break
    return places


def scatter(
    space: Space, sits: Sequence[SIT], generator: np.random.Generator
) -> list[Place]:
    """One uniform feasible position per transform that has any."""
    places = []
    for sit in sits:
        place = space.place(sit, generator)
        if place:
            places.append((*place, sit))
    return places


def transforms(space: Space, count: int, generator: np.random.Generator) -> list[SIT]:
    """Draw transforms, or repeat the identity where the strategy has none."""
    if space.params.strategy in TRANSFORMING:
        return [space.transform(generator) for _ in range(count)]
    return [SIT()] * count


def with_alpha(
    places: Sequence[Place], space: Space, generator: np.random.Generator
) -> tuple[Candidate, ...]:
    """Candidates in random order with one stratified opacity draw each."""
    params, n = space.params, len(places)
    strata = (generator.permutation(n) + generator.random(n)) / n
    alphas = np.clip(np.ceil(strata * LEVELS), params.alpha_min, params.alpha_max)
    return tuple(
        Candidate(x=x, y=y, alpha=int(alphas[i]), sit=sit)
        for i in generator.permutation(n)
        for x, y, sit in (places[i],)
    )


def _attempts(space: Space, generator: np.random.Generator) -> Iterator[SIT]:
    """Draw a transform for one grid point; again while it has no room there.

    A rotated logo needs more room than an upright one. Without more draws most
    points near a lesion would be lost, and with them most of the population.
    """
    for sit in transforms(space, DRAWS, generator):
        yield sit
        if space.params.strategy not in TRANSFORMING:
            return
    yield SIT(hue=sit.hue, saturation=sit.saturation, value=sit.value)


def _clamped(space: Space, point: tuple[int, int], sit: SIT) -> tuple[int, int] | None:
    """Move a grid point inside for its transformed patch; None if infeasible."""
    (w, h), side = space.size(sit), space.region.side
    x, y = min(point[0], side - w), min(point[1], side - h)
    return (x, y) if space.region.feasible(x, y, (w, h)) else None
