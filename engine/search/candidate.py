"""What a search proposes and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from engine.types import SIT


class Candidate(NamedTuple):
    """A place, an opacity and a transform: ρ = [x, y, α] of the paper and SIT.

    ``x`` and ``y`` are column and row of the upper-left corner of the footprint
    on the model grid, ``alpha`` a byte 1..255.
    """

    x: int
    y: int
    alpha: int
    sit: SIT


class Judgement(NamedTuple):
    """What the objective says of one candidate; lower is better.

    Attributes
    ----------
    fitness
        What the search minimises: f_t, the ensemble's softmax confidence in the
        label (Eq. 12), or the mean margin of the members.
    tie
        Orders equal fitness: log-odds of the label in the ensemble.
    wrong
        How many members err.
    deceived
        Whether the ensemble errs.
    success
        Whether the stop rule is met.
    """

    fitness: float
    tie: float
    wrong: int
    deceived: bool
    success: bool

    @property
    def rank(self) -> tuple[float, float]:
        """Sorting key, best first."""
        return self.fitness, self.tie


class Judged(NamedTuple):
    """A candidate with its judgement: an entry of the trace.

    ``generation`` is 0 for the initial population, ``cost`` what it is charged
    in image queries: 1, and 3 where a gradient was taken too.
    """

    candidate: Candidate
    judgement: Judgement
    generation: int = 0
    cost: int = 1

    @property
    def rank(self) -> tuple[float, float]:
        """Sorting key, best first."""
        return self.judgement.rank
