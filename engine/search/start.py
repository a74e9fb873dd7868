"""Chooses the strategy of a frame, with the ladder for lack of room."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from engine.errors import NoFeasiblePlacement
from engine.search.cma import covariance_search
from engine.search.evolve import Evolution, natural_budget
from engine.search.gradient import GradientGuided
from engine.search.populate import (
    anywhere,
    on_grid,
    one_transform,
    transforming,
    with_alpha,
)
from engine.search.show import Gallery
from engine.search.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch

    from engine.params import SearchParams
    from engine.search.candidate import Candidate
    from engine.search.hint import Hint
    from engine.search.region import Region
    from engine.search.strategy import Strategy
    from engine.watermark.maker import PatchMaker

SHRINK: Final = 0.8
"""Factor on the sides of the logo when it has no place."""

MAX_SHRINKS: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A search ready to run.

    Attributes
    ----------
    strategy
        What proposes candidates.
    space
        What it proposes them from; its maker draws the logo at the size that
        found room.
    fallbacks
        Steps of the ladder that were taken: ``shrink 0.8``, ``no rotation``,
        ``off-grid``.
    hints
        How many of the first candidates come from a neighbouring frame.
    """

    strategy: Strategy
    space: Space
    fallbacks: tuple[str, ...]
    hints: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """A strategy, and whether some of its population lies off the grid."""

    strategy: Strategy
    off_grid: bool = False


def start_search(
    maker: PatchMaker,
    region: Region,
    params: SearchParams,
    generator: np.random.Generator,
    host: torch.Tensor | None = None,
    hint: Hint | None = None,
) -> Start:
    """Make the strategy of a frame.

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
    host
        X on the grid, ``(3, G, G)``; the gradient-guided search needs it.
    hint
        The mark of a neighbouring frame; judged first where it has a place.

    Raises
    ------
    NoFeasiblePlacement
        No footprint has a place even then.
    """
    for smaller, tried, names in _ladder(maker, one_transform(params, generator)):
        gallery = None if host is None else Gallery(smaller, host)
        space = Space(region=region, maker=smaller, params=tried, gallery=gallery)
        first = hint.proposals(space) if hint else ()
        made = _MAKERS[params.strategy](space, generator, first)
        if made and made.strategy.ask(1).candidates:
            off_grid = ("off-grid",) if made.off_grid else ()
            return Start(
                strategy=made.strategy,
                space=space,
                fallbacks=(*names, *off_grid),
                hints=min(len(first), made.strategy.bound),
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
    if transforming(params):
        maker = replace(maker, shrink=maker.shrink / SHRINK)
        upright = replace(params.sit, rotation=(0.0, 0.0))
        names = (f"shrink {maker.shrink:.3g}", "no rotation")
        yield maker, replace(params, sit=upright), names


_First = tuple["Candidate", ...]


def _random(
    space: Space, generator: np.random.Generator, first: _First
) -> _Made | None:
    """One mark anywhere: the paper's Random; with a neighbour, its mark."""
    places = anywhere(space, 1, generator)
    if not places:
        return None
    population = first[:1] or with_alpha(places, space, generator)
    return _Made(strategy=Evolution(space, population, 0, generator))


def _random_sit(
    space: Space, generator: np.random.Generator, first: _First
) -> _Made | None:
    """As many random marks as HE-SIT would judge: the control."""
    places = anywhere(space, _budget(space, generator), generator)
    if not places:
        return None
    population = with_alpha(places, space, generator)
    return _Made(strategy=Evolution(space, _led(first, population), 0, generator))


def _evolving(
    space: Space, generator: np.random.Generator, first: _First
) -> _Made | None:
    """HE and HE-SIT: the grid of Eq. 9, filled up to N_p from anywhere."""
    places = on_grid(space, generator)
    extra = anywhere(space, max(0, space.params.n_p - len(places)), generator)
    if not places and not extra:
        return None
    population = with_alpha([*places, *extra], space, generator)
    return _Made(
        strategy=Evolution(space, _led(first, population), space.params.n_g, generator),
        off_grid=bool(extra),
    )


def _gradient(
    space: Space, generator: np.random.Generator, first: _First
) -> _Made | None:
    """First-order scores of every place, judged and refined."""
    if not anywhere(space, 1, generator):
        return None
    return _Made(
        strategy=GradientGuided(space, space.params.limit, generator, hints=first)
    )


def _cma_es(
    space: Space, generator: np.random.Generator, first: _First
) -> _Made | None:
    """Random candidates, then CMA-ES."""
    strategy = covariance_search(space, generator, first)
    return _Made(strategy=strategy) if strategy else None


def _led(first: _First, population: _First) -> _First:
    """Put a neighbour's candidates in front of a population."""
    return tuple(dict.fromkeys((*first, *population))) if first else population


def _budget(space: Space, generator: np.random.Generator) -> int:
    """Candidates to judge: as parameters say, or as many as HE-SIT would."""
    params = space.params
    initial = max(len(on_grid(space, generator)), params.n_p)
    return params.budget or natural_budget(initial, space, params.n_g)


_MAKERS: Final[
    dict[str, Callable[[Space, np.random.Generator, _First], _Made | None]]
] = {
    "random": _random,
    "random-sit": _random_sit,
    "he": _evolving,
    "he-sit": _evolving,
    "gradient": _gradient,
    "cma-es": _cma_es,
}
