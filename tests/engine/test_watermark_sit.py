"""The semantic-invariant transform: ranges, seeds, colours, rotation, mattes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import InvalidParameter
from engine.params import SITRanges
from engine.types import SIT, Frame, Rendering
from engine.watermark import sit
from engine.watermark.blend import GridMark, blend
from engine.watermark.logo import Logo, load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.paint import GridPainter
from engine.watermark.patch import scale_logo
from engine.watermark.stored import add_mark, make_key
from engine.watermark.working import Geometry

LOGO = load_logo()


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.floats(0, 90), st.floats(0, 1), st.floats(1, 2))
def test_draws_are_seeded_and_lie_in_their_ranges(
    seed: int, angle: float, low: float, high: float
) -> None:
    ranges = SITRanges(
        rotation=(-angle, angle), hue=(0, 0), saturation=(low, high), value=(1, 1)
    )
    one = sit.draw(ranges, np.random.default_rng(seed))
    assert one == sit.draw(ranges, np.random.default_rng(seed))
    assert abs(one.rotation) <= angle
    assert low <= one.saturation <= high
    # A brand owner who forbids hue and value gets neither.
    assert (one.hue, one.value) == (0, 1)


def test_other_seeds_draw_other_transforms() -> None:
    draws = {sit.draw(SITRanges(), np.random.default_rng(seed)) for seed in range(20)}
    assert len(draws) == 20


def test_no_range_at_all_is_plain_he() -> None:
    none = SITRanges(rotation=(0, 0), hue=(0, 0), saturation=(1, 1), value=(1, 1))
    assert sit.draw(none, np.random.default_rng(1)) == SIT()


@pytest.mark.parametrize(
    "arguments",
    [
        {"rotation": (10, -10)},
        {"hue": (float("nan"), 3)},
        {"rotation": (-math.inf, math.inf)},
        {"saturation": (-0.1, 1)},
        {"value": (-1, 1)},
    ],
)
def test_unusable_ranges_are_refused(arguments: dict) -> None:
    with pytest.raises(InvalidParameter):
        SITRanges(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"rotation": math.nan}, {"hue": math.inf}, {"saturation": -1.0}, {"value": -0.1}],
)
def test_an_unusable_transform_is_refused(arguments: dict) -> None:
    with pytest.raises(InvalidParameter, match="finite"):
        SIT(**arguments)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_colours_change_as_hsv_in_floating_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = sit.draw(SITRanges(), rng)
    rgba = rng.integers(0, 256, (6, 7, 4), dtype=np.uint8)
    hsv = np.array(Image.fromarray(rgba[..., :3]).convert("HSV"), dtype=np.float64)
    hsv[..., 0] = np.floor((hsv[..., 0] + one.hue / 360 * 256) % 256)
    hsv[..., 1] = np.clip(np.rint(hsv[..., 1] * one.saturation), 0, 255)
    hsv[..., 2] = np.clip(np.rint(hsv[..., 2] * one.value), 0, 255)
    planes = [Image.fromarray(np.uint8(hsv[..., c])) for c in range(3)]
    rgb = np.asarray(Image.merge("HSV", planes).convert("RGB")).astype(float)
    made = sit.coloured(rgba, one)
    np.testing.assert_array_equal(made[..., 3], rgba[..., 3])
    expected = rgb * rgba[..., 3:] / 255
    assert np.abs(made[..., :3] - expected).max() <= 0.5


def test_without_hue_a_colour_keeps_its_hue() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 40, 40, 255), (30, 180, 30, 255), (20, 20, 220, 255)]
    ranges = SITRanges(hue=(0, 0))
    for seed in range(10):
        one = sit.draw(ranges, np.random.default_rng(seed))
        made = sit.coloured(rgba, one)[0, :, :3]
        assert made.argmax(axis=1).tolist() == [0, 1, 2]


def test_hue_and_saturation_say_nothing_on_a_grey_frame() -> None:
    rgba = scale_logo(LOGO, (90, 50))
    plain = sit.apply(rgba, SIT(rotation=12.0, value=1.1), grey=True)
    other = SIT(rotation=12.0, hue=77.0, saturation=0.5, value=1.1)
    np.testing.assert_array_equal(sit.apply(rgba, other, grey=True), plain)
    assert (plain[..., 0] == plain[..., 2]).all()
    darker = sit.apply(rgba, SIT(rotation=12.0, value=0.7), grey=True)
    assert darker[..., 0].sum() < plain[..., 0].sum()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_right_angles_move_pixels_whole_and_counter_clockwise(quarters: int) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    planes = sit.bounded(planes)
    turned = sit.turn(planes, 90.0 * quarters)
    np.testing.assert_array_equal(turned, np.rot90(planes, quarters))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.floats(-180, 180, allow_subnormal=False)
)
def test_a_turned_logo_stays_whole(w: int, h: int, degrees: float) -> None:
    width, height = sit.turned_size((w, h), degrees)
    to_logo = sit.logo_from_canvas((w, h), (width, height), degrees)
    corners = np.array([[0, w, 0, w], [0, 0, h, h], [1, 1, 1, 1]])
    placed = np.linalg.inv(to_logo) @ corners
    assert placed[:2].min() >= -1e-9
    assert (placed[0] <= width + 1e-9).all()
    assert (placed[1] <= height + 1e-9).all()
    # No more than two pixels are given away.
    assert width < np.ptp(placed[0]) + 2.001
    assert height < np.ptp(placed[1]) + 2.001
    solid = np.full((h, w, 4), 255, np.uint8)
    shown = sit.turn(solid, degrees)[..., 3].astype(float).sum() / 255
    assert shown == pytest.approx(w * h, abs=0.6 * (w + h) + 2)


def test_the_transform_is_in_the_key() -> None:
    frame = Frame(
        stored=np.arange(64 * 64, dtype=np.int32).reshape(64, 64),
        rendering=Rendering(lo=0.0, hi=4095.0),
        minimum=0,
        maximum=4095,
    )
    one = sit.draw(SITRanges(), np.random.default_rng(4))
    maker = PatchMaker(
        logo=LOGO, geometry=Geometry(columns=64, rows=64), sl=2.0, grey=True
    )
    mark = maker.mark((10, 20), 90, one)
    stored = add_mark(frame.stored, frame, mark)
    key = make_key(
        frame, stored, mark, delta=np.zeros((8, 8), np.int8), logo_sha256=LOGO.sha256
    )
    assert key.sit == one
    np.testing.assert_array_equal(key.patch, maker.native(one))


def _logo(alpha: np.ndarray) -> Logo:
    rgba = np.full((*alpha.shape, 4), 200, np.uint8)
    rgba[..., 3] = alpha
    return Logo(rgba=rgba, sha256="0" * 64)


def _maker(logo: Logo, matte: str = "binary", side: int = 64) -> PatchMaker:
    return PatchMaker(
        logo=logo,
        geometry=Geometry(columns=side, rows=side),
        sl=2.0,
        grey=False,
        matte=matte,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("side", [64, 700])
def test_a_binary_matte_drops_what_is_less_than_half_opaque(side: int) -> None:
    alpha = np.full((40, 40), 120, np.uint8)
    alpha[:, 20:] = 200
    maker = _maker(_logo(alpha), side=side)
    patch = maker.native(SIT())
    assert set(np.unique(patch[..., 3])) == {255}
    assert patch.shape[1] == pytest.approx(side // 4, abs=4)
    assert np.abs(patch[..., :3].astype(int) - 200).max() <= 2
    mark = GridPainter(maker).mark((0, 0), 255, SIT())
    left = mark.patch[3, :, : 224 // 4 - 4]
    assert left.max() == 0
    assert mark.patch[3, 8:-8, 224 // 4 + 4 : -8].min() > 0.999


def test_a_logo_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="half opaque"):
        _maker(_logo(np.full((20, 20), 100, np.uint8)))
    with pytest.raises(InvalidParameter, match="soft or binary"):
        _maker(LOGO, "hard")
    lines = np.zeros((900, 900), np.uint8)
    lines[::30] = 255
    with pytest.raises(InvalidParameter, match="too thin"):
        _maker(_logo(lines)).native(SIT())


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_any_picture_will_do_as_a_logo(tmp_path: Path, mode: str) -> None:
    pixels = np.full((40, 60, 4), 255, np.uint8)
    pixels[10:30, 10:50, :3] = 0
    pixels[15:25, 20:40, :3] = (255, 0, 0) if mode in {"P", "RGB", "RGBA"} else 0
    path = tmp_path / "logo.png"
    Image.fromarray(pixels).convert(mode).save(path)
    logo = load_logo(path)
    # Black stays: opacity never comes from the colours of the logo itself.
    assert (logo.rgba[12, 15] == (0, 0, 0, 255)).all()
    ground = 255 if mode in {"LA", "P", "RGBA"} else 0
    assert (logo.rgba[0, :, 3] == ground).all()


def test_a_mark_larger_than_the_picture_is_refused() -> None:
    import torch

    patch = torch.ones((4, 60, 20))
    host = torch.zeros((3, 50, 50))
    for mark in (
        GridMark(x=0, y=0, alpha=9, patch=patch),
        GridMark(x=-1, y=0, alpha=9, patch=patch[:, :10]),
        GridMark(x=45, y=0, alpha=9, patch=patch[:, :10]),
    ):
        with pytest.raises(InvalidParameter, match="leaves the picture of 50x50"):
            blend(host, [mark])
