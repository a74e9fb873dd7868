"""The search: Eqs. 9-11, ask and tell, feasibility, and a planted weakness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import NoFeasiblePlacement
from engine.lesion.boxes import fill
from engine.models.ensemble import Ensemble
from engine.params import SearchParams, StopRule
from engine.search.candidate import Candidate, Judged, Judgement
from engine.search.evolve import (
    Evolution,
    SearchState,
    dominants,
    mutants,
    natural_budget,
    offspring_per_parent,
    succeed,
)
from engine.search.grid import grid_points, mutation_step, pitch
from engine.search.objective import Objective, objective_for, opinion
from engine.search.region import Region, region
from engine.search.run import MAX_CONFIRMATIONS, Outcome, Task, run_searches
from engine.search.show import Gallery
from engine.search.space import Space
from engine.search.start import Start, start_search
from engine.types import SIT, Box
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.planted import planted_ensemble

LOGO = load_logo()
OPEN = region(np.zeros((224, 224), dtype=np.bool_))


def _maker(sl: float = 2.0) -> PatchMaker:
    geometry = Geometry(columns=224, rows=224)
    return PatchMaker(logo=LOGO, geometry=geometry, sl=sl, grey=True)


@pytest.mark.parametrize(
    ("patch", "r_p", "count", "g"),
    [
        ((112, 62), 0.005, 96, 14),
        ((56, 31), 0.001, 42, 31),
        ((112, 112), 0.005, 64, 14),
    ],
)
def test_equation_9_on_the_papers_settings(
    patch: tuple[int, int], r_p: float, count: int, g: int
) -> None:
    points = grid_points((224, 224), patch, r_p)
    assert pitch(r_p) == g
    assert len(points) == len(set(points)) == count


@given(
    st.tuples(st.integers(32, 500), st.integers(32, 500)),
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.floats(0.0005, 1),
)
def test_grid_points_lie_inside(
    frame: tuple[int, int], patch: tuple[int, int], r_p: float
) -> None:
    points = grid_points(frame, patch, r_p)
    assert all(
        0 <= x <= frame[0] - patch[0] and 0 <= y <= frame[1] - patch[1]
        for x, y in points
    )
    fits = patch[0] <= frame[0] and patch[1] <= frame[1]
    assert bool(points) == fits


def test_a_logo_as_wide_as_the_frame_gets_one_column() -> None:
    points = grid_points((224, 224), (224, 124), 0.005)
    assert {x for x, _ in points} == {0}
    assert len(points) > 1


@pytest.mark.parametrize(
    ("r_p", "n_g", "step"), [(0.005, 2, 3), (0.005, 7, 1), (0.001, 2, 7), (0.005, 0, 1)]
)
def test_equation_10(r_p: float, n_g: int, step: int) -> None:
    assert mutation_step(r_p, n_g) == step


def test_the_budget_is_the_papers() -> None:
    params = SearchParams()
    assert offspring_per_parent(params.r_c) == 8
    # The paper counts 121 per generation; 8 for each of 15 parents are 120.
    assert natural_budget(96, _space(), params.n_g) == 336


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_the_summed_area_table_tells_whole_footprints(data: st.DataObject) -> None:
    edges = st.integers(0, 40)
    boxes = [
        Box(x0=x, y0=y, x1=x + w, y1=y + h)
        for x, y, w, h in data.draw(
            st.lists(st.tuples(edges, edges, st.integers(1, 20), st.integers(1, 20)))
        )
    ]
    forbidden = fill(boxes, (48, 48))
    free = region(forbidden)
    size = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    padded = np.pad(forbidden, 1)
    expected = [
        (x, y)
        for y in range(48 - size[1] + 1)
        for x in range(48 - size[0] + 1)
        if not padded[y : y + size[1] + 2, x : x + size[0] + 2].any()
    ]
    assert [tuple(p) for p in free.positions(size)] == expected
    for x, y in expected[:5]:
        assert free.feasible(x, y, size)
    assert not free.feasible(48 - size[0] + 1, 0, size)


def _space(free: Region = OPEN, **changes: object) -> Space:
    params = SearchParams(**changes)  # type: ignore[arg-type]
    return Space(region=free, maker=_maker(params.sl), params=params)


def test_equation_11_gives_27_combinations_less_the_parent() -> None:
    parent = Candidate(x=50, y=60, alpha=150, sit=SIT())
    found = mutants(parent, _space())
    assert len(set(found)) == 26
    assert {m.x for m in found} == {47, 50, 53}
    assert {m.y for m in found} == {57, 60, 63}
    assert {m.alpha for m in found} == {135, 150, 165}


def test_mutants_respect_bounds_boxes_and_opacity() -> None:
    forbidden = fill([Box(x0=170, y0=0, x1=224, y1=224)], (224, 224))
    space = _space(region(forbidden))
    found = mutants(Candidate(x=56, y=0, alpha=200, sit=SIT()), space)
    assert found
    assert max(m.alpha for m in found) == 204
    assert min(m.y for m in found) == 0
    assert max(m.x for m in found) + 112 < 170


def _judge(one: Candidate) -> Judged:
    distance = abs(one.x - 80) + abs(one.y - 90) + abs(one.alpha - 150)
    return Judged(
        one,
        Judgement(
            fitness=float(distance), tie=0.0, wrong=0, deceived=False, success=False
        ),
    )


def _evolution(start: Start) -> Evolution:
    assert isinstance(start.strategy, Evolution)
    return start.strategy


def _run_out(start: Start, size: int) -> SearchState:
    strategy = _evolution(start)
    while asked := strategy.ask(size).candidates:
        strategy.tell([_judge(one) for one in asked], None)
    return strategy.state


def _start(seed: int = 0, free: Region = OPEN, **changes: object) -> Start:
    params = SearchParams(**changes)  # type: ignore[arg-type]
    return start_search(_maker(params.sl), free, params, np.random.default_rng(seed))


def test_the_search_improves_and_keeps_its_budget() -> None:
    start = _start(strategy="he")
    pending = _evolution(start).state.pending
    state = _run_out(start, 16)
    first = min(_judge(one).rank for one in pending)
    best = min(j.rank for j in state.judged)
    assert len(pending) == 96
    assert len(state.judged) <= start.strategy.bound == 336
    assert state.generation == 2
    assert best < first
    everyone = [j.candidate for j in state.judged]
    assert len(everyone) == len(set(everyone))


def test_batches_do_not_change_a_search() -> None:
    assert (
        _run_out(_start(strategy="he-sit"), 1).judged
        == _run_out(_start(strategy="he-sit"), 50).judged
    )


def test_asking_twice_gives_the_same_answer() -> None:
    strategy = _start(strategy="he-sit").strategy
    assert strategy.ask(7) == strategy.ask(7)


def test_parents_compete_with_offspring() -> None:
    state = _run_out(_start(strategy="he"), 16)
    best = min(state.judged, key=lambda j: j.rank)
    assert dominants(state, 1) == (best.candidate,)


def test_a_state_is_never_changed() -> None:
    start = _start(strategy="he")
    before = _evolution(start).state
    succeed(
        before,
        start.space,
        [_judge(one) for one in before.pending[:10]],
        2,
        np.random.default_rng(0),
    )
    assert len(before.pending) == 96
    assert before.judged == ()


@pytest.mark.parametrize("strategy", ["random", "he", "he-sit", "random-sit"])
def test_every_start_avoids_lesions(strategy: str) -> None:
    boxes = [Box(x0=90, y0=80, x1=130, y1=120), Box(x0=10, y0=150, x1=30, y1=170)]
    forbidden = fill(boxes, (224, 224))
    start = _start(free=region(forbidden), strategy=strategy)
    pending = _evolution(start).state.pending
    assert pending
    for one in pending:
        w, h = start.space.size(one.sit)
        assert not forbidden[one.y : one.y + h, one.x : one.x + w].any()
        assert 0 <= one.x <= 224 - w
        assert 0 <= one.y <= 224 - h
        assert 100 <= one.alpha <= 204


def test_opacities_are_stratified() -> None:
    alphas = sorted(
        one.alpha for one in _evolution(_start(strategy="he")).state.pending
    )
    assert len(alphas) == 96
    for i, alpha in enumerate(alphas):
        low, high = np.clip([255 * i / 96, 255 * (i + 1) / 96 + 1], 100, 204)
        assert low <= alpha <= high


def test_random_search_has_the_budget_of_evolution() -> None:
    evolving = _start(strategy="he-sit").strategy
    control = _evolution(_start(strategy="random-sit"))
    assert len(control.state.pending) == control.bound == evolving.bound
    assert control.generations == 0


def test_a_lack_of_room_is_met_step_by_step() -> None:
    strip = np.ones((224, 224), dtype=np.bool_)
    strip[:55] = False
    start = _start(free=region(strip), strategy="he")
    assert start.fallbacks[0] == "shrink 0.8"
    assert start.space.maker.shrink == pytest.approx(0.8)
    turned = _start(free=region(strip), strategy="he-sit")
    assert turned.strategy.ask(1).candidates
    strip[:] = True
    strip[:34, :70] = False
    upright = _start(free=region(strip), strategy="he-sit", n_p=1)
    assert "shrink 0.512" in upright.fallbacks


def test_no_room_at_all_is_said() -> None:
    full = np.ones((224, 224), dtype=np.bool_)
    for strategy in ("random", "he", "he-sit", "random-sit"):
        with pytest.raises(NoFeasiblePlacement, match="lesion boxes"):
            _start(free=region(full), strategy=strategy)


def test_few_grid_points_are_filled_up_from_elsewhere() -> None:
    forbidden = np.ones((224, 224), dtype=np.bool_)
    forbidden[3:80, 3:130] = False
    start = _start(free=region(forbidden), strategy="he")
    assert "off-grid" in start.fallbacks
    assert start.space.maker.shrink == 1.0


PLANTED = (120, 70, 170, 100)


def _host() -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    wave = 0.35 + 0.1 * torch.sin(xx / 17) + 0.1 * torch.cos(yy / 23)
    return wave.expand(3, -1, -1).contiguous()


def _objective(
    ensemble: Ensemble, stop: str = "ensemble", *, label_free: bool = False
) -> Objective:
    rule = StopRule.parse(stop)
    return objective_for(ensemble, _host(), 0, rule, label_free=label_free)


def _search(
    start: Start, objective: Objective, *, agree: bool = True
) -> tuple[Outcome, list[Candidate]]:
    asked: list[Candidate] = []

    def confirm(one: Candidate) -> bool:
        asked.append(one)
        return agree

    task = Task(
        strategy=start.strategy,
        objective=objective,
        gallery=Gallery(start.space.maker, _host()),
        confirm=confirm,
    )
    (outcome,) = run_searches([task], objective.ensemble)
    return outcome, asked


@pytest.mark.parametrize("strategy", ["he", "he-sit", "random-sit"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_weakness_is_found(strategy: str, seed: int) -> None:
    ensemble = planted_ensemble(_host(), PLANTED, PLANTED, threshold=0.06)
    objective = _objective(ensemble)
    assert opinion(ensemble, _host()).label == 0
    outcome, asked = _search(_start(seed, strategy=strategy), objective)
    assert outcome.success
    assert asked == [outcome.best.candidate]
    # Paper-comparable: the first success in evaluation order ends the count.
    firsts = [i for i, j in enumerate(outcome.judged) if j.judgement.success]
    assert outcome.queries == firsts[0] + 1
    assert len(outcome.judged) <= 336
    x, y, _, sit = outcome.best.candidate
    w, h = _start(seed, strategy=strategy).space.size(sit)
    assert x < PLANTED[2]
    assert x + w > PLANTED[0]
    assert y < PLANTED[3]
    assert y + h > PLANTED[1]


def test_a_strong_classifier_is_reported_as_a_failure() -> None:
    ensemble = planted_ensemble(_host(), PLANTED)
    ensemble.members[0].threshold = 2.0
    objective = _objective(ensemble)
    outcome, asked = _search(_start(strategy="he"), objective)
    assert not outcome.success
    assert asked == []
    assert outcome.queries == len(outcome.judged)
    assert outcome.best.rank == min(j.rank for j in outcome.judged)


def test_results_that_do_not_hold_are_not_believed() -> None:
    ensemble = planted_ensemble(_host(), PLANTED)
    objective = _objective(ensemble)
    outcome, asked = _search(_start(strategy="he-sit"), objective, agree=False)
    assert not outcome.success
    assert 1 <= len(asked) == len(set(asked)) <= MAX_CONFIRMATIONS


def test_label_free_search_takes_the_success_that_moves_features_most() -> None:
    ensemble = planted_ensemble(_host(), PLANTED, PLANTED, threshold=0.04)
    objective = _objective(ensemble, label_free=True)
    start = _start(strategy="he")
    population = _evolution(start).state.pending
    outcome, asked = _search(start, objective)
    assert outcome.success
    # The whole first generation was judged, and only its best put to the test.
    assert len(outcome.judged) == outcome.queries == len(population)
    assert asked == [outcome.best.candidate]
    successes = [j for j in outcome.judged if j.judgement.success]
    assert len(successes) > 1
    assert objective.displacement(_host()[None]) == pytest.approx([0.0], abs=1e-6)


def test_saturated_confidences_are_told_apart() -> None:
    ensemble = planted_ensemble(_host(), (0, 0, 224, 224))
    ensemble.members[0].threshold = 5.0
    objective = _objective(ensemble)
    pictures = torch.stack([_host(), _host() + 0.01])
    plain, moved = objective.judge(ensemble.member_logits(pictures).double())
    assert plain.fitness == moved.fitness == 1.0
    assert moved.tie < plain.tie
