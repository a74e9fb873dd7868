"""CMA-ES over place, opacity and transform, after a random start.

Beyond the paper. The library ``cmaes`` holds the distribution; here is what its
genes mean, how they are made feasible, and what they are worth.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from cmaes import CMA  # type: ignore[import-untyped]
from typing_extensions import override

from engine.search.candidate import Candidate
from engine.search.populate import anywhere, with_alpha
from engine.search.strategy import Ask, Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from engine.search.candidate import Judged
    from engine.search.space import Space

RANDOM_SHARE: Final = 0.4
"""Share of the budget that random candidates take before CMA-ES starts."""

SIGMA: Final = 0.2
"""First standard deviation, relative to the range of each gene."""

_CIRCLE: Final = 360.0
"""Degrees after which rotation and hue repeat."""

_TOWARDS: Final = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Shares of the wanted rotation that are tried in turn."""

_STALE: Final = 20
"""Populations without a new candidate after which the search has converged."""


class Gene(NamedTuple):
    """One gene: which value it stands for, and the range that 0..1 spans.

    A ``cyclic`` one has no bounds: it goes round.
    """

    name: str
    low: float
    high: float
    cyclic: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Genome:
    """What the genes of one frame mean.

    Place is that of the centre: turning a mark about its centre covers nearly
    the same pixels, turning it about a corner does not.

    Attributes
    ----------
    space
        Candidates of the frame.
    genes
        Those that can vary: a range of one value is none, and hue and
        saturation say nothing on a grey frame.
    """

    space: Space
    genes: tuple[Gene, ...]

    def encode(self, one: Candidate) -> NDArray[np.float64]:
        """Genes of a candidate, ``(n,)`` in 0..1."""
        w, h = self.space.size(one.sit)
        values = asdict(one.sit) | {
            "x": one.x + w / 2,
            "y": one.y + h / 2,
            "alpha": one.alpha,
        }
        return np.array(
            [(values[g.name] - g.low) / (g.high - g.low) for g in self.genes]
        )

    def decode(self, sampled: NDArray[np.float64], near: Candidate) -> Candidate:
        """Nearest feasible candidate of genes that may lie anywhere.

        Parameters
        ----------
        sampled
            ``(n,)``, of any size.
        near
            A feasible candidate. Where a transform has no place at all, its
            rotation is brought towards this one's until it has.
        """
        values = {
            g.name: g.low
            + (g.high - g.low) * (v % 1 if g.cyclic else min(max(v, 0.0), 1.0))
            for g, v in zip(self.genes, sampled.tolist(), strict=True)
        }
        centre = self.space.region.side / 2
        x, y = values.pop("x", centre), values.pop("y", centre)
        alpha = self.space.alpha(values.pop("alpha", near.alpha))
        wanted = replace(near.sit, **values)
        for share in _TOWARDS:
            turn = near.sit.rotation + share * (wanted.rotation - near.sit.rotation)
            sit = replace(wanted, rotation=turn)
            w, h = self.space.size(sit)
            place = self.space.nearest(x - w / 2, y - h / 2, sit)
            if place:
                return Candidate(x=place[0], y=place[1], alpha=alpha, sit=sit)
        return near

    def moved(
        self, sampled: NDArray[np.float64], one: Candidate
    ) -> NDArray[np.float64]:
        """How far each gene was moved to make the candidate, ``(n,)``."""
        by = self.encode(one) - sampled
        cyclic = np.array([g.cyclic for g in self.genes])
        return np.where(cyclic, (by + 0.5) % 1 - 0.5, by)


def genome(space: Space) -> Genome:
    """Choose the genes that can vary in a space."""
    params, side = space.params, space.region.side
    margin = min(space.maker.grid_size) / 2
    ranges = params.sit
    wanted = [
        Gene("x", margin, side - margin),
        Gene("y", margin, side - margin),
        Gene("alpha", params.alpha_min, params.alpha_max),
        _angle("rotation", ranges.rotation),
        Gene("value", *ranges.value),
    ]
    if not space.maker.grey:
        wanted += [_angle("hue", ranges.hue), Gene("saturation", *ranges.saturation)]
    return Genome(space=space, genes=tuple(g for g in wanted if g.low < g.high))


