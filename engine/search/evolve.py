"""HE search as ask and tell over an immutable state (Alg. 3)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from engine.search.grid import mutation_step
from engine.search.space import Individual

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from engine.params import SearchParams
    from engine.search.space import Region, Variant


class Judgement(NamedTuple):
    """What the objective says of one candidate image; lower is better.

    ``fitness`` is f_t, ``tie`` orders equal ones, ``success`` whether the
    candidate does what is wanted.
    """

    fitness: float
    tie: float
    success: bool


class Judged(NamedTuple):
    """An individual with its judgement."""

    individual: Individual
    judgement: Judgement

    @property
    def rank(self) -> tuple[float, float]:
        """Sorting key, best first."""
        return self.judgement.fitness, self.judgement.tie


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What stays the same during one search.

    ``generations`` is N_g, zero for strategies that do not evolve.
    """

    region: Region
    variants: tuple[Variant, ...]
    params: SearchParams
    generations: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchState:
    """A search between two batches; never changed, only succeeded.

    Attributes
    ----------
    pending
        Individuals still to be judged, in order.
    judged
        The trace: everything judged so far, in order.
    generation
        0 for the initial population.
    """

    pending: tuple[Individual, ...]
    judged: tuple[Judged, ...] = ()
    generation: int = 0

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return not self.pending


def ask(state: SearchState, count: int) -> tuple[Individual, ...]:
    """Up to `count` individuals to judge next, in evaluation order."""
    return state.pending[:count]


def tell(
    state: SearchState,
    problem: Problem,
    judgements: Sequence[Judgement],
    generator: np.random.Generator,
) -> SearchState:
    """Return the state after the first pending individuals were judged.

    When a generation is through, the next one is bred from the N_p best of
    all judged (parents and offspring compete, so the best is never lost).

    Parameters
    ----------
    state
        Before.
    problem
        Region, variants and parameters.
    judgements
        One for each of the individuals `ask` gave, in order.
    generator
        Source of the choice of mutations.
    """
    count = len(judgements)
    judged = (
        *state.judged,
        *map(Judged, state.pending[:count], judgements),
    )
    after = replace(state, pending=state.pending[count:], judged=judged)
    if after.pending or after.generation >= problem.generations:
        return after
    return replace(
        after,
        pending=_offspring(
            dominants(after, problem.params.n_p), after, problem, generator
        ),
        generation=after.generation + 1,
    )


def dominants(state: SearchState, count: int) -> tuple[Individual, ...]:
    """Pick the `count` individuals of lowest f_t, best first."""
    best = sorted(state.judged, key=lambda one: one.rank)[:count]
    return tuple(one.individual for one in best)


def offspring_per_parent(r_c: float) -> int:
    """How many of the 27 gene combinations of a parent are tried."""
    return max(1, math.floor(27 * r_c))


def mutants(parent: Individual, problem: Problem) -> list[Individual]:
    """All feasible combinations of g, g + s and g - s per gene (Eq. 11).

    Combining mutated with unchanged genes is the paper's crossover. The parent
    itself is left out; α is clipped to its bounds.
    """
    params = problem.params
    s_p = mutation_step(params.r_p, problem.generations)
    size = problem.variants[parent.variant].size
    found: dict[Individual, None] = {}
    for dx, dy, da in itertools.product((0, 1, -1), repeat=3):
        alpha = parent.alpha + da * params.s_alpha
        child = Individual(
            x=parent.x + dx * s_p,
            y=parent.y + dy * s_p,
            alpha=min(max(alpha, params.alpha_min), params.alpha_max),
            variant=parent.variant,
        )
        if child != parent and problem.region.feasible(child.x, child.y, size):
            found[child] = None
    return list(found)


def _offspring(
    parents: Sequence[Individual],
    state: SearchState,
    problem: Problem,
    generator: np.random.Generator,
) -> tuple[Individual, ...]:
    """Breed new individuals of all parents, those of the best parent first."""
    known = {one.individual for one in state.judged}
    quota = offspring_per_parent(problem.params.r_c)
    born: list[Individual] = []
    for parent in parents:
        fresh = [child for child in mutants(parent, problem) if child not in known]
        chosen = generator.permutation(len(fresh))[:quota]
        born.extend(fresh[i] for i in chosen)
        known.update(fresh[i] for i in chosen)
    return tuple(born)
