"""Frames looked at with several windows: the mean over them is what counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.params import DeltaParams, ProtectParams, SearchParams, StopRule
from engine.protection.protector import Protector
from engine.recover import recover
from engine.search.candidate import Candidate
from engine.search.objective import Objective, leads, objective_for
from engine.search.replay import replay
from engine.search.show import Gallery
from engine.search.trace import InvalidTrace, Trace
from engine.types import LEVELS, SIT, Frame, Rendering
from engine.watermark.blend import blend
from engine.watermark.maker import PatchMaker
from engine.watermark.presets import PresetView
from engine.watermark.stored import add_mark, apply_delta
from engine.watermark.working import Geometry, working_image, working_images
from tests.engine.planted import PlantedRemover, planted_ensemble
from tests.engine.searching import LOGO

CPU = torch.device("cpu")
WEAK = (120, 150, 170, 190)
BRAIN = Rendering(lo=-1024.0, hi=1500.0), Rendering(lo=0.0, hi=80.0)


def _ct(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Air, tissue and bone, with detail in each."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:rows, :columns]
    r = np.hypot(yy - rows / 2, (xx - columns / 2) * rows / columns) / rows
    hounsfield = np.where(r < 0.36, 35 + 20 * np.sin(xx / 9) * np.cos(yy / 7), -1000)
    hounsfield = np.where((r >= 0.36) & (r < 0.42), 900, hounsfield)
    noise = rng.normal(0, 4, (rows, columns))
    return np.clip(np.rint(hounsfield + noise), -1024, 3071).astype(np.int32)


def _frame(
    rows: int = 256,
    columns: int = 256,
    windows: tuple[Rendering, ...] = BRAIN,
) -> Frame:
    return Frame(
        stored=_ct(rows, columns),
        rendering=windows[0],
        presets=windows[1:],
        minimum=-1024,
        maximum=3071,
    )


def _maker(frame: Frame) -> PatchMaker:
    rows, columns = frame.stored.shape
    geometry = Geometry(columns=columns, rows=rows)
    return PatchMaker(logo=LOGO, geometry=geometry, sl=2.0, grey=True)


def _gallery(frame: Frame, host: np.ndarray) -> Gallery:
    presets = PresetView(frame, host, CPU) if frame.presets else None
    shown = working_image(host, frame.rendering, CPU)
    return Gallery(_maker(frame), shown, presets)


_WINDOWS = st.builds(
    lambda lo, width, inverted: Rendering(lo=lo, hi=lo + width, inverted=inverted),
    st.floats(-1200, 800),
    st.floats(20, 3000),
    st.booleans(),
)


@settings(max_examples=10, deadline=None)
@given(
    windows=st.tuples(_WINDOWS, _WINDOWS, _WINDOWS),
    size=st.sampled_from([(96, 128), (224, 224), (256, 200), (512, 512)]),
    alpha=st.integers(100, 255),
    turn=st.sampled_from([0.0, 31.0]),
)
def test_the_search_sees_what_will_be_stored_under_every_window(
    windows: tuple[Rendering, ...], size: tuple[int, int], alpha: int, turn: float
) -> None:
    frame = _frame(*size, windows=windows)
    one = Candidate(x=30, y=60, alpha=alpha, sit=SIT(rotation=turn, value=0.8))
    gallery = _gallery(frame, frame.stored)
    seen = gallery.pictures([one])
    mark = gallery.maker.mark((one.x, one.y), one.alpha, one.sit)
    final = add_mark(frame.stored, frame, mark)
    true = working_images(final, frame.renderings, CPU)
    assert seen.shape == true.shape == (3, 3, 224, 224)
    for preset, mine, its in zip(windows[1:], seen[1:], true[1:], strict=True):
        # A level of the first window more or less is this many of the preset's.
        grain = max(1.0, windows[0].unit / preset.unit)
        changed = (its != working_image(frame.stored, preset, CPU))[0]
        if changed.any():
            error = (mine - its).abs()[0][changed]
            assert float(error.mean()) < 1.5 * grain / LEVELS


def test_of_a_large_frame_the_search_sees_an_average_of_it() -> None:
    frame = _frame(1024, 900)
    gallery = _gallery(frame, frame.stored)
    one = Candidate(x=50, y=70, alpha=160, sit=SIT(rotation=20.0))
    seen = gallery.pictures([one])
    mark = gallery.maker.mark((one.x, one.y), one.alpha, one.sit)
    final = add_mark(frame.stored, frame, mark)
    true = working_images(final, frame.renderings, CPU)
    assert float((seen - true).abs().mean()) < 1 / LEVELS
    # Pasting the first window's patch would not do.
    clean = working_image(frame.stored, frame.presets[0], CPU)
    pasted = blend(clean, [gallery.mark(one)])[0]
    assert float((seen[1] - true[1]).abs().mean()) < 0.3 * float(
        (pasted - true[1]).abs().mean()
    )


def test_pictures_come_window_by_window() -> None:
    frame = _frame()
    gallery = _gallery(frame, frame.stored)
    ones = [Candidate(x=x, y=40, alpha=150, sit=SIT()) for x in (5, 60, 90)]
    together = gallery.pictures(ones)
    assert gallery.windows == 2
    assert together.shape[0] == 6
    for i, one in enumerate(ones):
        torch.testing.assert_close(together[[i, 3 + i]], gallery.pictures([one]))


def test_without_presets_nothing_differs_from_one_window() -> None:
    frame = replace(_frame(), presets=())
    gallery = _gallery(frame, frame.stored)
    ones = [Candidate(x=x, y=40, alpha=150, sit=SIT()) for x in (5, 60, 90)]
    shown = working_image(frame.stored, frame.rendering, CPU)
    pictures = gallery.pictures(ones)
    assert torch.equal(pictures, blend(shown, [gallery.mark(one) for one in ones]))
    assert gallery.pulled(pictures, pictures) is pictures
    ensemble = planted_ensemble(shown, WEAK, WEAK, threshold=0.06)
    for rule in ("ensemble", "never"):
        objective = objective_for(ensemble, shown, 0, StopRule.parse(rule))
        with torch.inference_mode():
            logits = ensemble.member_logits(pictures).double()
        mixed = ensemble.log_probabilities(pictures).double()
        margins = leads(logits, 0).mean(0)
        for i, said in enumerate(objective.judge(logits)):
            fitness = mixed[i, 0].exp() if rule == "ensemble" else margins[i]
            assert said.fitness == pytest.approx(float(fitness), abs=1e-6)


def _objective(windows: int, rule: str) -> Objective:
    shown = torch.full((windows, 3, 224, 224), 0.4)
    ensemble = planted_ensemble(shown[0], WEAK, WEAK, WEAK)
    return objective_for(ensemble, shown, 0, StopRule.parse(rule))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), windows=st.integers(2, 4), count=st.integers(1, 5))
def test_a_candidate_is_worth_the_mean_over_windows(
    seed: int, windows: int, count: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn((3, windows * count, 2), generator=generator).double()
    apart = logits.reshape(3, windows, count, 2)
    probability = apart.softmax(-1).mean(dim=(0, 1))
    margin = leads(apart, 0).mean(dim=1)
    for rule in ("ensemble", "never", "all"):
        for i, said in enumerate(_objective(windows, rule).judge(logits)):
            wanted = probability[i, 0] if rule == "ensemble" else margin[:, i].mean()
            assert said.fitness == pytest.approx(float(wanted), abs=1e-5)
            assert said.deceived == bool(probability[i, 0] < probability[i, 1])
            assert said.wrong == int((margin[:, i] < 0).sum())


def test_gradients_of_all_windows_point_in_the_picture_of_the_first() -> None:
    """With the loss a sum of pixels, a little more opacity changes it as told."""
    windows = Rendering(lo=-1024, hi=1500), Rendering(lo=-1500, hi=3000, inverted=True)
    frame = _frame(windows=windows)
    gallery = _gallery(frame, frame.stored)
    low, high = (Candidate(x=40, y=60, alpha=a, sit=SIT()) for a in (150, 158))
    before, after = gallery.pictures([low]), gallery.pictures([high])
    slope = gallery.pulled(before, torch.ones_like(before))[0]
    first = (after[0] - before[0]).double()
    told = float((slope.double() * first).sum())
    true = float((after - before).double().sum()) / 2
    assert told == pytest.approx(true, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(
    windows=st.tuples(_WINDOWS, _WINDOWS),
    epsilon=st.integers(0, 16),
    seed=st.integers(0, 2**31),
)
def test_delta_is_bounded_by_the_narrowest_window(
    windows: tuple[Rendering, ...], epsilon: int, seed: int
) -> None:
    frame = _frame(64, 64, windows=windows)
    rng = np.random.default_rng(seed)
    delta = rng.integers(-epsilon, epsilon, (64, 64), endpoint=True).astype(np.int8)
    moved = np.abs(apply_delta(frame, delta) - frame.stored).max()
    narrowest = min(window.unit for window in windows)
    assert moved <= np.floor(epsilon * narrowest + 0.5)


def test_a_frame_is_protected_under_all_its_windows() -> None:
    frame = _frame()
    views = working_images(frame.stored, frame.renderings, CPU)
    protector = Protector(
        ensemble=planted_ensemble(views[0], WEAK, WEAK, threshold=0.06),
        objective="diagnosis",
        removers=[PlantedRemover()],
        logo=LOGO,
        params=ProtectParams(
            delta=DeltaParams(iterations=3), search=SearchParams(budget=24)
        ),
    )
    result = protector.protect(frame, seed=b"one")
    report, count = result.report, len(frame.renderings)
    np.testing.assert_array_equal(recover(result.stored, result.key), frame.stored)
    final = working_images(result.stored, frame.renderings, CPU)
    with torch.inference_mode():
        said = protector.ensemble.probabilities(final)
    assert len(report.windows) == count
    for one, window, its in zip(report.windows, frame.renderings, said, strict=True):
        assert (one.lo, one.hi) == (window.lo, window.hi)
        assert one.after.ensemble == pytest.approx(its.tolist(), abs=1e-6)
    mean = said.mean(dim=0).tolist()
    assert report.after.ensemble == pytest.approx(mean, abs=1e-6)
    before = np.mean([one.before.ensemble for one in report.windows], axis=0)
    assert report.before.ensemble == pytest.approx(before.tolist())
    assert report.success == (int(np.argmax(mean)) != int(np.argmax(before)))
    per_candidate = len(protector.ensemble.members) * count
    assert report.model_forwards >= per_candidate * (5 + report.evaluated)
    assert report.model_forwards % per_candidate == 0
    trace = Trace.from_json(result.trace.to_json())
    gallery = _gallery(frame, apply_delta(frame, result.key.delta))
    label = protector.ensemble.labels.index(report.before.label)
    wanted = objective_for(protector.ensemble, views, label, StopRule(kind="never"))
    shown = Gallery(trace.maker(LOGO), gallery.host, gallery.presets)
    assert replay(trace, shown, wanted).difference < 0.05
    with pytest.raises(InvalidTrace, match="windows 2, but the pictures 1"):
        replay(trace, Gallery(trace.maker(LOGO), gallery.host), wanted)
    with pytest.raises(InvalidTrace, match="windows"):
        replay(trace, shown, replace(wanted, features=()))
    plain = protector.protect(replace(frame, presets=()), seed=b"one")
    assert plain.report.windows == ()
    assert plain.report.delta_max <= 8
    # What δ may do is bounded by the brain window: under a stored unit a level.
    moved = np.abs(apply_delta(frame, result.key.delta) - frame.stored)
    assert moved.max() <= round(8 * frame.presets[0].unit)


@pytest.mark.parametrize("strategy", ["gradient", "he-sit", "random-sit"])
def test_every_strategy_searches_under_several_windows(strategy: str) -> None:
    frame = _frame(96, 96)
    views = working_images(frame.stored, frame.renderings, CPU)
    protector = Protector(
        ensemble=planted_ensemble(views[0], WEAK, threshold=0.06),
        objective="label-free",
        removers=[],
        logo=LOGO,
        params=ProtectParams(
            search=SearchParams(strategy=strategy, budget=20, robust_changes=2)  # type: ignore[arg-type]
        ),
    )
    result = protector.protect(frame, seed=b"one")
    assert len(result.report.windows) == 2
    assert 0 < result.report.queries <= 20
    assert result.report.verified
