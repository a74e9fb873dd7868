"""Random, HE and HE-SIT on each model and on models left out (Figs. 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.experiments.bench import ALL, ONLY, WITHOUT
from engine.experiments.marked import Case, MarkRecord, measure_cases

if TYPE_CHECKING:
    from engine.experiments.bench import Bench
    from engine.experiments.images import Sample
    from engine.params import Strategy

STRATEGIES: Final[tuple[Strategy, ...]] = ("random", "he", "he-sit", "random-sit")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """The paper's searches with its stop rule, on every choice of sources.

    Attributes
    ----------
    left_out
        How many members each image leaves out in turn, at most all.
    delta
        Whether the product's δ is under the marks.
    """

    left_out: int = 2
    delta: bool = False

    @property
    def name(self) -> str:
        """Name of the table."""
        return "search"

    @property
    def record(self) -> type[MarkRecord]:
        """Type of the records."""
        return MarkRecord

    def measure(self, bench: Bench, sample: Sample) -> list[MarkRecord]:
        """Measure one image: whole ensemble, every member, members left out."""
        sources = [
            ALL,
            *(ONLY + name for name in bench.ensemble.names),
            *(WITHOUT + name for name in in_turn(bench, sample, self.left_out)),
        ]
        cases = [Case(strategy=s, sources=on) for on in sources for s in STRATEGIES]
        return measure_cases(bench, sample, cases, delta=self.delta)


def in_turn(bench: Bench, sample: Sample, count: int) -> list[str]:
    """Members an image leaves out: each as often as the others, in every class.

    Images come classes in turn, so the turn of members shifts by one with every
    round of the classes.
    """
    names = bench.ensemble.names
    if len(names) < 2:
        return []
    turn = sample.index + sample.index // len(bench.ensemble.labels)
    count = min(count, len(names))
    return [names[(turn * count + i) % len(names)] for i in range(count)]
