"""Protecting whole frames: any depth and colour, exact recovery, honest reports."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import InvalidParameter, NoFeasiblePlacement
from engine.lesion.boxes import overlaps
from engine.params import DeltaParams, LesionParams, ProtectParams, SearchParams
from engine.protection import frame_search
from engine.protection.protector import Protector
from engine.protection.values import Prepared, ProtectedFrame
from engine.recover import recover
from engine.rendering import render
from engine.types import Box, Frame, Rendering
from engine.watermark.logo import load_logo
from engine.watermark.working import working_image
from tests.engine.planted import PlantedRemover, planted_ensemble

WEAK = (120, 150, 170, 190)
LESION = (100, 100, 130, 125)
CPU = torch.device("cpu")
QUICK = ProtectParams(delta=DeltaParams(iterations=4))


def _levels(rows: int, columns: int) -> np.ndarray:
    yy, xx = np.mgrid[:rows, :columns]
    wave = 90 + 30 * np.sin(xx / columns * 11) + 30 * np.cos(yy / rows * 8)
    wave[rows * 104 // 224 : rows * 118 // 224, columns * 102 // 224 :][
        :, : columns // 12
    ] += 90
    return wave


def _frame(kind: str) -> Frame:
    """Frames as modalities make them."""
    if kind == "colour":
        levels = np.stack([_levels(230, 300) * f for f in (1.0, 0.9, 0.8)], axis=2)
        stored, window, bits = levels, Rendering(lo=0.0, hi=255.0), (0, 255)
    elif kind == "signed ct":
        stored = _levels(256, 256) * 1.6 - 150
        window, bits = Rendering(lo=-150.4, hi=250.3), (-32768, 32767)
    elif kind == "monochrome1":
        stored = 4095 - _levels(420, 330) * 16
        window, bits = Rendering(lo=15.0, hi=4095.0, inverted=True), (0, 4095)
    else:
        stored, window, bits = _levels(40, 48), Rendering(lo=0.0, hi=255.0), (0, 255)
    return Frame(
        stored=np.clip(np.rint(stored), *bits).astype(np.int32),
        rendering=window,
        minimum=bits[0],
        maximum=bits[1],
    )


def _protector(frame: Frame, **changes: object) -> Protector:
    clean = working_image(frame.stored, frame.rendering, CPU)
    ensemble = planted_ensemble(clean, WEAK, WEAK, threshold=0.06)
    settings: dict[str, object] = {
        "ensemble": ensemble,
        "objective": "diagnosis",
        "removers": [PlantedRemover()],
        "logo": load_logo(),
        "params": QUICK,
    }
    return Protector(**(settings | changes))  # type: ignore[arg-type]


def _check(frame: Frame, result: ProtectedFrame) -> None:
    assert result.stored.dtype == np.int32
    assert result.stored.shape == frame.stored.shape
    assert frame.minimum <= result.stored.min()
    assert result.stored.max() <= frame.maximum
    np.testing.assert_array_equal(recover(result.stored, result.key), frame.stored)


@pytest.mark.parametrize("kind", ["colour", "signed ct", "monochrome1", "tiny"])
@pytest.mark.parametrize("objective", ["diagnosis", "label-free"])
def test_frames_of_every_kind_come_back_exactly(kind: str, objective: str) -> None:
    frame = _frame(kind)
    protector = _protector(frame, objective=objective)
    result = protector.protect(frame, seed=b"one")
    _check(frame, result)
    report = result.report
    assert report.objective == objective
    assert report.success
    assert report.verified
    assert report.before.label == "healthy"
    assert report.after.label == "ill"
    assert report.displacement > 0
    assert report.mark_share == pytest.approx(
        report.width * report.height / np.prod(frame.stored.shape[:2])
    )


def test_what_is_reported_holds_for_the_stored_values() -> None:
    frame = _frame("signed ct")
    protector = _protector(frame)
    result = protector.protect(frame, seed=b"one")
    shown = working_image(result.stored, frame.rendering, CPU)
    with torch.inference_mode():
        said = protector.ensemble.probabilities(shown[None])[0].tolist()
    assert result.report.after.ensemble == pytest.approx(said, abs=1e-6)
    assert int(np.argmax(said)) == 1
    original = render(frame.stored, frame.rendering).astype(float)
    final = render(result.stored, frame.rendering).astype(float)
    assert result.report.rmse == pytest.approx(
        np.sqrt(((original - final) ** 2).mean())
    )


def test_lesion_pixels_are_not_touched() -> None:
    frame = _frame("monochrome1")
    result = _protector(frame).protect(frame, seed=b"one")
    report = result.report
    assert report.lesion_source == "cnn"
    mark = Box(
        x0=report.x,
        y0=report.y,
        x1=report.x + report.width,
        y1=report.y + report.height,
    )
    for box in report.lesion_boxes:
        assert not overlaps(box, mark)
        part = slice(box.y0, box.y1), slice(box.x0, box.x1)
        np.testing.assert_array_equal(result.stored[part], frame.stored[part])
    assert not np.array_equal(result.stored, frame.stored)


def test_without_the_guard_delta_reaches_everywhere() -> None:
    frame = _frame("signed ct")
    params = ProtectParams(delta=DeltaParams(iterations=4, lesion_guard=False))
    result = _protector(frame, params=params).protect(frame, seed=b"one")
    box = result.report.lesion_boxes[0]
    part = slice(box.y0, box.y1), slice(box.x0, box.x1)
    assert result.report.verified
    assert not np.array_equal(result.stored[part], frame.stored[part])
    _check(frame, result)


def test_results_do_not_depend_on_order() -> None:
    frame, other = _frame("signed ct"), _frame("tiny")
    protector = _protector(frame)
    alone = protector.protect(frame, seed=b"one")
    protector.protect(other, seed=b"two")
    again = protector.protect(frame, seed=b"one")
    np.testing.assert_array_equal(alone.stored, again.stored)
    assert alone.key.alpha == again.key.alpha
    elsewhere = protector.protect(frame, seed=b"three")
    assert not np.array_equal(alone.stored, elsewhere.stored)


def test_a_failed_search_is_said_and_still_recoverable() -> None:
    frame = _frame("signed ct")
    clean = working_image(frame.stored, frame.rendering, CPU)
    strong = planted_ensemble(clean, WEAK, threshold=2.0)
    search = SearchParams(n_p=2, n_g=1, strategy="he")
    params = replace(QUICK, search=search)
    result = _protector(frame, ensemble=strong, params=params).protect(
        frame, seed=b"one"
    )
    assert not result.report.success
    assert result.report.verified
    assert result.report.before.label == result.report.after.label
    _check(frame, result)


def test_no_place_for_the_logo_is_an_error() -> None:
    frame = _frame("signed ct")
    params = replace(QUICK, lesion=LesionParams(margin=224))
    with pytest.raises(NoFeasiblePlacement):
        _protector(frame, params=params).protect(frame, seed=b"one")


def test_without_removers_only_the_mark_is_added() -> None:
    frame = _frame("signed ct")
    result = _protector(frame, removers=[]).protect(frame, seed=b"one")
    report = result.report
    assert report.delta_max == 0
    changed = np.argwhere(result.stored != frame.stored)
    assert changed[:, 0].min() >= report.y
    assert changed[:, 0].max() < report.y + report.height
    assert changed[:, 1].min() >= report.x
    assert changed[:, 1].max() < report.x + report.width


def test_progress_ends_and_the_report_is_json() -> None:
    frame = _frame("tiny")
    told: list[tuple[str, int, int]] = []
    result = _protector(frame).protect(
        frame, seed=b"one", progress=lambda *step: told.append(step)
    )
    assert list(dict.fromkeys(t[0] for t in told)) == ["mask", "delta", "search"]
    assert ("delta", 4, 4) in told
    assert all(0 < done <= total for _, done, total in told)
    plain = json.loads(json.dumps(result.report.as_dict(), allow_nan=False))
    assert plain["queries"] == result.report.queries
    assert plain["before"]["members"].keys() == {"planted-0", "planted-1"}
    assert set(plain["seconds"]) == {"mask", "delta", "search", "verify"}


def test_one_preparation_serves_many_searches() -> None:
    frame = _frame("signed ct")
    protector = _protector(frame)
    prepared = protector.prepare(frame, seed=b"one")
    direct = protector.protect(frame, seed=b"one")
    np.testing.assert_array_equal(
        protector.finish(prepared, seed=b"one").stored, direct.stored
    )
    plain = protector.variant(search=SearchParams(strategy="he"))
    result = plain.finish(prepared, seed=b"one")
    assert result.report.strategy == "he"
    assert result.key.sit.rotation == 0.0
    _check(frame, result)


def _blocked(prepared: Prepared) -> Prepared:
    """The same frame with lesions everywhere."""
    everywhere = (Box(x0=0, y0=0, x1=224, y1=224),)
    return replace(prepared, lesions=replace(prepared.lesions, boxes=everywhere))


def test_frames_that_share_forward_passes_do_not_depend_on_each_other() -> None:
    frame = _frame("signed ct")
    protector = _protector(frame)
    prepared = protector.prepare(frame, seed=b"one")
    seeds = [b"one", b"two", b"three"]
    together = protector.finish_many([prepared] * 3, seeds=seeds)
    alone = [protector.finish(prepared, seed=seed) for seed in seeds]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, ProtectedFrame)
        np.testing.assert_array_equal(one.stored, other.stored)
        assert one.report.queries == other.report.queries


def test_a_frame_without_room_does_not_stop_the_others() -> None:
    frame = _frame("signed ct")
    protector = _protector(frame)
    prepared = protector.prepare(frame, seed=b"one")
    first, second, third = protector.finish_many(
        [prepared, _blocked(prepared), prepared], seeds=[b"one", b"two", b"three"]
    )
    assert isinstance(second, NoFeasiblePlacement)
    assert "lesion boxes" in str(second)
    for done in (first, third):
        assert isinstance(done, ProtectedFrame)
        _check(frame, done)
    with pytest.raises(NoFeasiblePlacement):
        protector.finish(_blocked(prepared), seed=b"two")


def test_more_votes_than_members_are_refused() -> None:
    frame = _frame("tiny")
    params = replace(QUICK, search=SearchParams(stop="vote:3"))
    with pytest.raises(InvalidParameter, match="only 2 members"):
        _protector(frame, params=params).protect(frame, seed=b"one")


def test_boxes_that_nobody_vouches_for_keep_no_image_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a diagnosis ensemble boxes are attention: the threshold may rise."""
    frame = _frame("signed ct")
    everywhere = Box(x0=0, y0=0, x1=224, y1=224)

    def with_box(prepared: Prepared, box: Box) -> Prepared:
        mask = np.zeros((224, 224), dtype=bool)
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
        lesions = replace(prepared.lesions, mask=mask, boxes=(box,))
        return replace(prepared, lesions=lesions, boxes=(box,))

    small = Box(x0=100, y0=100, x1=120, y1=120)
    for objective, label_free in (("diagnosis", False), ("label-free", True)):
        protector = _protector(frame, objective=objective)
        prepared = with_box(protector.prepare(frame, seed=b"one"), everywhere)
        raised = with_box(prepared, small).lesions
        monkeypatch.setattr(frame_search, "relaxed", lambda *_, found=raised: found)
        if label_free:
            done = protector.finish(prepared, seed=b"one")
            assert "threshold raised" in done.report.fallbacks
        else:
            with pytest.raises(NoFeasiblePlacement):
                protector.finish(prepared, seed=b"one")
