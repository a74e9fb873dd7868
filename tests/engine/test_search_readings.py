"""Every reading of Algorithm 3 that can be chosen, against what it says."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.lesion.boxes import fill
from engine.params import SearchParams, SITRanges
from engine.search.candidate import Candidate, Judged
from engine.search.genes import breed, genes, most_offspring
from engine.search.grid import Grid
from engine.search.region import region
from engine.search.selection import dominants, plus, strict
from engine.types import SIT, Box
from tests.engine.searching import distance, evolution, judged, run_out, space, start

PARENT = Candidate(x=50, y=60, alpha=150, sit=SIT())


def test_equation_11_gives_27_combinations_with_the_parent() -> None:
    kinds = genes(space())
    assert kinds.combinations == 27
    everyone = [kinds.mutant(PARENT, code) for code in range(27)]
    assert set(everyone) == {
        Candidate(x=x, y=y, alpha=alpha, sit=SIT())
        for x, y, alpha in product((47, 50, 53), (57, 60, 63), (135, 150, 165))
    }
    assert everyone[0] == PARENT
    assert set(kinds.mutants(PARENT)) == set(everyone) - {PARENT}


def test_mutants_respect_bounds_boxes_and_opacity() -> None:
    forbidden = fill([Box(x0=170, y0=0, x1=224, y1=224)], (224, 224))
    kinds = genes(space(region(forbidden)))
    found = list(kinds.mutants(Candidate(x=56, y=0, alpha=200, sit=SIT())))
    assert found
    assert max(m.alpha for m in found) == 204
    assert min(m.y for m in found) == 0
    assert max(m.x for m in found) + 112 < 170


def test_each_parent_has_the_crossover_share_of_its_combinations() -> None:
    parents = [Candidate(x=20 + 30 * i, y=70, alpha=150, sit=SIT()) for i in range(3)]
    born = breed(parents, parents, space(), np.random.default_rng(0))
    assert len(born) == len(set(born)) == 3 * 8
    near = Counter(min(parents, key=lambda p: abs(p.x - child.x)) for child in born)
    assert near == dict.fromkeys(parents, 8)
    assert not set(born) & set(parents)


def test_what_was_judged_is_not_bred_again() -> None:
    kinds = genes(space())
    known = [PARENT, *list(kinds.mutants(PARENT))[:20]]
    born = breed([PARENT], known, space(), np.random.default_rng(0))
    assert set(born) == set(kinds.mutants(PARENT)) - set(known)


def test_the_step_of_each_axis_can_be_its_own_spacing() -> None:
    assert Grid(room=(112, 162), r_p=0.005).spacing() == (16, 162 / 11)
    assert genes(space(step="pitch")).steps == (3, 3, 15)
    assert genes(space(step="spacing")).steps == (4, 3, 15)
    assert genes(space(step="spacing", n_g=1, s_alpha=9)).steps == (8, 7, 9)


def test_the_linspace_grid_has_as_many_points_over_the_whole_room() -> None:
    grid = Grid(room=(112, 162), r_p=0.005)
    points = grid.points(spread=True)
    assert len(set(points)) == len(grid.points()) == 96
    assert sorted({x for x, _ in points}) == [0, 16, 32, 48, 64, 80, 96, 112]
    assert (0, 0) in points
    assert (112, 162) in points
    assert (112, 162) not in grid.points()
    begun = start(strategy="he", grid="linspace")
    assert {one[:2] for one in evolution(begun).state.pending} == set(points)


def test_a_shared_opacity_is_one_draw_per_image() -> None:
    drawn = []
    for seed in range(20):
        begun = start(seed, strategy="he", alpha_init="shared")
        alphas = {one.alpha for one in evolution(begun).state.pending}
        assert len(alphas) == 1
        drawn += alphas
    assert all(100 <= alpha <= 204 for alpha in drawn)
    assert len(set(drawn)) > 3


def test_swapped_genes_come_from_two_mutated_parents() -> None:
    here = space(crossover="swap")
    parents = [
        Candidate(x=20, y=30, alpha=120, sit=SIT()),
        Candidate(x=90, y=130, alpha=180, sit=SIT(rotation=5.0)),
    ]
    born = breed(parents, parents, here, np.random.default_rng(3))
    assert len(born) == len(set(born)) == 16  # r_c·27·2
    assert {abs(c.x - 20) <= 3 for c in born} == {True, False}
    for child in born:
        assert child.x in {17, 20, 23, 87, 90, 93}
        assert child.y in {27, 30, 33, 127, 130, 133}
        assert child.alpha in {105, 120, 135, 165, 180, 195}
        assert child.sit in {SIT(), SIT(rotation=5.0)}
    mixed = [c for c in born if (c.x < 50) != (c.y < 80)]
    assert mixed


def test_a_generation_of_swaps_has_the_papers_count() -> None:
    counts = Counter(
        one.generation for one in run_out(start(strategy="he", crossover="swap"), 32)
    )
    assert counts == {0: 96, 1: 121, 2: 121}
    assert most_offspring(space(crossover="swap")) == 121


def test_a_lone_parent_still_has_offspring() -> None:
    here = space(crossover="swap")
    born = breed([PARENT], [PARENT], here, np.random.default_rng(0))
    assert len(born) == 8
    assert set(born) <= set(genes(here).mutants(PARENT))


def _trace(*fitness: tuple[float, ...]) -> list[Judged]:
    """One generation per argument, its candidates numbered by their column."""
    return [
        judged(PARENT._replace(x=100 * i + n, y=0), value, i)
        for i, values in enumerate(fitness)
        for n, value in enumerate(values)
    ]


def _columns(chosen: list[Judged]) -> list[int]:
    return [one.candidate.x for one in chosen]


def test_strict_selection_takes_only_what_beats_the_generation_before() -> None:
    first = _trace((0.9, 0.5, 0.7))
    assert _columns(strict(first, 2)) == [1, 2]
    better = _trace((0.9, 0.5, 0.7), (0.6, 0.4, 0.45, 0.3))
    assert _columns(strict(better, 2)) == [103, 101]
    assert _columns(strict(better, 9)) == [103, 101, 102]
    # Where no offspring is better, the parents stay.
    worse = _trace((0.9, 0.5, 0.7), (0.6, 0.8))
    assert _columns(strict(worse, 2)) == [1, 2]
    # The criterion is that of the last generation, not of all: lines 16 and 30.
    recovered = _trace((0.9, 0.5, 0.7), (0.6, 0.8), (0.55, 0.65))
    assert _columns(strict(recovered, 2)) == [200]


def test_strict_and_plus_differ_where_few_are_better() -> None:
    few = _trace((0.9, 0.5, 0.7), (0.6, 0.4))
    assert _columns(plus(few, 3)) == [101, 1, 100]
    assert _columns(strict(few, 3)) == [101]
    for rule, count in (("plus", 15), ("strict", 1)):
        params = SearchParams(selection=rule)  # type: ignore[arg-type]
        assert len(dominants(_trace((0.9,) * 20, (0.4, *[0.95] * 7)), params)) == count


fitnesses = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(fitnesses, st.floats(0, 1), st.integers(1, 8))
def test_line_13_prefers_what_lowers_the_confidence(
    values: list[float], clean: float, n_p: int
) -> None:
    trace = _trace(tuple(values))
    chosen = strict(trace, n_p)
    lowering = [one for one in trace if one.judgement.fitness < clean]
    taken = [one for one in chosen if one.judgement.fitness < clean]
    assert len(taken) == min(n_p, len(lowering))
    assert len(chosen) == min(n_p, len(trace))


@given(st.lists(fitnesses, min_size=1, max_size=4), st.integers(1, 8))
def test_plus_never_loses_what_strict_finds(
    generations: list[list[float]], n_p: int
) -> None:
    trace = _trace(*(tuple(values) for values in generations))
    best = min(trace, key=lambda one: one.rank)
    assert plus(trace, n_p)[0].rank == best.rank
    better = strict(trace, n_p)
    assert 1 <= len(better) <= n_p
    assert plus(trace, n_p)[0].rank <= better[0].rank


@pytest.mark.parametrize("crossover", ["product", "swap"])
def test_a_strict_search_runs_to_its_end(crossover: str) -> None:
    begun = start(strategy="he", selection="strict", crossover=crossover)
    trace = run_out(begun, 16)
    assert begun.strategy.generation == 2
    assert len(trace) <= 338
    best = [
        min(one.judgement.fitness for one in members)
        for _, members in groupby(trace, key=lambda one: one.generation)
    ]
    assert best[1] < best[0]


def test_one_transform_for_all_candidates_of_an_image() -> None:
    found = set()
    for strategy in ("he-sit", "random-sit", "cma-es"):
        begun = start(3, strategy=strategy, sit_scope="image", budget=64)
        sits = {one.sit for one in begun.strategy.ask(64).candidates}
        assert len(sits) == 1
        found |= sits
        assert (
            start(4, strategy=strategy, sit_scope="image")
            .strategy.ask(1)
            .candidates[0]
            .sit
            not in sits
        )
    assert len(found) == 1
    assert found != {SIT()}


def test_the_shared_transform_is_inherited() -> None:
    trace = run_out(start(strategy="he-sit", sit_scope="image"), 16)
    assert len({one.candidate.sit for one in trace}) == 1
    assert max(one.generation for one in trace) == 2


def test_transforms_are_inherited_by_default() -> None:
    trace = run_out(start(strategy="he-sit"), 16)
    first = {one.candidate.sit for one in trace if one.generation == 0}
    assert len(first) > 80
    assert {one.candidate.sit for one in trace} == first


def test_transform_genes_mutate_like_the_others() -> None:
    here = space(grey=False, strategy="he-sit", sit_scope="genes")
    kinds = genes(here)
    assert kinds.combinations == 3**7 == 2187
    everyone = {kinds.mutant(PARENT, code) for code in range(3**7)}
    assert len(everyone) == 3**7
    assert {one.sit.rotation for one in everyone} == {-7.5, 0.0, 7.5}
    assert {one.sit.hue for one in everyone} == {-30.0, 0.0, 30.0}
    assert {one.sit.saturation for one in everyone} == {1 - 1 / 12, 1.0, 1 + 1 / 12}
    assert {round(one.sit.value, 9) for one in everyone} == {0.95, 1.0, 1.05}


def test_seven_genes_cost_no_more_than_three() -> None:
    begun = start(grey=False, strategy="he-sit", sit_scope="genes")
    assert begun.strategy.bound == start(strategy="he-sit").strategy.bound
    trace = run_out(begun, 16)
    counts = Counter(one.generation for one in trace)
    assert counts[1] == counts[2] == 120
    first = {one.candidate.sit for one in trace if one.generation == 0}
    later = {one.candidate.sit for one in trace if one.generation == 2}
    assert len(later - first) > 60
    ranges = SITRanges()
    for sit in first | later:
        for name in ("rotation", "hue", "saturation", "value"):
            low, high = getattr(ranges, name)
            assert low <= getattr(sit, name) <= high


def test_genes_that_cannot_vary_are_none() -> None:
    grey = genes(space(strategy="he-sit", sit_scope="genes"))
    assert [gene.name for gene in grey.turned] == ["rotation", "value"]
    assert not genes(space(strategy="he", sit_scope="genes")).turned
    assert not genes(space(strategy="he-sit")).turned
    fixed = SITRanges(rotation=(5.0, 5.0))
    here = space(grey=False, strategy="he-sit", sit_scope="genes", sit=fixed)
    assert [g.name for g in genes(here).turned] == ["hue", "saturation", "value"]


@given(st.floats(-180, 180), st.sampled_from([-1, 1]))
def test_hue_goes_round_and_rotation_stops(hue: float, direction: int) -> None:
    here = space(grey=False, strategy="he-sit", sit_scope="genes")
    rotation, turned, *_ = genes(here).turned
    moved = turned.moved(SIT(hue=hue), direction).hue
    assert -180 <= moved <= 180
    difference = (moved - hue - direction * 30) % 360
    assert min(difference, 360 - difference) < 1e-6
    assert rotation.moved(SIT(rotation=44.0), 1).rotation == 45.0


@pytest.mark.parametrize(
    "reading",
    [
        {"grid": "linspace"},
        {"alpha_init": "shared"},
        {"step": "spacing"},
        {"crossover": "swap"},
        {"selection": "strict"},
        {"sit_scope": "image"},
        {"sit_scope": "genes"},
    ],
    ids=lambda reading: "-".join(reading.values()),
)
def test_every_reading_differs_and_repeats(reading: dict[str, str]) -> None:
    changes = {"strategy": "he-sit", **reading}
    first = run_out(start(7, **changes), 16)
    assert run_out(start(7, **changes), 5) == first
    assert run_out(start(7, strategy="he-sit"), 16) != first
    assert len(first) <= 338
    best = min(first, key=lambda one: one.rank)
    grid = [one for one in first if one.generation == 0]
    assert distance(best.candidate) <= min(distance(one.candidate) for one in grid)
