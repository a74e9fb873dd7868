"""Initial populations: places for marks, on the grid or anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.search.candidate import Candidate
from engine.types import LEVELS, SIT
from engine.watermark.sit import draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.params import SearchParams
    from engine.search.space import Space

DRAWS: Final = 4
"""Transforms drawn for a place before the logo is kept upright there."""

TRANSFORMING: Final = frozenset({"he-sit", "random-sit", "gradient", "cma-es"})
"""Strategies that transform the logo."""

Place = tuple[int, int, SIT]
"""A candidate still without opacity."""


def transforming(params: SearchParams) -> bool:
    """Whether the strategy transforms the logo."""
    return params.strategy in TRANSFORMING


def one_transform(params: SearchParams, generator: np.random.Generator) -> SearchParams:
    """Draw the transform of an image where all its candidates share one.

    Its ranges shrink to what was drawn, so that every later draw gives it.
    """
    if params.sit_scope != "image" or not transforming(params):
        return params
    drawn = draw(params.sit, generator)
    names = ("rotation", "hue", "saturation", "value")
    points = {name: (getattr(drawn, name),) * 2 for name in names}
    return replace(params, sit=replace(params.sit, **points))


def on_grid(space: Space, generator: np.random.Generator) -> list[Place]:
    """Feasible points of Eq. 9, each with its own transform where there is one."""
    points = space.grid.points(spread=space.params.grid == "linspace")
    places: dict[Place, None] = {}
    for point in points:
        for sit in _attempts(space, generator):
            place = _clamped(space, point, sit)
            if place:
                # Two points may be moved to one place: the same transform once.
                places[(*place, sit)] = None
                break
    return list(places)


def anywhere(space: Space, count: int, generator: np.random.Generator) -> list[Place]:
    """`count` uniform feasible places, each with its own transform.

    None at all where not even the upright logo has a place.
    """
    places: list[Place] = []
    for _ in range(count):
        for sit in _attempts(space, generator):
            place = space.place(sit, generator)
            if place:
                places.append((*place, sit))
                break
        else:
            return places
    return places


def _transform(space: Space, generator: np.random.Generator) -> SIT:
    """Draw a transform; the identity where the strategy has none."""
    return space.transform(generator) if transforming(space.params) else SIT()


def with_alpha(
    places: Sequence[Place], space: Space, generator: np.random.Generator
) -> tuple[Candidate, ...]:
    """Candidates in random order, with opacities as `SearchParams.alpha_init` says."""
    params, n = space.params, len(places)
    if params.alpha_init == "shared":
        draws = np.full(n, generator.random())
    else:
        draws = (generator.permutation(n) + generator.random(n)) / n
    alphas = np.clip(np.ceil(draws * LEVELS), params.alpha_min, params.alpha_max)
    return tuple(
        Candidate(x=x, y=y, alpha=int(alphas[i]), sit=sit)
        for i in generator.permutation(n)
        for x, y, sit in (places[i],)
    )


def _attempts(space: Space, generator: np.random.Generator) -> Iterator[SIT]:
    """Draw a transform for one place; again while it has no room there.

    A rotated logo needs more room than an upright one. Without more draws most
    points near a lesion would be lost, and with them most of the population.
    """
    alone = not transforming(space.params) or space.params.sit_scope == "image"
    sit = SIT()
    for _ in range(1 if alone else DRAWS):
        sit = _transform(space, generator)
        yield sit
    if not alone:
        yield replace(sit, rotation=0.0)


def _clamped(space: Space, point: tuple[int, int], sit: SIT) -> tuple[int, int] | None:
    """Move a grid point inside for its transformed patch; None if infeasible."""
    (w, h), side = space.size(sit), space.region.side
    x, y = min(point[0], side - w), min(point[1], side - h)
    return (x, y) if space.region.feasible(x, y, (w, h)) else None