def _angle(name: str, bounds: tuple[float, float]) -> Gene:
    return Gene(name, *bounds, cyclic=bounds[1] - bounds[0] == _CIRCLE)


class Covariance(Strategy):
    """Random candidates, then populations of CMA-ES from the best of them.

    What CMA-ES samples outside the feasible set is judged at the nearest
    feasible candidate, but told as sampled, with a penalty for the distance:
    resampling instead would keep the search away from the edges of lesion
    boxes and from the highest α, where good marks lie, and telling the repaired
    genes would shrink the distribution along the edge (N. Hansen, The CMA
    Evolution Strategy: A Tutorial, B.5). Only ranks are told, so equal fitness
    is ordered by its tie, and the penalty is in ranks: the squared distance in
    standard deviations of the population.

    Parameters
    ----------
    space
        Candidates of the frame.
    first
        The random candidates, in the order they are judged; at least one.
    budget
        Most candidates in all.
    generator
        Source of the seed of CMA-ES.
    """

    def __init__(
        self,
        space: Space,
        first: Sequence[Candidate],
        budget: int,
        generator: np.random.Generator,
    ) -> None:
        self._genome = genome(space)
        self._pending = tuple(first)
        self._budget = budget
        self._left = budget
        self._seed = int(generator.integers(2**32))
        self._known: dict[Candidate, tuple[float, float]] = {}
        self._population: list[tuple[NDArray[np.float64], Candidate]] = []
        self._cma: Any = None
        self._generation = 0

    @property
    @override
    def generation(self) -> int:
        """0 for the random candidates, then one per population."""
        return self._generation

    @property
    @override
    def bound(self) -> int:
        """The budget."""
        return self._budget

    @override
    def ask(self, count: int) -> Ask:
        """Up to `count` candidates of the population that was drawn."""
        return Ask(self._pending[:count])

    @override
    def tell(self, judged: Sequence[Judged], gradients: torch.Tensor | None) -> None:
        """Take note; when a population is through, draw the next one."""
        self._known |= {one.candidate: one.rank for one in judged}
        self._pending = self._pending[len(judged) :]
        self._left -= len(judged)
        if self._pending or self._left <= 0 or not self._genome.genes:
            return
        best = min(self._known, key=self._known.__getitem__)
        for _ in range(_STALE):
            self._learn(best)
            self._draw(best)
            fresh = dict.fromkeys(one for _, one in self._population)
            self._pending = tuple(c for c in fresh if c not in self._known)[
                : self._left
            ]
            if self._pending:
                self._generation += 1
                return

    def _learn(self, best: Candidate) -> None:
        """Start from the best random candidate, later learn from a population."""
        if self._cma is None:
            mean = self._genome.encode(best)
            self._cma = CMA(mean=mean, sigma=SIGMA, seed=self._seed)
            return
        sampled = np.stack([genes for genes, _ in self._population])
        moved = np.stack([self._genome.moved(g, one) for g, one in self._population])
        penalty = np.square(moved / sampled.std(axis=0)).sum(axis=1)
        found = [self._known[one] for _, one in self._population]
        order = sorted(set(found))
        worth = [order.index(rank) for rank in found] + penalty
        self._cma.tell(list(zip(sampled, worth.tolist(), strict=True)))

    def _draw(self, best: Candidate) -> None:
        sampled = [self._cma.ask() for _ in range(self._cma.population_size)]
        self._population = [(g, self._genome.decode(g, best)) for g in sampled]


def covariance_search(
    space: Space,
    generator: np.random.Generator,
    hints: Sequence[Candidate] = (),
) -> Covariance | None:
    """Make a CMA-ES search; None where the logo has no place.

    Its budget is `SearchParams.limit`; `hints` are judged before the random
    candidates, in place of as many of them.
    """
    budget = space.params.limit
    count = max(1, -int(-budget * RANDOM_SHARE // 1) - len(hints))
    places = anywhere(space, count, generator)
    if not places:
        return None
    first = (*hints, *with_alpha(places, space, generator))
    return Covariance(space, tuple(dict.fromkeys(first)), budget, generator)
