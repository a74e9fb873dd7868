"""Recovery: exact for every frame and mark, refused for every wrong one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidFrame, InvalidParameter, RecoveryFailed
from engine.params import SITRanges
from engine.recover import recover
from engine.types import MIN_SIDE, SIT, Frame, FrameKey, Rendering
from engine.watermark import sit
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key
from engine.watermark.working import Geometry

LOGO = load_logo()


def _frame(
    bits: int,
    *,
    signed: bool,
    colour: bool,
    inverted: bool,
    window: tuple[float, float] = (0.1, 0.9),
    size: tuple[int, int] = (40, 36),
    seed: int = 0,
) -> Frame:
    """Noise over the whole range; the window in shares of it."""
    minimum = -(2 ** (bits - 1)) if signed else 0
    maximum = minimum + 2**bits - 1
    span = maximum - minimum
    rng = np.random.default_rng(seed)
    shape = (*size, 3) if colour else size
    return Frame(
        stored=rng.integers(minimum, maximum, shape, dtype=np.int32, endpoint=True),
        rendering=Rendering(
            lo=minimum + span * window[0],
            hi=minimum + span * window[1],
            inverted=inverted,
        ),
        minimum=minimum,
        maximum=maximum,
    )


def _protected(
    frame: Frame, mark: Mark, delta: np.ndarray
) -> tuple[np.ndarray, FrameKey]:
    stored = add_mark(apply_delta(frame, delta), frame, mark)
    assert stored.min() >= frame.minimum
    assert stored.max() <= frame.maximum
    key = make_key(frame, stored, mark, delta=delta, logo_sha256=LOGO.sha256)
    return stored, key


def _maker(frame: Frame, matte: Literal["soft", "binary"] = "soft") -> PatchMaker:
    rows, columns = frame.stored.shape[:2]
    return PatchMaker(
        logo=LOGO,
        geometry=Geometry(columns=columns, rows=rows),
        sl=1.6,
        grey=not frame.colour,
        matte=matte,
    )


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Frame, Mark, np.ndarray]:
    low = draw(st.floats(-1.0, 1.2))
    frame = _frame(
        draw(st.integers(8, 16)),
        signed=draw(st.booleans()),
        colour=draw(st.booleans()),
        inverted=draw(st.booleans()),
        window=(low, low + draw(st.floats(0.0005, 2.0))),
        size=(draw(st.integers(32, 44)), draw(st.integers(32, 44))),
        seed=draw(st.integers(0, 2**32)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    one = draw(st.sampled_from([SIT(), sit.draw(SITRanges(), rng)]))
    maker = _maker(frame, draw(st.sampled_from(["soft", "binary"])))
    w, h = maker.footprint(one)
    place = draw(st.integers(0, 224 - w)), draw(st.integers(0, 224 - h))
    mark = maker.mark(place, draw(st.integers(1, 255)), one)
    grid = draw(st.integers(8, 44)), draw(st.integers(8, 44))
    layered = frame.colour and draw(st.booleans())
    levels = draw(st.sampled_from([0, 1, 8, 127]))
    delta = rng.integers(
        -levels, levels, (*grid, 3) if layered else grid, np.int64, endpoint=True
    ).astype(np.int8)
    return frame, mark, delta


@settings(deadline=None, max_examples=100)
@given(_cases())
def test_recovery_is_exact_for_any_frame_mark_and_delta(
    case: tuple[Frame, Mark, np.ndarray],
) -> None:
    frame, mark, delta = case
    stored, key = _protected(frame, mark, delta)
    np.testing.assert_array_equal(recover(stored, key), frame.stored)
    assert key.sit == mark.sit


def test_recovery_is_exact_at_every_opacity() -> None:
    frame = _frame(12, signed=True, colour=False, inverted=False)
    solid = np.full((20, 18, 4), 255, np.uint8)
    solid[..., :3] = np.arange(18, dtype=np.uint8)[:, None] * 14
    delta = np.random.default_rng(1).integers(-8, 9, (16, 16)).astype(np.int8)
    for alpha in range(1, 256):
        mark = Mark(x=9, y=11, alpha=alpha, sit=SIT(), patch=solid)
        stored, key = _protected(frame, mark, delta)
        np.testing.assert_array_equal(recover(stored, key), frame.stored)
    # At the last one the mark hides the image: the residual alone carries it.
    assert np.unique(stored[11:31, 9]).size == 1


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", range(8, 17))
def test_recovery_is_exact_at_every_depth(bits: int, colour: bool) -> None:
    delta = np.random.default_rng(2).integers(-8, 9, (20, 20)).astype(np.int8)
    for signed in (False, True):
        for inverted in (False, True):
            frame = _frame(bits, signed=signed, colour=colour, inverted=inverted)
            mark = _maker(frame).mark((30, 50), 150, SIT(rotation=20.0))
            stored, key = _protected(frame, mark, delta)
            assert not np.array_equal(stored, frame.stored)
            np.testing.assert_array_equal(recover(stored, key), frame.stored)


def _case(seed: int = 0) -> tuple[np.ndarray, FrameKey, Frame]:
    frame = _frame(12, signed=False, colour=False, inverted=False, seed=seed)
    mark = _maker(frame).mark((30, 50), 150, SIT(rotation=20.0))
    stored, key = _protected(frame, mark, np.ones((20, 20), np.int8))
    return stored, key, frame


def test_a_pixel_changed_on_the_way_is_refused() -> None:
    stored, key, _ = _case()
    for y, x in ((0, 0), (key.y + 3, key.x + 3), (39, 35)):
        changed = stored.copy()
        changed[y, x] ^= 1
        with pytest.raises(RecoveryFailed, match="digest"):
            recover(changed, key)


def test_the_original_itself_is_not_taken_for_the_protected_frame() -> None:
    _, key, frame = _case()
    with pytest.raises(RecoveryFailed, match="digest"):
        recover(frame.stored, key)


def test_the_key_of_another_frame_is_refused() -> None:
    stored, _, _ = _case()
    _, other, _ = _case(seed=1)
    with pytest.raises(RecoveryFailed, match="key is of another frame"):
        recover(stored, other)


def test_a_frame_of_another_size_is_refused() -> None:
    stored, key, _ = _case()
    for wrong in (stored[:-1], stored.T, np.stack([stored] * 3, axis=-1)):
        with pytest.raises(RecoveryFailed, match="another frame, or its size"):
            recover(np.ascontiguousarray(wrong), key)
    with pytest.raises(RecoveryFailed, match="int64"):
        recover(stored.astype(np.int64), key)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [
        {"alpha": 0},
        {"alpha": 256},
        {"x": -1},
        {"x": 30},
        {"y": 4000},
        {"patch": np.zeros((4, 4, 3), np.uint8)},
        {"patch": np.zeros((4, 4), np.uint8)},
        {"patch": np.zeros((4, 4, 4), np.float32)},
        {"patch": np.full((90, 4, 4), 255, np.uint8)},
        {"delta": np.zeros((0, 4), np.int8)},
        {"delta": np.zeros((8, 8, 3), np.int8)},
        {"delta": np.zeros((8,), np.int8)},
        {"delta": np.zeros((8, 8), np.float64)},
    ],
)
def test_a_damaged_key_is_refused_by_name(damage: dict) -> None:
    stored, key, _ = _case()
    with pytest.raises(RecoveryFailed, match="key is damaged or of another frame"):
        recover(stored, replace(key, **damage))


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 149},
        {"x": 5},
        {"delta": np.zeros((20, 20), np.int8)},
        {"rendering": Rendering(lo=0.0, hi=4095.0, inverted=True)},
        {"stored_sha256": "0" * 64},
    ],
)
def test_a_key_with_one_wrong_number_is_refused(change: dict) -> None:
    stored, key, _ = _case()
    with pytest.raises(RecoveryFailed, match="digest"):
        recover(stored, replace(key, **change))


def test_frames_too_small_for_a_mark_are_refused() -> None:
    small = np.zeros((MIN_SIDE, MIN_SIDE - 1), np.int32)
    window = Rendering(lo=0.0, hi=255.0)
    with pytest.raises(InvalidFrame, match="no mark can be placed"):
        Frame(stored=small, rendering=window, minimum=0, maximum=255)


def test_a_mark_that_leaves_the_frame_is_refused() -> None:
    _, key, frame = _case()
    wide = np.full((10, 37, 4), 255, np.uint8)
    for x, y, patch in ((0, 0, wide), (-1, 0, key.patch), (0, 39, key.patch)):
        mark = Mark(x=x, y=y, alpha=9, sit=SIT(), patch=patch)
        with pytest.raises(InvalidParameter, match="leaves the frame of 36x40"):
            add_mark(frame.stored, frame, mark)
