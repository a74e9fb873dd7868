"""All strategies and stop rules at one budget, judged by models left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.experiments.bench import WITHOUT
from engine.experiments.marked import Case, MarkRecord, measure_cases
from engine.experiments.search import in_turn

if TYPE_CHECKING:
    from engine.experiments.bench import Bench
    from engine.experiments.images import Sample
    from engine.params import Strategy

STRATEGIES: Final[tuple[Strategy, ...]] = (
    *("random-sit", "he", "he-sit"),
    *("gradient", "cma-es"),
)

STOPS: Final = ("ensemble", "all", "never")


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetPlan:
    """Strategies and stop rules at one budget.

    Attributes
    ----------
    strategies, stops
        Compared, every strategy with every stop rule.
    queries
        Budget in image queries; a backward pass counts as two.
    left_out
        How many members each image leaves out in turn, at most all.
    delta
        Whether the product's δ is under the marks.
    robust_changes
        Under how many random changes the finalists of the last stop rule are
        ranked again, as rows of their own; 0 for none.
    """

    strategies: tuple[Strategy, ...] = STRATEGIES
    stops: tuple[str, ...] = STOPS
    queries: int = 128
    left_out: int = 1
    delta: bool = False
    robust_changes: int = 0

    @property
    def name(self) -> str:
        """Name of the table."""
        return "budget"

    @property
    def record(self) -> type[MarkRecord]:
        """Type of the records."""
        return MarkRecord

    def measure(self, bench: Bench, sample: Sample) -> list[MarkRecord]:
        """Measure one image: every strategy and stop rule without a member."""
        cases = []
        for name in in_turn(bench, sample, self.left_out):
            sources = WITHOUT + name
            cases.append(Case(strategy="random", sources=sources, budget=1))
            cases += [
                Case(strategy=s, sources=sources, stop=stop, budget=self.queries)
                for stop in self.stops
                for s in self.strategies
            ]
            cases += [
                Case(
                    strategy=s,
                    sources=sources,
                    stop=self.stops[-1],
                    budget=self.queries,
                    robust_changes=self.robust_changes,
                )
                for s in self.strategies
                if self.robust_changes
            ]
        return measure_cases(bench, sample, cases, delta=self.delta, changes=True)
