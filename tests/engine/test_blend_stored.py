"""Blending in stored values and its inverse: exact for any frame and mark."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import RecoveryFailed
from engine.recover import recover
from engine.rendering import render
from engine.types import SIT, Frame, Rendering, stored_digest
from engine.watermark.logo import load_logo
from engine.watermark.patch import render_patch
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    bits = draw(st.integers(1, 16))
    signed = draw(st.booleans())
    colour = draw(st.booleans())
    rows, columns = draw(st.integers(32, 60)), draw(st.integers(32, 60))
    minimum = -(2 ** (bits - 1)) if signed else 0
    maximum = minimum + 2**bits - 1
    span = maximum - minimum
    lo = minimum + span * draw(st.floats(-0.5, 1.2))
    hi = lo + max(span * draw(st.floats(0.001, 1.5)), 1e-3)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (rows, columns, 3) if colour else (rows, columns)
    return Frame(
        stored=rng.integers(minimum, maximum, shape, dtype=np.int32, endpoint=True),
        rendering=Rendering(lo=lo, hi=hi, inverted=draw(st.booleans())),
        minimum=minimum,
        maximum=maximum,
    )


@st.composite
def marked(draw: st.DrawFn) -> tuple[Frame, Mark, np.ndarray]:
    frame = draw(frames())
    rows, columns = frame.stored.shape[:2]
    h, w = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    matte = rng.choice([0, 255, 128, 1, 200], size=(h, w, 1)).astype(np.uint8)
    if frame.colour:
        colour = (rng.random((h, w, 3)) * (matte + 1.0)).astype(np.uint8)
    else:
        colour = np.repeat(
            (rng.random((h, w, 1)) * (matte + 1.0)).astype(np.uint8), 3, 2
        )
    mark = Mark(
        x=draw(st.integers(0, columns - w)),
        y=draw(st.integers(0, rows - h)),
        alpha=draw(st.integers(1, 255)),
        sit=SIT(),
        patch=np.concatenate([np.minimum(colour, matte), matte], axis=2),
    )
    grid = draw(st.tuples(st.integers(8, 70), st.integers(8, 70)))
    layered = frame.colour and draw(st.booleans())
    shape = (*grid, 3) if layered else grid
    delta = rng.integers(-8, 9, shape).astype(np.int8)
    return frame, mark, delta


@settings(deadline=None, max_examples=200)
@given(marked())
def test_recovery_is_exact_and_the_range_is_kept(
    case: tuple[Frame, Mark, np.ndarray],
) -> None:
    frame, mark, delta = case
    protected = add_mark(apply_delta(frame, delta), frame, mark)
    assert protected.dtype == np.int32
    assert protected.min() >= frame.minimum
    assert protected.max() <= frame.maximum
    key = make_key(frame, protected, mark, delta=delta, logo_sha256="0" * 64)
    np.testing.assert_array_equal(recover(protected, key), frame.stored)


@settings(deadline=None, max_examples=50)
@given(marked())
def test_outside_the_mark_only_delta_acts(
    case: tuple[Frame, Mark, np.ndarray],
) -> None:
    frame, mark, delta = case
    host = apply_delta(frame, delta)
    protected = add_mark(host, frame, mark)
    outside = np.ones(frame.stored.shape[:2], dtype=bool)
    h, w = mark.patch.shape[:2]
    outside[mark.y : mark.y + h, mark.x : mark.x + w] = mark.patch[..., 3] == 0
    np.testing.assert_array_equal(protected[outside], host[outside])
    unit = frame.rendering.unit
    moved = np.abs(host.astype(np.int64) - frame.stored)
    assert moved.max() <= 8 * unit + 0.5


def _ct() -> Frame:
    rng = np.random.default_rng(3)
    return Frame(
        stored=rng.integers(-1024, 3071, (64, 80), dtype=np.int32),
        rendering=Rendering(lo=-160.0, hi=240.0),
        minimum=-32768,
        maximum=32767,
    )


def _plain_mark(alpha: int, frame: Frame) -> Mark:
    patch = render_patch(load_logo(), (36, 20), SIT(), grey=not frame.colour)
    return Mark(x=10, y=12, alpha=alpha, sit=SIT(), patch=patch)


def test_rendered_blend_is_equation_6_within_one_level() -> None:
    frame = _ct()
    mark = _plain_mark(120, frame)
    marked = add_mark(frame.stored, frame, mark)
    h, w = mark.patch.shape[:2]
    seen = render(frame.stored, frame.rendering).astype(float)[12 : 12 + h, 10 : 10 + w]
    a = 120 / 255
    expected = a * mark.patch[..., 0] + (1 - a * mark.patch[..., 3] / 255) * seen
    shown = render(marked, frame.rendering).astype(float)[12 : 12 + h, 10 : 10 + w]
    assert np.abs(shown - expected).max() <= 1.5


def test_binary_matte_is_the_formula_of_the_standard_case() -> None:
    frame = _ct()
    patch = np.full((5, 7, 4), 255, np.uint8)
    patch[..., :3] = 90
    protected = add_mark(
        frame.stored, frame, Mark(x=3, y=4, alpha=77, sit=SIT(), patch=patch)
    )
    x = np.clip(frame.stored[4:9, 3:10].astype(np.int64), -160, 240)
    logo = int(np.floor(-160 + 400 * (90 / 255) + 0.5))
    np.testing.assert_array_equal(
        protected[4:9, 3:10], (2 * ((255 - 77) * x + 77 * logo) + 255) // 510
    )


def test_inverted_grey_shows_the_same_picture() -> None:
    plain = _ct()
    mirrored = Frame(
        stored=(80 - plain.stored).astype(np.int32),
        rendering=Rendering(lo=-160.0, hi=240.0, inverted=True),
        minimum=-32768,
        maximum=32767,
    )
    delta = np.random.default_rng(1).integers(-8, 9, (16, 16)).astype(np.int8)
    shown = [
        render(add_mark(apply_delta(f, delta), f, _plain_mark(99, f)), f.rendering)
        for f in (plain, mirrored)
    ]
    assert np.abs(shown[0].astype(int) - shown[1].astype(int)).max() <= 1


def test_another_frame_or_key_is_refused() -> None:
    frame = _ct()
    delta = np.zeros((8, 8), np.int8)
    mark = _plain_mark(120, frame)
    protected = add_mark(frame.stored, frame, mark)
    key = make_key(frame, protected, mark, delta=delta, logo_sha256="0" * 64)
    changed = protected.copy()
    changed[0, 0] += 1
    with pytest.raises(RecoveryFailed, match="digest"):
        recover(changed, key)
    with pytest.raises(RecoveryFailed, match="does not fit"):
        recover(protected[:-1], key)
    assert stored_digest(recover(protected, key)) == key.stored_sha256


def test_a_key_whose_mark_leaves_the_frame_is_refused() -> None:
    frame = _ct()
    mark = _plain_mark(120, frame)
    protected = add_mark(frame.stored, frame, mark)
    away = Mark(x=70, y=12, alpha=120, sit=SIT(), patch=mark.patch)
    key = make_key(
        frame, protected, mark, delta=np.zeros((8, 8), np.int8), logo_sha256="0"
    )
    moved = type(key)(**{**key.__dict__, "x": away.x})
    with pytest.raises(RecoveryFailed, match="leaves the frame"):
        recover(protected, moved)
