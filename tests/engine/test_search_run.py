"""Running searches: stop rules, budgets, shared batches, and planted weaknesses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from typing_extensions import override

from engine.errors import InvalidParameter
from engine.params import StopRule
from engine.search import run
from engine.search.candidate import Candidate, Judged, Judgement
from engine.search.judges import Judges
from engine.search.objective import Objective, objective_for, opinions
from engine.search.run import MAX_CONFIRMATIONS, Outcome, Task, run_searches
from engine.search.show import Gallery
from engine.search.strategy import Ask, Strategy
from engine.types import SIT
from tests.engine.planted import planted_ensemble
from tests.engine.searching import evolution, host_picture, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.models.ensemble import Ensemble
    from engine.search.start import Start

HOST = host_picture()
PLANTED = (120, 70, 170, 100)
THREE = ((100, 70, 130, 90), (140, 70, 170, 90), (120, 95, 150, 115))
HELD = Judgement(fitness=0.0, tie=-1.0, wrong=9, deceived=True, success=True)
SMALL = {"r_p": 0.001, "n_p": 4}
"""24 grid points, then 32 offspring per generation."""
UNDONE = Judgement(fitness=1.0, tie=1.0, wrong=0, deceived=False, success=False)


def _planted(*windows: tuple[int, int, int, int], threshold: float = 0.06) -> Ensemble:
    return planted_ensemble(HOST, *windows, threshold=threshold)


def _objective(
    ensemble: Ensemble, stop: str = "ensemble", *, label_free: bool = False
) -> Objective:
    rule = StopRule.parse(stop)
    return objective_for(ensemble, HOST, 0, rule, label_free=label_free)


@dataclass
class _Witness:
    """Confirms whatever it is asked, or nothing, and remembers it."""

    agree: bool = True
    asked: list[Candidate] = field(default_factory=list)

    def __call__(self, one: Candidate) -> Judgement | None:
        self.asked.append(one)
        return HELD if self.agree else UNDONE


def _task(
    begun: Start, objective: Objective, witness: _Witness | None = None, budget: int = 0
) -> Task:
    return Task(
        strategy=begun.strategy,
        objective=objective,
        gallery=Gallery(begun.space.maker, HOST),
        confirm=witness or _Witness(),
        budget=budget,
    )


def _search(task: Task) -> Outcome:
    (outcome,) = run_searches([task], Judges(task.objective.ensemble, precise=True))
    return outcome


@pytest.mark.parametrize("strategy", ["he", "he-sit", "random-sit"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_weakness_is_found(strategy: str, seed: int) -> None:
    ensemble, witness = _planted(PLANTED, PLANTED), _Witness()
    assert opinions(ensemble, HOST[None])[0].label == 0
    begun = start(seed, strategy=strategy)
    outcome = _search(_task(begun, _objective(ensemble), witness))
    assert outcome.success
    assert witness.asked == [outcome.best.candidate]
    # Paper-comparable: the first success in evaluation order ends the count.
    firsts = [i for i, j in enumerate(outcome.judged) if j.judgement.success]
    assert outcome.queries == outcome.first_error == firsts[0] + 1
    assert len(outcome.judged) <= 338
    x, y, _, sit = outcome.best.candidate
    w, h = begun.space.size(sit)
    assert x < PLANTED[2]
    assert x + w > PLANTED[0]
    assert y < PLANTED[3]
    assert y + h > PLANTED[1]


def test_a_strong_classifier_is_reported_as_a_failure() -> None:
    witness = _Witness()
    begun = start(strategy="he", n_p=4, r_p=0.002)
    outcome = _search(_task(begun, _objective(_planted(PLANTED, threshold=2.0))))
    assert not outcome.success
    assert witness.asked == []
    assert outcome.queries == len(outcome.judged)
    assert outcome.first_error is None
    assert outcome.best.rank == min(j.rank for j in outcome.judged)


def test_results_that_do_not_hold_are_not_believed() -> None:
    witness = _Witness(agree=False)
    begun = start(strategy="he-sit")
    outcome = _search(_task(begun, _objective(_planted(PLANTED)), witness))
    assert not outcome.success
    assert 1 <= len(witness.asked) == len(set(witness.asked)) <= 2 * MAX_CONFIRMATIONS
    claimed = [j.candidate for j in outcome.judged if j.judgement.deceived]
    assert set(witness.asked) <= set(claimed)


def test_label_free_search_takes_the_success_that_moves_features_most() -> None:
    objective = _objective(_planted(PLANTED, PLANTED, threshold=0.04), label_free=True)
    begun, witness = start(strategy="he", **SMALL), _Witness()
    population = evolution(begun).state.pending
    outcome = _search(_task(begun, objective, witness))
    assert outcome.success
    # The whole first generation was judged, and only its best put to the test.
    assert len(outcome.judged) == outcome.queries == len(population)
    assert witness.asked == [outcome.best.candidate]
    successes = [j for j in outcome.judged if j.judgement.success]
    assert len(successes) > 1
    assert objective.displacement(HOST[None]) == pytest.approx([0.0], abs=1e-6)


def test_saturated_confidences_are_told_apart() -> None:
    ensemble = _planted((0, 0, 224, 224), threshold=5.0)
    pictures = torch.stack([HOST, HOST + 0.01])
    plain, moved = _objective(ensemble).judge(ensemble.member_logits(pictures).double())
    assert plain.fitness == moved.fitness == 1.0
    assert moved.tie < plain.tie


def _leads(ensemble: Ensemble, one: Judged, begun: Start) -> torch.Tensor:
    """Lead of class 0 in each member, judged anew and alone."""
    picture = Gallery(begun.space.maker, HOST).pictures([one.candidate])
    with torch.inference_mode():
        logits = ensemble.member_logits(picture)[:, 0]
    return logits[:, 0] - logits[:, 1]


RULES = {
    "ensemble": lambda leads: leads.sigmoid().mean() < 0.5,
    "vote:1": lambda leads: (leads < 0).sum() >= 1,
    "vote:2": lambda leads: (leads < 0).sum() >= 2,
    "all": lambda leads: bool((leads < 0).all()),
    "margin:1.5": lambda leads: bool((leads <= -1.5).all()),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_first_candidate_that_meets_the_rule_ends_the_search(rule: str) -> None:
    ensemble, begun = _planted(*THREE), start(2, strategy="random-sit")
    outcome = _search(_task(begun, _objective(ensemble, rule)))
    met = [bool(RULES[rule](_leads(ensemble, j, begun))) for j in outcome.judged]
    assert outcome.success
    assert met.index(True) + 1 == outcome.queries
    assert outcome.judged[outcome.queries - 1] == outcome.best
    assert [one.judgement.success for one in outcome.judged] == met


def test_stricter_rules_cost_more() -> None:
    spent = []
    for rule in ("vote:1", "vote:2", "vote:3", "margin:1.5", "never"):
        begun = start(2, strategy="random-sit", budget=90)
        spent.append(_search(_task(begun, _objective(_planted(*THREE), rule))).queries)
    assert spent == sorted(spent)
    assert spent[0] < spent[-2] < spent[-1] == 90
    assert StopRule.parse("vote:3") != StopRule.parse("all")


def test_never_spends_the_budget_and_takes_the_largest_margin() -> None:
    begun, witness = start(2, strategy="he-sit", **SMALL), _Witness()
    outcome = _search(_task(begun, _objective(_planted(*THREE), "never"), witness, 70))
    assert outcome.success
    assert outcome.queries == len(outcome.judged) == 70
    assert outcome.best.judgement.deceived
    deceiving = [j for j in outcome.judged if j.judgement.deceived]
    assert outcome.best.rank == min(j.rank for j in deceiving)
    assert outcome.first_error is not None
    assert outcome.first_error < 70
    assert witness.asked == [outcome.best.candidate]


def test_more_votes_than_members_are_refused() -> None:
    _objective(_planted(*THREE), "vote:3")
    with pytest.raises(InvalidParameter, match="only 3 members"):
        _objective(_planted(*THREE), "vote:4")


@pytest.mark.parametrize("strategy", ["he-sit", "random-sit", "he"])
@pytest.mark.parametrize("budget", [1, 17, 60])
def test_a_budget_is_spent_exactly(strategy: str, budget: int) -> None:
    begun = start(strategy=strategy, budget=budget, **SMALL)
    ticks: list[int] = []
    task = _task(begun, _objective(_planted(PLANTED), "never"), budget=budget)
    task.tick = ticks.append
    outcome = _search(task)
    assert outcome.queries == len(outcome.judged) == sum(ticks) == budget


class _Steep(Strategy):
    """Alternates plain candidates and candidates with gradients, without end."""

    def __init__(self, plain: int, steep: int) -> None:
        self._batches = (plain, steep)
        self._turn = 0
        self.gradients: list[torch.Tensor] = []
        self.told: list[int] = []

    @property
    @override
    def generation(self) -> int:
        return self._turn

    @property
    @override
    def bound(self) -> int:
        return 10**6

    @override
    def ask(self, count: int) -> Ask:
        steep = self._turn % 2 == 1
        number = self._batches[steep]
        ones = (
            Candidate(x=i, y=self._turn, alpha=200, sit=SIT()) for i in range(number)
        )
        return Ask(tuple(ones), gradients=steep)

    @override
    def tell(self, judged: Sequence[Judged], gradients: torch.Tensor | None) -> None:
        self.told.append(len(judged))
        if gradients is not None:
            self.gradients.append(gradients)
        self._turn += 1


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (2, [2]),
        (4, [2]),  # 2 left: not enough for one gradient
        (5, [2, 1]),
        (10, [2, 2, 2]),
        (12, [2, 2, 2]),
        (13, [2, 2, 2, 1]),
    ],
)
def test_gradients_are_charged_three_queries(budget: int, told: list[int]) -> None:
    strategy, begun = _Steep(2, 2), start(strategy="he")
    task = Task(
        strategy=strategy,
        objective=_objective(_planted(PLANTED, threshold=2.0)),
        gallery=Gallery(begun.space.maker, HOST),
        confirm=_Witness(),
        budget=budget,
    )
    outcome = _search(task)
    assert strategy.told == told
    steep = sum(told[1::2])
    assert outcome.queries == sum(told[::2]) + 3 * steep <= budget
    assert outcome.gradients == steep
    assert [one.cost for one in outcome.judged].count(3) == steep
    for slopes in strategy.gradients:
        assert slopes.shape[1:] == HOST.shape
        assert slopes.abs().amax() > 0
    # Nothing more was affordable.
    assert budget - outcome.queries < (3 if len(told) % 2 else 1)


def _plain(outcome: Outcome) -> list[tuple[Candidate, int, bool]]:
    return [
        (one.candidate, one.generation, one.judgement.deceived)
        for one in outcome.judged[: outcome.queries]
    ]


@pytest.mark.parametrize("strategy", ["he-sit", "gradient", "cma-es"])
def test_a_search_does_not_depend_on_what_runs_beside_it(strategy: str) -> None:
    ensemble = _planted(*THREE)

    def tasks() -> list[Task]:
        rules = ("vote:2", "never", "all")
        begun = [
            start(seed, strategy=strategy, budget=48, **SMALL) for seed in range(3)
        ]
        return [
            _task(one, _objective(ensemble, rule), budget=48)
            for one, rule in zip(begun, rules, strict=True)
        ]

    together = run_searches(tasks(), Judges(ensemble, precise=True))
    alone = [_search(task) for task in tasks()]
    assert [_plain(one) for one in together] == [_plain(one) for one in alone]
    assert [one.best.candidate for one in together] == [
        one.best.candidate for one in alone
    ]
    assert [one.queries for one in together] == [one.queries for one in alone]


@pytest.mark.parametrize("strategy", ["he", "he-sit", "random-sit", "cma-es"])
@pytest.mark.parametrize("stop", ["ensemble", "never"])
def test_a_search_does_not_depend_on_its_batches(
    strategy: str, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for sizes in ((1,), (4, 8, 16)):
        monkeypatch.setattr(run, "_BATCHES", sizes)
        begun = start(5, strategy=strategy, budget=48, **SMALL)
        task = _task(begun, _objective(_planted(*THREE), stop), budget=48)
        outcome = _search(task)
        found.append((_plain(outcome), outcome.best.candidate, outcome.queries))
    assert found[0] == found[1]


def test_no_tasks_no_outcomes() -> None:
    assert run_searches([], Judges(_planted(PLANTED))) == []


def test_another_seed_is_another_search() -> None:
    first, second = (
        evolution(start(seed, strategy="he-sit")).state.pending for seed in (0, 1)
    )
    assert set(first).isdisjoint(second)
    assert np.mean([one.alpha for one in first]) != np.mean([o.alpha for o in second])
