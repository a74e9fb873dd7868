"""Initial populations of the strategies, with the ladder for lack of room."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.errors import NoFeasiblePlacement
from engine.search.evolve import Problem, SearchState, offspring_per_parent
from engine.search.grid import grid_points
from engine.search.space import Individual, Variant
from engine.types import LEVELS, SIT
from engine.watermark.sit import draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.params import SearchParams
    from engine.search.space import Region
    from engine.watermark.maker import PatchMaker

SHRINK: Final = 0.8
"""Factor on the sides of the logo when it has no place."""

MAX_SHRINKS: Final = 3

DRAWS: Final = 4
"""Transforms drawn for a grid point before the logo is kept upright there."""


_EVOLVING: Final = frozenset({"he", "he-sit"})
_TRANSFORMING: Final = frozenset({"he-sit", "random-sit"})

Place = tuple[int, int, int]
"""Column, row and variant of an individual still without opacity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A search ready to run.

    ``maker`` draws the patches at the size that found room; ``fallbacks``
    names the steps of the ladder that were taken: ``shrink 0.8``,
    ``no rotation``, ``off-grid``.
    """

    problem: Problem
    state: SearchState
    maker: PatchMaker
    fallbacks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Population:
    """Places with the variants they refer to; a few may lie off the grid."""

    variants: tuple[Variant, ...]
    places: tuple[Place, ...]
    off_grid: bool = False


def start_search(
    maker: PatchMaker,
    region: Region,
    params: SearchParams,
    generator: np.random.Generator,
) -> Start:
    """Place the initial population of a strategy.

    With too little room the logo is made smaller up to three times, then kept
    upright; lesion boxes are never given up.

    Parameters
    ----------
    maker
        Patches of the logo for this frame.
    region
        The grid without lesion boxes.
    params
        Strategy, budget and ranges.
    generator
        Source of every draw.

    Raises
    ------
    NoFeasiblePlacement
        No footprint has a place even then.
    """
    for smaller, tried, names in _ladder(maker, params):
        population = _populate(smaller, region, tried, generator)
        if population.places:
            off_grid = ("off-grid",) if population.off_grid else ()
            return Start(
                problem=Problem(
                    region=region,
                    variants=population.variants,
                    params=tried,
                    generations=tried.n_g if tried.strategy in _EVOLVING else 0,
                ),
                state=SearchState(
                    pending=_with_alpha(population.places, tried, generator)
                ),
                maker=smaller,
                fallbacks=(*names, *off_grid),
            )
    raise NoFeasiblePlacement(
        "the lesion boxes leave no place for the logo, even at "
        f"{SHRINK**MAX_SHRINKS:.2f} of its size; use a larger sl or a higher "
        "lesion threshold, or hold the image"
    )


def _ladder(
    maker: PatchMaker, params: SearchParams
) -> Iterator[tuple[PatchMaker, SearchParams, tuple[str, ...]]]:
    """Yield what to try in turn, with the names of the concessions made."""
    names: tuple[str, ...] = ()
    for _ in range(MAX_SHRINKS + 1):
        yield maker, params, names
        maker = replace(maker, shrink=maker.shrink * SHRINK)
        names = (f"shrink {maker.shrink:.3g}",)
    if params.strategy in _TRANSFORMING:
        maker = replace(maker, shrink=maker.shrink / SHRINK)
        upright = replace(params.sit, rotation=(0.0, 0.0))
        names = (f"shrink {maker.shrink:.3g}", "no rotation")
        yield maker, replace(params, sit=upright), names


def _populate(
    maker: PatchMaker,
    region: Region,
    params: SearchParams,
    generator: np.random.Generator,
) -> _Population:
    if params.strategy == "random":
        return _scatter(maker, region, [SIT()], generator)
    gridded = _on_grid(maker, region, params, generator)
    if params.strategy == "random-sit":
        count = budget(len(gridded.places), params)
        sits = _sits(count, params, generator)
        return _scatter(maker, region, sits, generator)
    return gridded


def budget(initial: int, params: SearchParams) -> int:
    """Most candidates an evolving search judges after `initial` ones."""
    if not initial:
        return 0
    per_generation = params.n_p * offspring_per_parent(params.r_c)
    return initial + params.n_g * per_generation


def _on_grid(
    maker: PatchMaker,
    region: Region,
    params: SearchParams,
    generator: np.random.Generator,
) -> _Population:
    """Feasible grid points, filled up to N_p from anywhere there is room."""
    points = grid_points((region.side, region.side), maker.grid_size, params.r_p)
    variants: list[Variant] = []
    places: list[Place] = []
    for point in points:
        for variant in _attempts(maker, params, generator):
            place = _clamped(region, point, variant)
            if place:
                places.append((*place, len(variants)))
                variants.append(variant)
                break
    missing = params.n_p - len(places)
    if missing <= 0:
        return _Population(variants=tuple(variants), places=tuple(places))
    extra = _scatter(maker, region, _sits(missing, params, generator), generator)
    moved = ((x, y, v + len(variants)) for x, y, v in extra.places)
    return _Population(
        variants=(*variants, *extra.variants),
        places=(*places, *moved),
        off_grid=bool(extra.places),
    )


def _sits(
    count: int, params: SearchParams, generator: np.random.Generator
) -> list[SIT]:
    """Draw transforms, or repeat the identity where the strategy has none."""
    if params.strategy in _TRANSFORMING:
        return [draw(params.sit, generator) for _ in range(count)]
    return [SIT()] * count


def _variants(maker: PatchMaker, sits: Sequence[SIT]) -> tuple[Variant, ...]:
    return tuple(Variant(sit=sit, size=maker.footprint(sit)) for sit in sits)


def _attempts(
    maker: PatchMaker, params: SearchParams, generator: np.random.Generator
) -> Iterator[Variant]:
    """Draw a transform for one grid point; again while it has no room there.

    A rotated logo needs more room than an upright one. Without more draws most
    points near a lesion would be lost, and with them most of the population.
    """
    for sit in _sits(DRAWS, params, generator):
        yield Variant(sit=sit, size=maker.footprint(sit))
        if params.strategy not in _TRANSFORMING:
            return
    upright = replace(sit, rotation=0.0)
    yield Variant(sit=upright, size=maker.footprint(upright))


def _clamped(
    region: Region, point: tuple[int, int], variant: Variant
) -> tuple[int, int] | None:
    """Move a grid point inside for its transformed patch; None if infeasible."""
    w, h = variant.size
    x, y = min(point[0], region.side - w), min(point[1], region.side - h)
    return (x, y) if region.feasible(x, y, (w, h)) else None


def _scatter(
    maker: PatchMaker,
    region: Region,
    sits: Sequence[SIT],
    generator: np.random.Generator,
) -> _Population:
    """One uniform feasible position per transform that has any."""
    variants = _variants(maker, sits)
    places = []
    for which, variant in enumerate(variants):
        free = region.positions(variant.size)
        if len(free):
            x, y = free[generator.integers(len(free))]
            places.append((int(x), int(y), which))
    return _Population(variants=variants, places=tuple(places))


def _with_alpha(
    places: Sequence[Place], params: SearchParams, generator: np.random.Generator
) -> tuple[Individual, ...]:
    """Individuals in random order with one stratified opacity draw each."""
    n = len(places)
    strata = (generator.permutation(n) + generator.random(n)) / n
    alphas = np.clip(np.ceil(strata * LEVELS), params.alpha_min, params.alpha_max)
    return tuple(
        Individual(x=x, y=y, alpha=int(alphas[i]), variant=variant)
        for i in generator.permutation(n)
        for x, y, variant in (places[i],)
    )
