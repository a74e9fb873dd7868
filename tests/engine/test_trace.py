"""The trace of a search: exact on paper, replayed, drawn, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError
from engine.lesion.boxes import fill
from engine.models.ensemble import Ensemble
from engine.params import SearchParams
from engine.search.candidate import Candidate, Judgement
from engine.search.draw import draw
from engine.search.judges import Judges
from engine.search.objective import Objective, objective_for
from engine.search.pen import mixed, ticks
from engine.search.region import region
from engine.search.replay import replay
from engine.search.run import Outcome, Task, run_searches
from engine.search.show import Gallery
from engine.search.start import Start, start_search
from engine.search.trace import InvalidTrace, Trace, trace_of
from engine.types import SIT, Box
from engine.watermark.logo import Logo, load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.planted import planted_ensemble

LOGO = load_logo()
BOX = Box(x0=90, y0=80, x1=130, y1=120)
WINDOW = (120, 150, 190, 190)
SEED = 2**200 + 5


@cache
def _host() -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    wave = 0.35 + 0.1 * torch.sin(xx / 17) + 0.1 * torch.cos(yy / 23)
    return wave.expand(3, -1, -1).contiguous()


@cache
def _ensemble() -> Ensemble:
    return planted_ensemble(_host(), WINDOW, WINDOW, threshold=0.06)


def _objective(stop: str = "ensemble", label: int = 0) -> Objective:
    rule = SearchParams(stop=stop).stop_rule
    return objective_for(_ensemble(), _host(), label, rule)


@cache
def _finished(strategy: str, stop: str) -> tuple[Outcome, Start, Objective]:
    budget = 40
    params = SearchParams(strategy=strategy, stop=stop, budget=budget)  # type: ignore[arg-type]
    maker = PatchMaker(
        logo=LOGO, geometry=Geometry(columns=300, rows=280), sl=2.0, grey=True
    )
    start = start_search(
        maker,
        region(fill([BOX], (224, 224))),
        params,
        np.random.default_rng(SEED),
        _host(),
    )
    objective, gallery = _objective(stop), Gallery(start.space.maker, _host())

    def confirm(one: Candidate) -> Judgement:
        logits = _ensemble().member_logits(gallery.pictures([one]))
        return objective.judge(logits.detach().double())[0]

    task = Task(
        strategy=start.strategy,
        objective=objective,
        gallery=gallery,
        confirm=confirm,
        budget=budget,
    )
    (outcome,) = run_searches([task], Judges(_ensemble()))
    return outcome, start, objective


@cache
def _trace(strategy: str = "he-sit", stop: str = "ensemble") -> Trace:
    return trace_of(*_finished(strategy, stop), boxes=[BOX], seed=SEED)


def test_a_trace_tells_the_search() -> None:
    trace = _trace()
    assert trace.params.strategy == "he-sit"
    assert trace.members == ("planted-0", "planted-1")
    assert (trace.columns, trace.rows, trace.side) == (300, 280, 224)
    assert trace.boxes == (BOX,)
    assert trace.seed == SEED
    assert trace.success
    taken = trace.entries[trace.result]
    assert taken.judgement.deceived
    # At first success, nothing before the mark deceived the ensemble.
    assert trace.first_error == trace.result == trace.queries - 1


def test_the_mark_that_was_sent_is_the_result() -> None:
    finished = _finished("he-sit", "never")
    best = finished[0].best.candidate
    other = next(j.candidate for j in finished[0].judged if j.candidate != best)
    for sent, result in ((None, best), (best, best), (other, other)):
        trace = trace_of(*finished, boxes=[], seed=1, sent=sent)
        assert trace.entries[trace.result].candidate == result


@pytest.mark.parametrize("strategy", ["he-sit", "random-sit", "gradient", "cma-es"])
def test_a_trace_comes_back_from_json_exactly(strategy: str) -> None:
    trace = _trace(strategy, "never")
    text = trace.to_json()
    assert Trace.from_json(text) == trace
    assert "\n" not in text
    assert len(text) < 300 * len(trace.entries) + 2000


def test_numbers_json_lacks_come_back_too() -> None:
    trace = _trace()
    broken = trace.entries[1]._replace(
        judgement=Judgement(float("nan"), float("inf"), 0, False, False)
    )
    odd = replace(trace, entries=(trace.entries[0], broken), result=0)
    again = Trace.from_json(odd.to_json())
    assert np.isnan(again.entries[1].judgement.fitness)
    assert draw(again, _levels()).size == draw(trace, _levels()).size


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"version": None},
        {"entries": [[1, 2, 3]]},
        {"entries": []},
        {"result": 10_000},
        {"label": 7},
        {"columns_of_entries": ["x"]},
        {"seed": "seven"},
        {"boxes": [{"x0": 1}]},
        {"surprise": 1},
        {"params": {"sit": {}, "n_p": 0}},
    ],
)
def test_what_is_no_trace_is_refused(damage: dict[str, Any]) -> None:
    text = json.dumps(json.loads(_trace().to_json()) | damage)
    with pytest.raises(InvalidTrace):
        Trace.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", '{"version": 1}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidTrace, match="trace"):
        Trace.from_json(text)


def test_a_replay_agrees() -> None:
    trace = Trace.from_json(_trace().to_json())
    gallery = Gallery(trace.maker(LOGO), _host())
    again = replay(trace, gallery, _objective())
    assert again.agrees
    assert again.difference < 1e-5


def test_a_replay_on_another_picture_does_not() -> None:
    trace = _trace()
    gallery = Gallery(trace.maker(LOGO), _host() * 0.5)
    again = replay(trace, gallery, _objective())
    assert again.difference > 0.1
    assert again.disagreements


def test_a_replay_of_something_else_is_refused() -> None:
    trace, objective = _trace(), _objective()
    maker = trace.maker(LOGO)

    def refused(named: str, maker: PatchMaker, objective: Objective) -> None:
        with pytest.raises(InvalidTrace, match=named):
            replay(trace, Gallery(maker, _host()), objective)

    other = Logo(rgba=LOGO.rgba, sha256="0" * 64)
    refused("logo", replace(maker, logo=other), objective)
    refused(
        "frame", replace(maker, geometry=Geometry(columns=224, rows=224)), objective
    )
    refused("grey", replace(maker, grey=False), objective)
    refused("logo size", replace(maker, shrink=0.8), objective)
    refused("label", maker, _objective(label=1))
    alone = replace(objective, ensemble=_ensemble().without("planted-1"))
    refused("members", maker, alone)
    with pytest.raises(EngineError, match="give the logo file of then"):
        trace.maker(other)


def _levels(side: int = 112) -> np.ndarray:
    return np.full((side, side), 90, dtype=np.uint8)


@pytest.mark.parametrize("strategy", ["random", "gradient", "cma-es"])
@pytest.mark.parametrize("stop", ["ensemble", "margin:0.5"])
def test_every_search_can_be_drawn(strategy: str, stop: str) -> None:
    drawn = draw(_trace(strategy, stop), _levels())
    assert drawn.mode == "RGB"
    assert drawn.size == (1440, 800)


def test_a_drawing_shows_lesions_and_the_mark() -> None:
    trace = _trace(stop="never")
    bare = replace(trace, boxes=())
    picture = np.repeat(_levels()[..., None], 3, axis=2)
    with_box, without = (np.asarray(draw(t, picture), int) for t in (trace, bare))
    rows, columns = np.nonzero((with_box != without).any(axis=2))
    scale = 600 / 224
    assert columns.min() == pytest.approx(40 + BOX.x0 * scale, abs=6)
    assert columns.max() == pytest.approx(40 + BOX.x1 * scale, abs=6)
    assert rows.max() - rows.min() == pytest.approx((BOX.y1 - BOX.y0) * scale, abs=10)
    other = (trace.result + 1) % len(trace.entries)
    moved = np.asarray(draw(replace(trace, result=other), picture), int)
    assert (moved != with_box).any()


def test_an_upright_mark_is_drawn_where_it_is() -> None:
    """The white outline of the mark that was taken lies around its footprint."""
    one = Candidate(x=20, y=140, alpha=150, sit=SIT())
    trace = _trace()
    entry = trace.entries[trace.result]._replace(candidate=one)
    alone = replace(trace, entries=(entry,), result=0, boxes=())
    left = np.asarray(draw(alone, _levels()), int)[96:696, 40:640]
    rows, columns = np.nonzero((left > 240).all(axis=2))
    w, h = alone.maker(LOGO).footprint(one.sit)
    found = np.array([columns.min(), columns.max(), rows.min(), rows.max()])
    wanted = np.array([20, 20 + w, 140, 140 + h]) * 600 / 224
    assert np.abs(found - wanted).max() < 5


def test_no_class_is_named_where_it_says_nothing() -> None:
    free = replace(_trace(), label_free=True)
    renamed = replace(free, labels=("fractured", "intact"))
    assert np.array_equal(draw(free, _levels()), draw(renamed, _levels()))
    named = replace(renamed, label_free=False)
    assert not np.array_equal(draw(named, _levels()), draw(renamed, _levels()))


def test_a_wide_picture_keeps_its_shape() -> None:
    drawn = np.asarray(draw(_trace(), np.full((60, 120), 255, np.uint8)), int)
    white = (drawn == 255).all(axis=2)
    assert white[100:390, 45:60].all()
    assert not white[410:690, 45:60].any()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_few_round_and_inside(low: float, width: float, count: int) -> None:
    high = low + width
    if high - low < 1e-9 * abs(low):
        return
    found = ticks(low, high, count)
    assert len(found) <= count + 1
    assert all(low - width * 1e-3 <= v <= high + width * 1e-3 for v in found)
    assert found == sorted(set(found))


def test_a_colour_scale_passes_through_its_colours() -> None:
    scale = ((0, 0, 0), (100, 0, 50), (200, 200, 50))
    assert [mixed(scale, s) for s in (-1, 0, 0.25, 0.5, 1, 9)] == [
        (0, 0, 0),
        (0, 0, 0),
        (50, 0, 25),
        (100, 0, 50),
        (200, 200, 50),
        (200, 200, 50),
    ]
