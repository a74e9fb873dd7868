"""The logo and what is drawn from it: Eq. 5, transforms, blending on the grid."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import InvalidParameter
from engine.params import SITRanges
from engine.rendering import render
from engine.types import SIT, Box, Frame, Rendering
from engine.watermark import sit
from engine.watermark.blend import GridMark, blend, blend_many, canvas, patch_tensor
from engine.watermark.draw_logo import draw as draw_logo
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.paint import GridPainter
from engine.watermark.patch import render_patch, resize_patch, scaled_size
from engine.watermark.resample import axis
from engine.watermark.stored import add_mark
from engine.watermark.working import Geometry, working_image

LOGO = load_logo()
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sl", "size"), [(1, (224, 124)), (2, (112, 62)), (4, (56, 31))]
)
def test_equation_5_on_the_papers_sizes(sl: float, size: tuple[int, int]) -> None:
    assert scaled_size((224, 224), (441, 245), sl) == size


@given(
    st.tuples(st.integers(64, 4096), st.integers(64, 4096)),
    st.tuples(st.integers(8, 2000), st.integers(8, 2000)),
    st.floats(1, 8),
)
def test_the_logo_fits_and_its_area_falls_with_the_square_of_the_scale(
    frame: tuple[int, int], logo: tuple[int, int], sl: float
) -> None:
    w, h = scaled_size(frame, logo, sl)
    assert 1 <= w <= frame[0]
    assert 1 <= h <= frame[1]
    w1, h1 = scaled_size(frame, logo, 1)
    # Each side loses less than a pixel to rounding at either scale.
    for side, whole in ((w, w1), (h, h1)):
        assert whole / sl - 1 < max(side, 1) <= (whole + 1) / sl + 1
    with pytest.raises(InvalidParameter, match="at least 1"):
        scaled_size(frame, logo, 0.5)


def test_the_packaged_logo_is_what_its_script_draws() -> None:
    assert LOGO.size == (441, 245)
    np.testing.assert_array_equal(np.asarray(draw_logo())[..., 3], LOGO.rgba[..., 3])


def _save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("ground", [0, 255])
def test_a_ground_without_alpha_becomes_transparent(
    tmp_path: Path, ground: int
) -> None:
    pixels = np.full((40, 60, 3), ground, np.uint8)
    pixels[10:30, 10:50] = (200, 30, 30)
    path = _save(tmp_path / "logo.png", pixels)
    logo = load_logo(path)
    assert logo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 10:50] = 255
    np.testing.assert_array_equal(logo.rgba[..., 3], expected)


def test_black_parts_of_a_logo_with_alpha_stay_opaque(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15, 3] = 255
    logo = load_logo(_save(tmp_path / "logo.png", pixels))
    patch = render_patch(logo, (20, 20), SIT(), grey=False)
    assert patch.shape[:2] == (10, 10)
    assert (patch == (0, 0, 0, 255)).all()


def test_a_coloured_ground_is_part_of_the_logo(tmp_path: Path) -> None:
    pixels = np.full((20, 20, 3), 120, np.uint8)
    logo = load_logo(_save(tmp_path / "logo.png", pixels))
    assert (logo.rgba[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"not a picture"), "not a readable picture"),
        (lambda p: p.write_bytes(bytes(17 * 1024 * 1024)), "make it smaller"),
        (lambda p: _save(p, np.zeros((4097, 10, 3), np.uint8)), "resize it"),
        (lambda p: _save(p, np.zeros((20, 20, 4), np.uint8)), "transparent"),
        (lambda p: _save(p, np.zeros((4, 20, 3), np.uint8)), "resize it"),
        (lambda _: None, "cannot be read"),
        (
            lambda p: p.write_bytes(
                _save(p, np.eye(200, dtype=np.uint8)).read_bytes()[:80]
            ),
            "not a readable picture",
        ),
    ],
)
def test_an_unusable_logo_is_refused_by_name(
    tmp_path: Path, make: object, message: str
) -> None:
    path = tmp_path / "logo.png"
    make(path)  # type: ignore[operator]
    with pytest.raises(InvalidParameter, match=message):
        load_logo(path)


def _draws() -> st.SearchStrategy[SIT]:
    return st.builds(
        lambda seed: sit.draw(SITRanges(), np.random.default_rng(seed)),
        st.integers(0, 2**32),
    )


@settings(deadline=None, max_examples=40)
@given(_draws(), st.booleans())
def test_patches_are_premultiplied_and_tight(one: SIT, grey: bool) -> None:
    patch = render_patch(LOGO, (90, 50), one, grey=grey)
    assert patch.dtype == np.uint8
    assert patch.shape[2] == 4
    assert (patch[..., :3] <= patch[..., 3:]).all()
    for edge in (patch[0], patch[-1], patch[:, 0], patch[:, -1]):
        assert edge[..., 3].any()
    if grey:
        assert (patch[..., :1] == patch[..., :3]).all()


def test_the_identity_changes_nothing_and_rotation_widens() -> None:
    plain = render_patch(LOGO, LOGO.size, SIT(), grey=False)
    alpha = LOGO.rgba[..., 3:].astype(int)
    expected = (LOGO.rgba[..., :3].astype(int) * alpha + 127) // 255
    rows, columns = (np.flatnonzero(LOGO.rgba[..., 3].any(axis=a)) for a in (1, 0))
    expected = expected[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(plain[..., :3], expected)
    turned = render_patch(LOGO, (112, 62), SIT(rotation=45.0), grey=False)
    assert turned.shape[0] > 62


def test_value_darkens_and_hue_changes_colour_only(tmp_path: Path) -> None:
    pixels = np.zeros((62, 112, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[:, :56, 0] = pixels[:, 56:, 2] = 200
    logo = load_logo(_save(tmp_path / "logo.png", pixels))
    plain = render_patch(logo, (112, 62), SIT(), grey=False).astype(int)
    dark = render_patch(logo, (112, 62), SIT(value=0.7), grey=False).astype(int)
    shifted = render_patch(logo, (112, 62), SIT(hue=120.0), grey=False).astype(int)
    np.testing.assert_allclose(dark[..., :3].max(axis=2), 140, atol=1)
    np.testing.assert_array_equal(shifted[..., 3], plain[..., 3])
    np.testing.assert_allclose(shifted[..., :3].max(axis=2), 200, atol=2)
    # Red became green, blue became red.
    assert shifted[10, 10, :3].argmax() == 1
    assert shifted[10, 100, :3].argmax() == 0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(32, 3000),
    st.integers(32, 3000),
    st.integers(0, 223),
    st.integers(0, 223),
    st.data(),
)
def test_native_positions_are_inside(
    columns: int, rows: int, x: int, y: int, data: st.DataObject
) -> None:
    w = data.draw(st.integers(1, columns))
    h = data.draw(st.integers(1, rows))
    nx, ny = Geometry(columns=columns, rows=rows).native_position(x, y, (w, h))
    assert 0 <= nx <= columns - w
    assert 0 <= ny <= rows - h


@settings(deadline=None, max_examples=60)
@given(st.integers(32, 900), st.integers(32, 900), st.data())
def test_native_boxes_hold_the_grid_box_and_delta_boxes_the_native(
    columns: int, rows: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, 222)), data.draw(st.integers(0, 222))
    x1, y1 = data.draw(st.integers(x0 + 1, 224)), data.draw(st.integers(y0 + 1, 224))
    geometry = Geometry(columns=columns, rows=rows)
    native = geometry.native_box(Box(x0=x0, y0=y0, x1=x1, y1=y1))
    assert 0 <= native.x0 <= x0 * columns / 224
    assert x1 * columns / 224 <= native.x1 <= columns
    assert y1 * rows / 224 <= native.y1 <= rows
    box = geometry.delta_box(native)
    grid_columns = geometry.delta_shape()[1]
    acting = np.arange(native.x0, native.x1) * grid_columns // columns
    assert acting.min() == box.x0
    assert acting.max() == box.x1 - 1


def test_blending_is_algorithm_1() -> None:
    rng = np.random.default_rng(0)
    host = torch.from_numpy(rng.random((3, 64, 64), dtype=np.float32))
    patch = render_patch(LOGO, (30, 18), SIT(rotation=20.0), grey=False)
    mark = GridMark(x=7, y=9, alpha=150, patch=patch_tensor(patch, CPU))
    h, w = patch.shape[:2]
    logo, matte = patch[..., :3] / 255.0, patch[..., 3:] / 255.0
    x = host.permute(1, 2, 0).numpy()
    expected = x.copy()
    part = x[9 : 9 + h, 7 : 7 + w]
    a = 150 / 255
    expected[9 : 9 + h, 7 : 7 + w] = (
        a * logo + (1 - a) * matte * part + (1 - matte) * part
    )
    (made,) = blend(host, [mark])
    np.testing.assert_allclose(made.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    keep, add = canvas(mark, (64, 64))
    torch.testing.assert_close(host * keep + add, made)


def test_a_batch_equals_its_parts() -> None:
    host = torch.rand((3, 50, 50), generator=torch.Generator().manual_seed(0))
    patch = patch_tensor(render_patch(LOGO, (20, 12), SIT(), grey=False), CPU)
    marks = [GridMark(x=i, y=2 * i, alpha=40 * i + 1, patch=patch) for i in range(5)]
    batch = blend(host, marks)
    for one, mark in zip(batch, marks, strict=True):
        torch.testing.assert_close(one, blend(host, [mark])[0])


def test_resizing_keeps_the_premultiplied_bound() -> None:
    patch = render_patch(LOGO, (112, 62), SIT(), grey=False)
    small = resize_patch(patch, (30, 17))
    assert small.shape == (17, 30, 4)
    assert (small[..., :3] <= small[..., 3:]).all()


def test_rendering_rounds_half_up_and_mirrors() -> None:
    stored = np.array([-5, 0, 1, 2, 3, 4, 9], dtype=np.int32)
    plain = render(stored, Rendering(lo=0.0, hi=4.0))
    np.testing.assert_array_equal(plain, [0, 0, 64, 128, 191, 255, 255])
    mirrored = render(stored, Rendering(lo=0.0, hi=4.0, inverted=True))
    np.testing.assert_array_equal(mirrored, 255 - plain)


def _shaded(size: tuple[int, int]) -> Frame:
    rows, columns = size
    yy, xx = np.mgrid[:rows, :columns]
    levels = 110 + 60 * np.sin(xx / columns * 9) + 50 * np.cos(yy / rows * 7)
    return Frame(
        stored=np.clip(levels * 16, 0, 4095).astype(np.int32),
        rendering=Rendering(lo=0.0, hi=4095.0),
        minimum=0,
        maximum=4095,
    )


@pytest.mark.parametrize("matte", ["soft", "binary"])
@pytest.mark.parametrize(
    "size", [(60, 90), (224, 224), (300, 260), (512, 512), (700, 500), (1600, 2000)]
)
def test_the_search_sees_the_final_mark_within_a_level(
    size: tuple[int, int], matte: Literal["soft", "binary"]
) -> None:
    frame = _shaded(size)
    geometry = Geometry(columns=size[1], rows=size[0])
    maker = PatchMaker(logo=LOGO, geometry=geometry, sl=2.0, grey=True, matte=matte)
    painter = GridPainter(maker)
    host = working_image(frame.stored, frame.rendering, CPU)
    rng = np.random.default_rng(5)
    for one in (SIT(), *(sit.draw(SITRanges(), rng) for _ in range(3))):
        w, h = maker.footprint(one)
        x, y = int(rng.integers(0, 225 - w)), int(rng.integers(0, 225 - h))
        final = add_mark(frame.stored, frame, maker.mark((x, y), 140, one))
        shown = working_image(final, frame.rendering, CPU)
        mark = painter.mark((x, y), 140, one)
        off = 255 * (shown - blend(host, [mark])[0]).abs()
        inside = off[:, y : y + h, x : x + w]
        assert 255 * (shown - host).abs().max() > 60
        assert inside.mean() < (1.0 if matte == "soft" else 2.0)
        assert off.mean() < 0.3
        if geometry.reduction == 1 and matte == "soft":
            # Blending and resizing commute but for rounding to stored values.
            assert off.max() <= (2.0 if min(size) >= 224 else 2.5)


def test_marks_of_many_frames_are_blended_in_one_batch() -> None:
    hosts = torch.rand((3, 3, 50, 50), generator=torch.Generator().manual_seed(0))
    patch = patch_tensor(render_patch(LOGO, (20, 12), SIT(), grey=False), CPU)
    marks = [GridMark(x=i, y=2 * i, alpha=40 * i + 1, patch=patch) for i in range(5)]
    index = [2, 0, 2, 1, 0]
    batch = blend_many(hosts, index, marks)
    for one, host, mark in zip(batch, index, marks, strict=True):
        torch.testing.assert_close(one, blend(hosts[host], [mark])[0])
    with pytest.raises(InvalidParameter, match="number of its host"):
        blend_many(hosts, [0, 1, 2, 3, 0], marks)
    with pytest.raises(InvalidParameter, match="5 marks"):
        blend_many(hosts, [0], marks)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 900), st.integers(1, 300), st.data())
def test_an_axis_resizes_as_the_working_image_does(
    length: int, side: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    whole = torch.zeros((1, 1, 1, length))
    values = np.random.default_rng(length).random(stop - start).astype(np.float32)
    whole[0, 0, 0, start:stop] = torch.from_numpy(values)
    expected = torch.nn.functional.interpolate(
        whole, (1, side), mode="bilinear", antialias=True, align_corners=False
    )[0, 0, 0].numpy()
    made, low = axis(length, side).apply(values[:, None], start)
    placed = np.zeros(side, np.float32)
    placed[low : low + len(made)] = made[:, 0]
    np.testing.assert_allclose(placed, expected, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(32, 500), st.integers(32, 500), _draws(), st.data())
def test_the_native_mark_leaves_its_footprint_by_half_a_pixel_at_most(
    columns: int, rows: int, one: SIT, data: st.DataObject
) -> None:
    geometry = Geometry(columns=columns, rows=rows)
    maker = PatchMaker(
        logo=LOGO,
        geometry=geometry,
        sl=2.0,
        grey=True,
        shrink=data.draw(st.floats(0.3, 1)),
    )
    w, h = maker.footprint(one)
    if w > 224 or h > 224:
        return
    x, y = data.draw(st.integers(0, 224 - w)), data.draw(st.integers(0, 224 - h))
    mark = maker.mark((x, y), 100, one)
    high, wide = mark.patch.shape[:2]
    assert 0 <= mark.x <= columns - wide
    assert 0 <= mark.y <= rows - high
    # Half a native pixel: on frames of 112 and more that is less than the grid
    # pixel which the search keeps clear around a footprint.
    assert mark.x * 224 >= x * columns - 112
    assert (mark.x + wide) * 224 <= (x + w) * columns + 112
    assert mark.y * 224 >= y * rows - 112
    assert (mark.y + high) * 224 <= (y + h) * rows + 112


def test_blending_never_asks_the_device() -> None:
    # A meta tensor has no values: whoever looked at one would raise.
    hosts = torch.empty((2, 3, 50, 50), device="meta")
    patch = patch_tensor(render_patch(LOGO, (20, 12), SIT(), grey=False), CPU)
    marks = [GridMark(x=i, y=2, alpha=9, patch=patch[:, :, i:]) for i in range(3)]
    made = blend_many(hosts, [0, 1, 0], marks)
    assert made.device.type == "meta"
    assert made.shape == (3, 3, 50, 50)
    assert blend(hosts[0], marks).shape == (3, 3, 50, 50)
