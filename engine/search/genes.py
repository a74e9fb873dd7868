"""Mutation and crossover (Eq. 11; Alg. 3, lines 18 and 19)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from engine.search.grid import mutation_step
from engine.search.populate import transforming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from engine.search.candidate import Candidate
    from engine.search.space import Space
    from engine.types import SIT

PLACED: Final = 3
"""Genes of the paper's individual, ρ = [x, y, α]."""

TURNS: Final = 12
"""Steps a gene of the transform takes through its range: about as fine as the
paper's 15 of 255 for α."""

_ATTEMPTS: Final = 8
"""Pairings tried per child before a generation is left with fewer children:
most pairings are new, unless parents are few and alike."""

_CIRCLE: Final = 360.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SITGene:
    """A gene of the transform: its name, step and range.

    A ``cyclic`` one goes round: its range is the whole circle.
    """

    name: str
    step: float
    low: float
    high: float
    cyclic: bool

    def moved(self, sit: SIT, direction: int) -> SIT:
        """One step up (1) or down (-1), kept in the range."""
        value = getattr(sit, self.name) + direction * self.step
        if self.cyclic:
            value = self.low + (value - self.low) % _CIRCLE
        return replace(sit, **{self.name: min(max(value, self.low), self.high)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Genes:
    """The genes of a space's candidates, and how far each mutates.

    Attributes
    ----------
    space
        What is feasible.
    steps
        s of Eq. 11 for x, y (pixels of the grid) and α (bytes).
    turned
        Genes of the transform, where it is mutated too.
    """

    space: Space
    steps: tuple[int, int, int]
    turned: tuple[SITGene, ...] = ()

    @property
    def combinations(self) -> int:
        """3 to the number of genes: g, g + s and g - s of each (27 for ρ)."""
        return int(3 ** (PLACED + len(self.turned)))

    def mutant(self, parent: Candidate, code: int) -> Candidate:
        """One combination of a parent's mutated and unchanged genes.

        Parameters
        ----------
        parent
            A candidate.
        code
            0..combinations - 1: a digit in base three per gene, the first of x:
            0 keeps it, 1 adds its step, 2 takes it off. α is kept in its bounds.
        """
        dx, dy, da = (self._direction(code, gene) for gene in range(PLACED))
        sit = parent.sit
        for gene, turned in enumerate(self.turned, PLACED):
            direction = self._direction(code, gene)
            sit = turned.moved(sit, direction) if direction else sit
        return parent._replace(
            x=parent.x + dx * self.steps[0],
            y=parent.y + dy * self.steps[1],
            alpha=self.space.alpha(parent.alpha + da * self.steps[2]),
            sit=sit,
        )

    def mutants(
        self, parent: Candidate, codes: Iterable[int] | None = None
    ) -> Iterator[Candidate]:
        """Feasible mutants of a parent, without the parent itself, as asked for.

        ``codes`` says which combinations, in which order; None for all.
        """
        for code in range(self.combinations) if codes is None else codes:
            child = self.mutant(parent, int(code))
            if child != parent and self.space.feasible(child):
                yield child

    def exchanged(
        self, one: Candidate, other: Candidate, generator: np.random.Generator
    ) -> Candidate:
        """Take each gene from either of two candidates by the toss of a coin.

        A transform that is not mutated is inherited whole.
        """
        x, y, alpha, whole = generator.integers(2, size=PLACED + 1)
        sit = (one, other)[whole].sit
        for gene in self.turned:
            chosen = (one, other)[generator.integers(2)].sit
            sit = replace(sit, **{gene.name: getattr(chosen, gene.name)})
        return one._replace(
            x=(one, other)[x].x,
            y=(one, other)[y].y,
            alpha=(one, other)[alpha].alpha,
            sit=sit,
        )

    @staticmethod
    def _direction(code: int, gene: int) -> int:
        return (0, 1, -1)[code // 3**gene % 3]


def genes(space: Space) -> Genes:
    """Genes and steps of a space (Eq. 10 for positions)."""
    params, grid = space.params, space.grid
    pitch = float(grid.pitch)
    distance = grid.spacing() if params.step == "spacing" else (pitch, pitch)
    across, down = (mutation_step(d, params.n_g) for d in distance)
    return Genes(
        space=space, steps=(across, down, params.s_alpha), turned=_turned(space)
    )


def _turned(space: Space) -> tuple[SITGene, ...]:
    """Genes of the transform that vary; hue and saturation not on a grey frame."""
    params = space.params
    if params.sit_scope != "genes" or not transforming(params):
        return ()
    names = ("rotation", "value") if space.maker.grey else _SIT_NAMES
    found = []
    for name in names:
        low, high = getattr(params.sit, name)
        if low < high:
            step = (high - low) / TURNS
            cyclic = name in {"rotation", "hue"} and high - low == _CIRCLE
            found.append(
                SITGene(name=name, step=step, low=low, high=high, cyclic=cyclic)
            )
    return tuple(found)


_SIT_NAMES: Final = ("rotation", "hue", "saturation", "value")


def offspring_per_parent(r_c: float) -> int:
    """How many of the 27 gene combinations of a parent are tried: 8 of the paper.

    More genes have more combinations, but no more offspring: what the search
    costs does not depend on what it mutates.
    """
    return max(1, math.floor(3**PLACED * r_c))


def offspring_by_swap(parents: int, r_c: float) -> int:
    """Count of the paper for a generation, r_c·27·N_p: 121 of 405."""
    return max(1, math.floor(3**PLACED * parents * r_c + 1e-9))


def most_offspring(space: Space) -> int:
    """Most candidates a generation can have."""
    params = space.params
    if params.crossover == "swap":
        return offspring_by_swap(params.n_p, params.r_c)
    return params.n_p * offspring_per_parent(params.r_c)


def breed(
    parents: Sequence[Candidate],
    known: Iterable[Candidate],
    space: Space,
    generator: np.random.Generator,
) -> tuple[Candidate, ...]:
    """Breed candidates that are feasible and not judged yet.

    Parameters
    ----------
    parents
        The dominants, best first.
    known
        Everything judged so far.
    space
        What is feasible, and how to cross over.
    generator
        Source of every choice.

    Returns
    -------
    tuple of Candidate
        Those of the best parent first; at most `most_offspring`.
    """
    cross = _swap if space.params.crossover == "swap" else _product
    return tuple(cross(parents, set(known), genes(space), generator))


def _product(
    parents: Sequence[Candidate],
    known: set[Candidate],
    kinds: Genes,
    generator: np.random.Generator,
) -> Iterator[Candidate]:
    """Combine mutated and unchanged genes of each parent: the r_c-fraction.

    Drawn one by one until the quota is filled, so that seven genes (2187
    combinations) cost little more than three.
    """
    quota = offspring_per_parent(kinds.space.params.r_c)
    for parent in parents:
        born = 0
        for child in kinds.mutants(parent, generator.permutation(kinds.combinations)):
            if child in known:
                continue
            known.add(child)
            yield child
            born += 1
            if born == quota:
                break


def _swap(
    parents: Sequence[Candidate],
    known: set[Candidate],
    kinds: Genes,
    generator: np.random.Generator,
) -> Iterator[Candidate]:
    """Textbook crossover: two parents are mutated, the child has genes of both."""
    count = offspring_by_swap(len(parents), kinds.space.params.r_c)
    for _ in range(count * _ATTEMPTS):
        pair = generator.choice(len(parents), size=2, replace=len(parents) < 2)
        one, other = (
            kinds.mutant(parents[i], int(generator.integers(kinds.combinations)))
            for i in pair
        )
        child = kinds.exchanged(one, other, generator)
        if child in known or not kinds.space.feasible(child):
            continue
        known.add(child)
        yield child
        count -= 1
        if count == 0:
            return
