"""Candidates of a search: Eqs. 9 and 10, feasibility, ask and tell, the ladder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import NoFeasiblePlacement
from engine.lesion.boxes import fill
from engine.search.evolve import natural_budget, succeed
from engine.search.genes import offspring_by_swap, offspring_per_parent
from engine.search.grid import Grid, mutation_step
from engine.search.region import region
from engine.types import SIT, Box
from tests.engine.searching import distance, evolution, judged, run_out, space, start

PAPER = Grid(room=(112, 162), r_p=0.005)
"""A logo of 441x245 at sl=2 on 224x224: 112x62."""


@pytest.mark.parametrize(
    ("patch", "r_p", "last", "count", "g"),
    [
        ((112, 62), 0.005, (7, 11), 96, 14),
        ((56, 31), 0.001, (5, 6), 42, 31),
        ((112, 112), 0.005, (7, 7), 64, 14),
    ],
)
def test_equation_9_on_the_papers_settings(
    patch: tuple[int, int], r_p: float, last: tuple[int, int], count: int, g: int
) -> None:
    grid = Grid(room=(224 - patch[0], 224 - patch[1]), r_p=r_p)
    points = grid.points()
    assert grid.pitch == g
    assert grid.counts == last
    assert len(points) == len(set(points)) == count
    assert set(points) == {
        (n * g, m * g) for n in range(last[0] + 1) for m in range(last[1] + 1)
    }


@given(
    st.tuples(st.integers(-50, 500), st.integers(-50, 500)),
    st.floats(0.0005, 1),
    st.booleans(),
)
def test_grid_points_lie_inside(
    room: tuple[int, int], r_p: float, spread: bool
) -> None:
    points = Grid(room=room, r_p=r_p).points(spread=spread)
    assert all(0 <= x <= room[0] and 0 <= y <= room[1] for x, y in points)
    assert bool(points) == (min(room) >= 0)


def test_a_logo_as_wide_as_the_frame_gets_one_column() -> None:
    grid = Grid(room=(0, 100), r_p=0.005)
    for spread in (False, True):
        points = grid.points(spread=spread)
        assert {x for x, _ in points} == {0}
        assert len(points) > 1


@pytest.mark.parametrize(
    ("r_p", "n_g", "step"), [(0.005, 2, 3), (0.005, 7, 1), (0.001, 2, 7), (0.005, 0, 1)]
)
def test_equation_10(r_p: float, n_g: int, step: int) -> None:
    assert mutation_step(Grid(room=(112, 162), r_p=r_p).pitch, n_g) == step


@given(st.floats(1, 200), st.integers(1, 50))
def test_equation_10_keeps_parents_in_their_cells(d: float, n_g: int) -> None:
    step = mutation_step(d, n_g)
    assert step >= 1
    assert step * n_g <= d / 2 or step == 1


def test_the_budget_is_the_papers() -> None:
    # The paper counts 121 of 405 per generation; 8 for each of 15 parents are 120.
    assert offspring_per_parent(0.3) == 8
    assert offspring_by_swap(15, 0.3) == 121
    assert natural_budget(96, space(), 2) == 336
    assert natural_budget(96, space(crossover="swap"), 2) == 338
    assert natural_budget(0, space(), 2) == 0


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


def test_the_search_improves_and_keeps_its_budget() -> None:
    begun = start(strategy="he")
    pending = evolution(begun).state.pending
    trace = run_out(begun, 16)
    first = min(distance(one) for one in pending)
    best = min(one.judgement.fitness for one in trace)
    assert len(pending) == 96
    assert len(trace) <= begun.strategy.bound == 336
    assert begun.strategy.generation == 2
    assert best < first
    everyone = [one.candidate for one in trace]
    assert len(everyone) == len(set(everyone))


@pytest.mark.parametrize("strategy", ["random", "he", "he-sit", "random-sit"])
def test_batches_do_not_change_a_search(strategy: str) -> None:
    assert run_out(start(strategy=strategy), 1) == run_out(start(strategy=strategy), 50)


def test_asking_twice_gives_the_same_answer() -> None:
    strategy = start(strategy="he-sit").strategy
    assert strategy.ask(7) == strategy.ask(7)


def test_a_state_is_never_changed() -> None:
    begun = start(strategy="he")
    before = evolution(begun).state
    told = [judged(one, distance(one)) for one in before.pending[:10]]
    succeed(before, begun.space, told, 2, np.random.default_rng(0))
    assert len(before.pending) == 96
    assert before.judged == ()


def test_opacities_are_stratified() -> None:
    pending = evolution(start(strategy="he")).state.pending
    alphas = sorted(one.alpha for one in pending)
    assert len(alphas) == 96
    for i, alpha in enumerate(alphas):
        low, high = np.clip([255 * i / 96, 255 * (i + 1) / 96 + 1], 100, 204)
        assert low <= alpha <= high


def test_random_search_has_the_budget_of_evolution() -> None:
    evolving = start(strategy="he-sit").strategy
    control = evolution(start(strategy="random-sit"))
    assert len(control.state.pending) == control.bound == evolving.bound
    assert control.generations == 0


def test_random_search_spends_a_given_budget_also_where_room_is_scarce() -> None:
    crowded = np.ones((224, 224), dtype=np.bool_)
    crowded[:90] = False
    for budget in (1, 20, 500):
        begun = start(free=region(crowded), strategy="random-sit", budget=budget)
        pending = evolution(begun).state.pending
        assert len(pending) == begun.strategy.bound == budget
        assert len({one.sit.rotation for one in pending}) > budget // 4


def test_random_is_one_mark_as_it_is() -> None:
    (one,) = run_out(start(strategy="random"), 16)
    assert one.candidate.sit == SIT()


def test_a_lack_of_room_is_met_step_by_step() -> None:
    strip = np.ones((224, 224), dtype=np.bool_)
    strip[:55] = False
    begun = start(free=region(strip), strategy="he")
    assert begun.fallbacks[0] == "shrink 0.8"
    assert begun.space.maker.shrink == pytest.approx(0.8)
    turned = start(free=region(strip), strategy="he-sit")
    assert turned.strategy.ask(1).candidates
    strip[:] = True
    strip[:34, :70] = False
    upright = start(free=region(strip), strategy="he-sit", n_p=1)
    assert "shrink 0.512" in upright.fallbacks


STRATEGIES = ("random", "he", "he-sit", "random-sit", "gradient", "cma-es")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_room_at_all_is_said(strategy: str) -> None:
    full = np.ones((224, 224), dtype=np.bool_)
    with pytest.raises(NoFeasiblePlacement, match="lesion boxes"):
        start(free=region(full), strategy=strategy)


def test_few_grid_points_are_filled_up_from_elsewhere() -> None:
    forbidden = np.ones((224, 224), dtype=np.bool_)
    forbidden[3:80, 3:130] = False
    begun = start(free=region(forbidden), strategy="he")
    assert "off-grid" in begun.fallbacks
    assert begun.space.maker.shrink == 1.0
    assert len(evolution(begun).state.pending) == 15
