"""Measuring one image end to end with tiny networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from engine.errors import InvalidParameter, NoFeasiblePlacement
from engine.experiments import (
    authorise,
    budget,
    budget_page,
    removers_page,
    search,
    search_page,
)
from engine.experiments.authorise import AuthorisePlan
from engine.experiments.bench import Bench, Scene, Setup
from engine.experiments.budget import BudgetPlan
from engine.experiments.images import Sample, load_sample, select
from engine.experiments.marked import Case, as_levels, measure_cases
from engine.experiments.removers import RemoversPlan, mark_mask, overlap
from engine.experiments.search import SearchPlan
from engine.protection.protector import Protector
from engine.recover import recover
from engine.watermark.stored import apply_delta
from tests.engine.experiments_small import small_setup


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return small_setup(tmp_path_factory.mktemp("measure"))


@pytest.fixture(scope="module")
def bench(setup: Setup) -> Bench:
    return setup.bench()


@pytest.fixture(scope="module")
def sample(setup: Setup, bench: Bench) -> Sample:
    (name,) = select(setup.data, bench.ensemble, 1, 1).names
    return load_sample(setup.data, name, tuple(bench.ensemble.labels))


def test_sources_are_parts_of_the_ensemble(bench: Bench) -> None:
    assert bench.sources("all") is bench.ensemble
    assert bench.sources("only:first").names == ("first",)
    assert bench.sources("without:first").names == ("second",)
    with pytest.raises(InvalidParameter, match="no member of that name"):
        bench.sources("without:third")


def test_removers_of_one_name_are_refused(setup: Setup) -> None:
    with pytest.raises(InvalidParameter, match="names must be unique"):
        replace(setup, removers=setup.removers[:1] * 2).bench()


def test_black_box_rows_never_ask_the_member_left_out(
    bench: Bench, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for member in bench.ensemble.members:
        watched = partial(_watched, asked, member.name)
        monkeypatch.setattr(member, "forward", watched(member.forward))
    scene = Scene(bench, sample)
    result = bench.protector("without:first").finish(
        scene.plain("without:first"), seed=scene.seed
    )
    assert set(asked) == {"second"}
    assert result.report.ensemble == "pair without first"
    # δ is the product's: it is made around the lesions that all members see.
    scene.product("without:first")
    assert set(asked) == {"first", "second"}


def _watched(
    asked: list[str], name: str, forward: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    def watching(x: torch.Tensor) -> torch.Tensor:
        asked.append(name)
        return forward(x)

    return watching


def test_delta_is_shared_but_kept_off_the_boxes_of_a_row(
    bench: Bench, sample: Sample
) -> None:
    scene = Scene(bench, sample)
    whole, part = scene.product(), scene.product("without:first")
    differ = whole.delta != part.delta
    assert not part.delta[differ].any()
    assert scene.product() is whole
    assert not scene.plain().delta.any()


def test_cases_are_searched_judged_and_changed(bench: Bench, sample: Sample) -> None:
    cases = [
        Case(strategy="random", sources="all"),
        Case(strategy="he-sit", sources="without:first", stop="never", budget=5),
    ]
    records = measure_cases(bench, sample, cases, delta=True, changes=True)
    assert [r.strategy for r in records] == ["original", "delta", "random", "he-sit"]
    original, delta, random, searched = records
    assert original.seen_right
    assert original.ssim == 1
    assert delta.ssim < 1
    assert random.queries == 1
    assert searched.queries == 5
    assert searched.budget == 5
    assert searched.mark_ssim > searched.ssim
    for one in records:
        assert set(one.members) == set(one.changed) == {"first", "second"}
        assert all(len(classes) == 4 for classes in one.changed.values())
        # The two members are the same network: so is what any of them see.
        assert one.seen == pytest.approx(one.members["first"], abs=2e-6)
        assert sum(one.seen) == pytest.approx(1, abs=1e-5)


def test_an_image_without_room_counts_as_it_is(
    bench: Bench, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NoFeasiblePlacement("no room")

    monkeypatch.setattr(Protector, "finish", refuse)
    case = Case(strategy="he", sources="all")
    original, marked = measure_cases(bench, sample, [case], delta=False)
    assert not marked.placed
    assert marked.members == original.members
    assert RemoversPlan().measure(bench, sample) == []
    assert AuthorisePlan().measure(bench, sample) == []


def test_the_search_plan_covers_every_choice_of_sources(
    bench: Bench, sample: Sample
) -> None:
    records = SearchPlan(left_out=1).measure(bench, sample)
    sources = {"all", "only:first", "only:second", "without:first"}
    assert {(r.strategy, r.sources) for r in records[1:]} == {
        (s, on) for s in search.STRATEGIES for on in sources
    }
    assert "## Black box" in "\n".join(search_page.page(records).body)


def test_the_budget_plan_keeps_the_budget(bench: Bench, sample: Sample) -> None:
    plan = BudgetPlan(queries=12, stops=("never",), robust_changes=2)
    records = plan.measure(bench, sample)[1:]
    rules = {r.stop for r in records if r.strategy == "he"}
    assert rules == {"never", "never, 2 changes"}
    assert [r.strategy for r in records] == ["random", *budget.STRATEGIES * 2]
    assert all(0 < r.queries <= 12 for r in records)
    gradient = records[-2]
    assert gradient.strategy == "gradient"
    assert gradient.gradients > 0
    assert "## By member" in "\n".join(budget_page.page(records, 12).body)


def test_authorised_recovery_is_exact(bench: Bench, sample: Sample) -> None:
    records = {r.stage: r for r in AuthorisePlan().measure(bench, sample)}
    assert tuple(records) == tuple(authorise.STAGES)
    assert records["RI"].equal
    assert records["RI"].ssim == 1
    assert records["RI"].members == records["Ori"].members
    assert not records["AW"].equal
    assert records["AW"].ssim < records["IAB"].ssim < 1


def test_taking_the_mark_off_leaves_delta(bench: Bench, sample: Sample) -> None:
    scene = Scene(bench, sample)
    prepared = scene.product()
    result = bench.protector().finish(prepared, seed=scene.seed)
    bare = authorise.without_mark(result.stored, result.key)
    host = apply_delta(sample.frame, prepared.delta)
    weight = result.key.alpha / 255
    assert np.abs(bare - host).max() <= np.ceil(0.5 / (1 - weight))
    outside = ~_footprint(result.key, host.shape[:2])
    assert np.array_equal(bare[outside], host[outside])
    assert np.array_equal(recover(result.stored, result.key), sample.frame.stored)


def _footprint(key: object, shape: tuple[int, ...]) -> np.ndarray:
    inside = np.zeros(shape, np.bool_)
    h, w = key.patch.shape[:2]  # type: ignore[attr-defined]
    inside[key.y : key.y + h, key.x : key.x + w] = True  # type: ignore[attr-defined]
    return inside


def test_the_mask_of_a_mark_lies_where_the_picture_changed(
    bench: Bench, sample: Sample
) -> None:
    scene = Scene(bench, sample)
    result = bench.protector().finish(scene.plain(), seed=scene.seed)
    mask = mark_mask(result.key)
    before, after = (
        as_levels(bench.shown(sample, one)).astype(int)
        for one in (sample.frame.stored, result.stored)
    )
    moved = np.abs(before - after).max(axis=2) > 8
    assert mask.any()
    assert (moved & mask).sum() > 0.8 * moved.sum()


def test_overlap_of_masks() -> None:
    one = np.array([[True, True, False]])
    assert overlap(one, np.array([[False, True, True]])) == pytest.approx(1 / 3)
    assert overlap(one, np.zeros_like(one)) is None
    assert overlap(one, one) == 1


def test_removers_see_every_kind_of_delta(bench: Bench, sample: Sample) -> None:
    records = RemoversPlan().measure(bench, sample)
    marked = {
        (r.kind, r.against, r.order) for r in records if r.marked and not r.through
    }
    crafted = {
        (kind, against, "before")
        for kind in ("delta_d", "delta_i")
        for against in ("one", "two", "all")
    }
    late = {(k, a, "after") for k, a, _ in crafted if a != "all"}
    plain = {("none", "", "before"), ("noise", "", "before"), ("noise", "", "after")}
    assert marked == crafted | late | plain
    for one in records:
        through = {r.through for r in records if _same(r, one)}
        whole = one.marked or one.kind == "none"
        assert through == ({"", "one", "two"} if whole else {""})
        assert (one.iou is None) == (not one.through or not one.marked)
        assert (one.in_mark is not None) == one.marked
    bare = next(r for r in records if r.kind == "none" and not r.marked)
    assert bare.vs_original == bare.vs_input
    assert "## Through `two`" in "\n".join(removers_page.page(records).body)


def _same(one: object, other: object) -> bool:
    names = ("kind", "against", "order", "marked")
    return all(getattr(one, n) == getattr(other, n) for n in names)


def test_pictures_become_levels() -> None:
    picture = torch.tensor([0.0, 0.5, 1.2]).view(3, 1, 1)
    assert as_levels(picture).tolist() == [[[0, 128, 255]]]
