"""HE search over an immutable state (Alg. 3)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from engine.search.candidate import Candidate, Judged
from engine.search.grid import mutation_step
from engine.search.strategy import Ask, Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from engine.search.space import Space


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchState:
    """A search between two batches; never changed, only succeeded.

    Attributes
    ----------
    pending
        Candidates still to be judged, in order.
    judged
        Everything judged so far, in order.
    generation
        0 for the initial population.
    """

    pending: tuple[Candidate, ...]
    judged: tuple[Judged, ...] = ()
    generation: int = 0


class Evolution(Strategy):
    """HE and HE-SIT: an initial population, then N_g generations of offspring.

    Parameters
    ----------
    space
        Candidates of the frame.
    initial
        The initial population, in the order it is judged.
    generations
        N_g; zero for random search.
    generator
        Source of the choice of mutations.
    """

    def __init__(
        self,
        space: Space,
        initial: Sequence[Candidate],
        generations: int,
        generator: np.random.Generator,
    ) -> None:
        self.space = space
        self.generations = generations
        self.initial = len(initial)
        self.state = SearchState(pending=tuple(initial))
        self._generator = generator

    @property
    @override
    def generation(self) -> int:
        """Which generation is being judged."""
        return self.state.generation

    @property
    @override
    def bound(self) -> int:
        """Most candidates the search can judge."""
        return natural_budget(self.initial, self.space, self.generations)

    @override
    def ask(self, count: int) -> Ask:
        """Up to `count` pending candidates."""
        return Ask(self.state.pending[:count])

    @override
    def tell(self, judged: Sequence[Judged], gradients: torch.Tensor | None) -> None:
        """Take note; when a generation is through, breed the next one."""
        self.state = succeed(
            self.state, self.space, judged, self.generations, self._generator
        )


def natural_budget(initial: int, space: Space, generations: int) -> int:
    """Most candidates `generations` of offspring come to after `initial` ones."""
    if not initial:
        return 0
    params = space.params
    return initial + generations * params.n_p * offspring_per_parent(params.r_c)


def succeed(
    state: SearchState,
    space: Space,
    judged: Sequence[Judged],
    generations: int,
    generator: np.random.Generator,
) -> SearchState:
    """Return the state after the first pending candidates were judged.

    When a generation is through, the next one is bred from the N_p best of
    all judged (parents and offspring compete, so the best is never lost).
    """
    after = replace(
        state,
        pending=state.pending[len(judged) :],
        judged=(*state.judged, *judged),
    )
    if after.pending or after.generation >= generations:
        return after
    parents = dominants(after, space.params.n_p)
    return replace(
        after,
        pending=_offspring(parents, after, space, generator),
        generation=after.generation + 1,
    )


def dominants(state: SearchState, count: int) -> tuple[Candidate, ...]:
    """Pick the `count` candidates of lowest f_t, best first."""
    best = sorted(state.judged, key=lambda one: one.rank)[:count]
    return tuple(one.candidate for one in best)


def offspring_per_parent(r_c: float) -> int:
    """How many of the 27 gene combinations of a parent are tried."""
    return max(1, math.floor(27 * r_c))


def mutants(parent: Candidate, space: Space) -> list[Candidate]:
    """All feasible combinations of g, g + s and g - s per gene (Eq. 11).

    Combining mutated with unchanged genes is the paper's crossover. The parent
    itself is left out; α is clipped to its bounds.
    """
    params = space.params
    s_p = mutation_step(params.r_p, params.n_g)
    found: dict[Candidate, None] = {}
    for dx, dy, da in itertools.product((0, 1, -1), repeat=3):
        child = parent._replace(
            x=parent.x + dx * s_p,
            y=parent.y + dy * s_p,
            alpha=space.alpha(parent.alpha + da * params.s_alpha),
        )
        if child != parent and space.feasible(child):
            found[child] = None
    return list(found)


def _offspring(
    parents: Sequence[Candidate],
    state: SearchState,
    space: Space,
    generator: np.random.Generator,
) -> tuple[Candidate, ...]:
    """Breed new candidates of all parents, those of the best parent first."""
    known = {one.candidate for one in state.judged}
    quota = offspring_per_parent(space.params.r_c)
    born: list[Candidate] = []
    for parent in parents:
        fresh = [child for child in mutants(parent, space) if child not in known]
        chosen = generator.permutation(len(fresh))[:quota]
        born.extend(fresh[i] for i in chosen)
        known.update(fresh[i] for i in chosen)
    return tuple(born)
