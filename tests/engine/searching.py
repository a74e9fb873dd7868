"""What the tests of the search share: small starts, and judges without models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.params import SearchParams
from engine.search.candidate import Candidate, Judged, Judgement
from engine.search.evolve import Evolution
from engine.search.region import Region, region
from engine.search.space import Space
from engine.search.start import Start, start_search
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

LOGO = load_logo()
OPEN = region(np.zeros((224, 224), dtype=np.bool_))


def maker(
    sl: float = 2.0, *, grey: bool = True, size: tuple[int, int] = (224, 224)
) -> PatchMaker:
    geometry = Geometry(columns=size[0], rows=size[1])
    return PatchMaker(logo=LOGO, geometry=geometry, sl=sl, grey=grey)


def space(free: Region = OPEN, *, grey: bool = True, **changes: object) -> Space:
    params = SearchParams(**changes)  # type: ignore[arg-type]
    return Space(region=free, maker=maker(params.sl, grey=grey), params=params)


def start(
    seed: int = 0, free: Region = OPEN, *, grey: bool = True, **changes: object
) -> Start:
    params = SearchParams(**changes)  # type: ignore[arg-type]
    generator = np.random.default_rng(seed)
    return start_search(
        maker(params.sl, grey=grey), free, params, generator, host_picture()
    )


def evolution(begun: Start) -> Evolution:
    assert isinstance(begun.strategy, Evolution)
    return begun.strategy


def host_picture() -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    wave = 0.35 + 0.1 * torch.sin(xx / 17) + 0.1 * torch.cos(yy / 23)
    return wave.expand(3, -1, -1).contiguous()


def judged(
    one: Candidate, fitness: float, generation: int = 0, *, cost: int = 1
) -> Judged:
    said = Judgement(fitness=fitness, tie=0.0, wrong=0, deceived=False, success=False)
    return Judged(one, said, generation, cost)


def distance(one: Candidate) -> float:
    """Fitness with one optimum, at (80, 90) and α 150."""
    return float(abs(one.x - 80) + abs(one.y - 90) + abs(one.alpha - 150))


def run_out(
    begun: Start, size: int, fitness: Callable[[Candidate], float] = distance
) -> tuple[Judged, ...]:
    """Everything an evolution proposes, judged by a function."""
    strategy = evolution(begun)
    while asked := strategy.ask(size).candidates:
        generation = strategy.generation
        strategy.tell([judged(c, fitness(c), generation) for c in asked], None)
    return strategy.state.judged
