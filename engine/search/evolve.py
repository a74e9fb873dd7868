"""HE search over an immutable state (Alg. 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from engine.search.genes import breed, most_offspring
from engine.search.selection import dominants
from engine.search.strategy import Ask, Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from engine.search.candidate import Candidate, Judged
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
    return initial + generations * most_offspring(space) if initial else 0


def succeed(
    state: SearchState,
    space: Space,
    judged: Sequence[Judged],
    generations: int,
    generator: np.random.Generator,
) -> SearchState:
    """Return the state after the first pending candidates were judged.

    When a generation is through, the next one is bred from the dominants.
    """
    after = replace(
        state,
        pending=state.pending[len(judged) :],
        judged=(*state.judged, *judged),
    )
    if after.pending or after.generation >= generations:
        return after
    parents = dominants(after.judged, space.params)
    known = [one.candidate for one in after.judged]
    return replace(
        after,
        pending=breed(parents, known, space, generator),
        generation=after.generation + 1,
    )
