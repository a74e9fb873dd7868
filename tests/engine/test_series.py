"""Frames of a series: what a protected neighbour teaches, and what it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from engine.errors import InvalidParameter, NoFeasiblePlacement
from engine.lesion.boxes import fill
from engine.lesion.regions import ExternalRegions
from engine.lesion.steady import GROWTH, steadied
from engine.params import DeltaParams, LesionParams, ProtectParams, SearchParams
from engine.protection.protector import Protector
from engine.protection.series import protect_series
from engine.protection.values import Given, Neighbour, Progress, ProtectedFrame, quiet
from engine.recover import recover
from engine.search.candidate import Candidate, Judgement
from engine.search.hint import KEPT, Hint
from engine.search.region import region
from engine.search.start import start_search
from engine.types import SIT, Box, Frame, Rendering
from engine.watermark.working import working_image
from tests.engine.planted import PlantedRemover, planted_ensemble
from tests.engine.searching import LOGO, OPEN, host_picture, maker, space

CPU = torch.device("cpu")
WEAK = (120, 150, 170, 190)
PARAMS = ProtectParams(
    search=SearchParams(budget=40),
    delta=DeltaParams(iterations=4, warm_iterations=2),
)
WINDOW = Rendering(lo=-150.0, hi=250.0)


def _frame(shift: float = 0.0, side: int = 96) -> Frame:
    yy, xx = np.mgrid[:side, :side]
    wave = 90 + 30 * np.sin(xx / side * 11 + shift) + 30 * np.cos(yy / side * 8)
    wave[side * 104 // 224 : side * 118 // 224, side * 102 // 224 :][
        :, : side // 12
    ] += 90
    stored = np.clip(np.rint(wave * 1.6 - 150), -32768, 32767).astype(np.int32)
    return Frame(stored=stored, rendering=WINDOW, minimum=-32768, maximum=32767)


def _protector(**changes: object) -> Protector:
    clean = working_image(_frame().stored, WINDOW, CPU)
    known: dict[str, object] = {
        "ensemble": planted_ensemble(clean, WEAK, WEAK, threshold=0.06),
        "objective": "diagnosis",
        "removers": [PlantedRemover()],
        "logo": LOGO,
        "params": PARAMS,
    }
    return Protector(**(known | changes))  # type: ignore[arg-type]


def _place(one: ProtectedFrame) -> tuple[object, ...]:
    key = one.key
    return key.x, key.y, key.alpha, key.sit, key.patch.shape


@pytest.fixture(scope="module")
def first() -> ProtectedFrame:
    return _protector().protect(_frame(), seed=b"first")


def test_the_mark_stays_where_it_was(first: ProtectedFrame) -> None:
    frames = [_frame(0.02 * i) for i in range(1, 4)]
    done = _protector().protect_many(
        frames,
        seeds=[b"1", b"2", b"3"],
        given=[Given(neighbour=first.neighbour)] * 3,
    )
    assert first.report.success
    for frame, one in zip(frames, done, strict=True):
        assert isinstance(one, ProtectedFrame)
        assert one.report.success
        assert one.report.verified
        assert _place(one) == _place(first)
        assert one.report.queries <= 7 < first.report.queries
        assert one.neighbour.hint.anchor == first.neighbour.hint.anchor
        np.testing.assert_array_equal(recover(one.stored, one.key), frame.stored)


def test_a_mark_that_does_nothing_here_is_searched_anew(
    first: ProtectedFrame,
) -> None:
    corner = (0, 0, 60, 60)
    clean = working_image(_frame().stored, WINDOW, CPU)
    other = _protector(ensemble=planted_ensemble(clean, corner, threshold=0.06))
    given = Given(neighbour=first.neighbour)
    frame = _frame(0.01)
    one = other.protect(frame, seed=b"1", given=given)
    assert one.report.success
    assert one.report.queries == PARAMS.search.budget
    assert one.trace.entries[0].candidate == first.neighbour.hint.candidate
    assert _place(one) != _place(first)
    np.testing.assert_array_equal(recover(one.stored, one.key), frame.stored)


def test_delta_starts_from_the_neighbours(first: ProtectedFrame) -> None:
    params = replace(PARAMS, delta=DeltaParams(warm_iterations=0))
    known = Given(neighbour=first.neighbour)
    one = _protector(params=params).prepare(_frame(), seed=b"1", given=known)
    # No step was taken, and the same boxes are guarded.
    np.testing.assert_array_equal(one.delta, first.key.delta)
    assert np.abs(one.delta).max() > 0


@pytest.mark.parametrize("kind", ["size", "colour"])
def test_a_neighbour_of_another_kind_is_ignored(
    first: ProtectedFrame, kind: str
) -> None:
    near = first.neighbour
    other = replace(near, rows=95) if kind == "size" else replace(near, colour=True)
    alone = _protector().protect(_frame(0.3), seed=b"1")
    one = _protector().protect(_frame(0.3), seed=b"1", given=Given(neighbour=other))
    np.testing.assert_array_equal(alone.stored, one.stored)
    assert alone.report.queries == one.report.queries


def test_what_was_given_is_not_held_to_a_neighbour(first: ProtectedFrame) -> None:
    large = replace(first.neighbour, boxes=(Box(x0=20, y0=20, x1=60, y1=60),))
    marked = ExternalRegions(
        columns=96, rows=96, boxes=(Box(x0=12, y0=12, x1=20, y1=20),), mode="replace"
    )
    given = Given(neighbour=large, regions=marked)
    one = _protector().prepare(_frame(), seed=b"1", given=given)
    assert one.lesions.source == "external"
    assert one.lesions.boxes == (Box(x0=28, y0=28, x1=47, y1=47),)
    known = replace(one.lesions, boxes=(Box(x0=30, y0=30, x1=50, y1=50),))
    again = _protector().prepare(
        _frame(), seed=b"1", given=Given(neighbour=large, lesions=known)
    )
    assert again.lesions.boxes == known.boxes


_BOX = st.builds(
    lambda x, y, w, h: Box(x0=x, y0=y, x1=x + w, y1=y + h),
    *(st.integers(0, 180), st.integers(0, 180)),
    *(st.integers(1, 44), st.integers(1, 44)),
)


@given(st.lists(_BOX, max_size=4), st.lists(_BOX, max_size=4))
def test_steadied_boxes_hold_what_was_found_and_stay_small(
    found: list[Box], before: list[Box]
) -> None:
    made = steadied(found, before)
    assert len(made) <= len(found)
    area = [(b.x1 - b.x0) * (b.y1 - b.y0) for b in made]
    inside = fill(made, (224, 224))
    assert inside[fill(found, (224, 224))].all()
    mine = [(b.x1 - b.x0) * (b.y1 - b.y0) for b in found]
    assert all(a <= GROWTH * max(mine) for a in area)


@settings(max_examples=50)
@given(
    start=_BOX,
    steps=st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=30),
)
def test_boxes_of_a_lesion_that_moves_never_grow_without_bound(
    start: Box, steps: list[tuple[int, int]]
) -> None:
    boxes: tuple[Box, ...] = (start,)
    for dx, dy in steps:
        start = Box(
            x0=start.x0 + dx, y0=start.y0 + dy, x1=start.x1 + dx, y1=start.y1 + dy
        )
        (held,) = boxes = steadied([start], boxes)
        size = (held.x1 - held.x0) * (held.y1 - held.y0)
        assert size <= GROWTH * (start.x1 - start.x0) * (start.y1 - start.y0)
        assert held.x0 <= start.x0
        assert start.x1 <= held.x1


def _hint(sit: SIT | None = None, **changes: int) -> Hint:
    place = {"x": 40, "y": 60, "alpha": 150} | changes
    one = Candidate(**place, sit=sit or SIT(rotation=10.0))
    return Hint(candidate=one, size=maker().size, anchor=-4.0)


def test_the_neighbours_mark_is_proposed_first_then_small_variations() -> None:
    hint, free = _hint(), space()
    proposed = hint.proposals(free)
    assert proposed[0] == hint.candidate
    assert len(proposed) == len(set(proposed)) == 7
    assert all(free.feasible(one) for one in proposed)
    assert all(abs(one.x - 40) <= 2 and abs(one.y - 60) <= 2 for one in proposed)


def test_a_hint_that_cannot_be_is_none() -> None:
    assert replace(_hint(), size=(1, 1)).proposals(space()) == ()
    assert _hint(SIT(rotation=80.0)).proposals(space()) == ()
    assert _hint().proposals(space(strategy="he")) == ()
    everywhere = region(np.ones((224, 224), dtype=np.bool_))
    assert _hint().proposals(space(everywhere)) == ()


def test_a_lesion_in_the_way_moves_the_mark_to_the_nearest_place() -> None:
    mask = np.zeros((224, 224), dtype=np.bool_)
    mask[60:70, 40:50] = True
    free = space(region(mask))
    proposed = _hint().proposals(free)
    assert proposed[0].x != 40 or proposed[0].y != 60
    assert all(free.feasible(one) for one in proposed)


@pytest.mark.parametrize(
    "strategy", ["he", "he-sit", "random-sit", "gradient", "cma-es"]
)
def test_every_strategy_judges_hints_first_within_its_budget(strategy: str) -> None:
    params = SearchParams(strategy=strategy, budget=60)  # type: ignore[arg-type]
    sit = SIT() if strategy == "he" else SIT(rotation=10.0)
    begun = start_search(
        maker(),
        OPEN,
        params,
        np.random.default_rng(0),
        host_picture(),
        _hint(sit),
    )
    asked = begun.strategy.ask(begun.hints).candidates
    assert asked == _hint(sit).proposals(begun.space)
    assert len(begun.strategy.ask(60).candidates) <= 60


def _said(fitness: float, wrong: int = 2, *, success: bool = True) -> Judgement:
    return Judgement(
        fitness=fitness, tie=0.0, wrong=wrong, deceived=success, success=success
    )


def test_a_mark_is_taken_over_only_where_it_is_worth_it() -> None:
    hint = _hint()
    assert hint.holds(_said(-4.0))
    assert hint.holds(_said(-4.0 * KEPT))
    assert not hint.holds(_said(-4.0 * KEPT + 0.1))
    assert not hint.holds(_said(-9.0, success=False))
    # A series whose first mark failed takes over nothing that fails.
    failed = replace(hint, anchor=2.0)
    assert failed.holds(_said(-0.1))
    assert not failed.holds(_said(1.0, wrong=0, success=False))


def test_a_series_comes_in_order_and_in_batches() -> None:
    read: list[int] = []

    def frames() -> Iterator[Frame]:
        for i in range(6):
            read.append(i)
            yield _frame(0.02 * i)

    seeds = [str(i).encode() for i in range(6)]
    done = protect_series(_protector(), frames(), seeds=seeds, batch=2)
    for i, one in enumerate(done):
        assert isinstance(one, ProtectedFrame)
        original = _frame(0.02 * i).stored
        np.testing.assert_array_equal(recover(one.stored, one.key), original)
        assert len(read) <= i + 2
    assert read == list(range(6))


def test_a_series_goes_on_after_a_frame_without_room() -> None:
    frames = [_frame(), _frame(), _frame()]
    small = replace(frames[1], stored=frames[1].stored[:33, :90])
    lesion = LesionParams(margin=20)
    protector = _protector(params=replace(PARAMS, lesion=lesion))
    blocked = ExternalRegions(
        columns=90, rows=33, boxes=(Box(x0=0, y0=0, x1=90, y1=33),), mode="replace"
    )
    start = protector.protect(frames[0], seed=b"0").neighbour
    first, second, third = protector.protect_many(
        [frames[0], small, frames[2]],
        seeds=[b"1", b"2", b"3"],
        given=[
            Given(neighbour=start),
            Given(neighbour=start, regions=blocked),
            Given(neighbour=start),
        ],
    )
    assert isinstance(second, NoFeasiblePlacement)
    for one in (first, third):
        assert isinstance(one, ProtectedFrame)
        assert one.report.verified


def test_series_of_no_frames_and_of_wrong_batches() -> None:
    assert list(protect_series(_protector(), [], seeds=[])) == []
    with pytest.raises(InvalidParameter, match="batch=0"):
        next(protect_series(_protector(), [], seeds=[], batch=0))
    with pytest.raises(ValueError, match="shorter"):
        list(protect_series(_protector(), [_frame()], seeds=[]))


def test_the_last_protected_frame_is_the_neighbour_of_the_next_batch(
    first: ProtectedFrame,
) -> None:
    asked: list[Neighbour | None] = []

    class Watched(Protector):
        @override
        def protect_many(
            self,
            frames: Sequence[Frame],
            *,
            seeds: Sequence[bytes],
            given: Sequence[Given] | None = None,
            progress: Progress = quiet,
        ) -> list[ProtectedFrame | NoFeasiblePlacement]:
            assert given is not None
            assert len(frames) == len(given)
            asked.append(given[0].neighbour)
            lost = NoFeasiblePlacement("no place")
            return [lost if seed == b"lost" else first for seed in seeds]

    watched = Watched.__new__(Watched)
    watched.device = CPU
    seeds = [b"0", b"1", b"lost", b"lost", b"lost", b"5"]
    done = list(protect_series(watched, [_frame()] * 6, seeds=seeds, batch=2))
    assert asked == [None] + [first.neighbour] * 3
    assert [isinstance(one, ProtectedFrame) for one in done] == [
        seed != b"lost" for seed in seeds
    ]
    assert all(a is b for a, b in pairwise(asked[1:]))
