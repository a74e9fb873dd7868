"""The paper's equations on logo, blending and activation maps, one by one.

Each is computed here on its own, from the formula as printed (with the errata
the engine states), and compared with what the engine does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.errors import InvalidParameter
from engine.lesion.cam import activation_map, normalised, raw_maps
from engine.types import SIT
from engine.watermark import sit
from engine.watermark.blend import GridMark, blend, unblend
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.patch import scale_logo, scaled_size
from engine.watermark.working import Geometry
from tests.engine.models_small import small_classifier

LOGO = load_logo()


# Eq. 5: [w', h'] = min(W / (sl w), H / (sl h)) [w, h].


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(224, 4096), st.integers(224, 4096)),
    st.tuples(st.integers(30, 900), st.integers(30, 900)),
    st.floats(1, 8),
)
def test_equation_5_area_falls_with_the_square_of_the_scale(
    frame: tuple[int, int], logo: tuple[int, int], sl: float
) -> None:
    (W, H), (w, h) = frame, logo
    exact = min(W / (sl * w), H / (sl * h))
    made = scaled_size(frame, logo, sl)
    for side, whole in zip(made, (w * exact, h * exact), strict=True):
        assert side == max(1, int(whole + 1e-9))
    whole_size = scaled_size(frame, logo, 1)
    area, whole_area = np.prod(made), np.prod(whole_size)
    # Each side loses less than a pixel to rounding, at either scale.
    slack = (1 + 1 / made[0]) * (1 + 1 / made[1])
    assert whole_area / sl**2 / slack <= area * 1.0001
    slack = (1 + 1 / whole_size[0]) * (1 + 1 / whole_size[1])
    assert area <= whole_area / sl**2 * slack * 1.0001 or 1 in made


@pytest.mark.parametrize(("sl", "share"), [(1, 0.554), (2, 0.138), (4, 0.0346)])
def test_equation_5_contradicts_the_shares_the_paper_quotes(
    sl: float, share: float
) -> None:
    w, h = scaled_size((224, 224), (441, 245), sl)
    assert w * h / 224**2 == pytest.approx(share, rel=0.01)


# Eq. 6: I_w = α I_f + (1 - α) I_m X + (1 - I_m) X;
# Alg. 1, line 7: I_w = α / 255 (I_f - I_m X) + X.

DTYPES = [(torch.float64, 1e-15), (torch.float32, 3e-7)]


def _mark(
    matte: str, dtype: torch.dtype, *, alpha: int = 137
) -> tuple[GridMark, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A rotated logo as it is blended; I_f, I_m and X as full pictures."""
    maker = PatchMaker(
        logo=LOGO,
        geometry=Geometry(columns=64, rows=64),
        sl=1.5,
        grey=False,
        matte=matte,  # type: ignore[arg-type]
    )
    drawn = maker.native(SIT(rotation=25.0, hue=70.0, saturation=1.4))
    patch = torch.from_numpy(drawn).permute(2, 0, 1).to(dtype) / 255
    h, w = patch.shape[1:]
    i_f, i_m = torch.zeros(3, 64, 64, dtype=dtype), torch.zeros(64, 64, dtype=dtype)
    i_f[:, 9 : 9 + h, 5 : 5 + w], i_m[9 : 9 + h, 5 : 5 + w] = patch[:3], patch[3]
    x = torch.rand(3, 64, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return GridMark(x=5, y=9, alpha=alpha, patch=patch), i_f, i_m, x


@pytest.mark.parametrize("matte", ["soft", "binary"])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_equation_6_is_line_7_of_algorithm_1(
    matte: str, dtype: torch.dtype, tolerance: float
) -> None:
    for alpha in (1, 100, 137, 254, 255):
        mark, i_f, i_m, x = _mark(matte, dtype, alpha=alpha)
        a = alpha / 255
        equation_6 = a * i_f + (1 - a) * i_m * x + (1 - i_m) * x
        line_7 = a * (i_f - i_m * x) + x
        (made,) = blend(x, [mark])
        assert made.dtype == dtype
        for expected in (equation_6, line_7):
            torch.testing.assert_close(made, expected, atol=2 * tolerance, rtol=0)
        # A convex combination: nothing leaves the range between logo and image.
        assert made.min() >= 0
        assert made.max() <= 1 + tolerance


def test_the_binary_matte_is_zero_or_one_and_keeps_the_colours() -> None:
    one = SIT(rotation=25.0, hue=70.0, saturation=1.4)
    soft = sit.turn(sit.coloured(scale_logo(LOGO, (90, 50)), one), one.rotation)
    hard = sit.binary(soft)
    kept = soft[..., 3] >= 127.5
    np.testing.assert_array_equal(hard[..., 3], np.where(kept, 255, 0))
    assert (soft[kept, 3] < 255).any()
    # I_f = I_m I_f, and where the matte was full nothing changes.
    assert not hard[~kept].any()
    whole = soft[..., 3] == 255
    np.testing.assert_array_equal(hard[whole], soft[whole])
    # An edge shows the colour of the logo, not a darker one.
    freed = soft[kept, :3] / soft[kept, 3:] * 255
    assert np.abs(hard[kept, :3] - freed).max() <= 0.51


@pytest.mark.parametrize("matte", ["soft", "binary"])
def test_equation_13_inverts_equation_6(matte: str) -> None:
    for alpha in (1, 60, 137, 254):
        mark, i_f, i_m, x = _mark(matte, torch.float64, alpha=alpha)
        (marked,) = blend(x, [mark])
        a = alpha / 255
        printed = (marked - a * i_f) / (1 - a * i_m)
        torch.testing.assert_close(unblend(marked, mark), printed)
        torch.testing.assert_close(printed, x, atol=1e-12, rtol=0)


def test_equation_13_is_singular_where_the_mark_is_opaque() -> None:
    mark, _, i_m, x = _mark("binary", torch.float64, alpha=255)
    other = torch.rand(3, 64, 64, dtype=torch.float64)
    (one,), (two,) = blend(x, [mark]), blend(other, [mark])
    # Two images give the same picture there: nothing is left to solve for.
    torch.testing.assert_close(one[:, i_m == 1], two[:, i_m == 1])
    with pytest.raises(InvalidParameter, match="leaves nothing of the image"):
        unblend(one, mark)


# Eq. 7: ω_n = (1/N) Σ_ij ∂f / ∂A^n_ij; Eq. 8: cam = ReLU(Σ_n ω_n A^n).


class _Tiny(nn.Module):
    """Two convolutions and a head that is not linear in the maps."""

    name = "tiny"
    labels = ("a", "b", "c")
    cam_reshape = None

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.maps = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    @property
    def cam_target_layers(self) -> list[nn.Module]:
        return [self.maps]

    def scores(self, maps: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(maps * 1.0).square().mean(dim=(2, 3)).sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place on the maps themselves, as the nets of the families work.
        maps = self.act(self.maps(torch.tanh(self.first(x))))
        return self.head(maps.square().mean(dim=(2, 3)).sqrt())


def _by_hand(
    model: _Tiny, image: torch.Tensor, label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and ω of Eq. 7 by autograd alone."""
    maps = model.maps(torch.tanh(model.first(image[None]))).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.scores(maps)[0, label], maps)
    positions = maps.shape[2] * maps.shape[3]
    return maps.detach()[0], gradient[0].sum(dim=(1, 2)) / positions


@pytest.fixture(scope="module")
def tiny() -> _Tiny:
    torch.manual_seed(3)
    return _Tiny().eval()


@pytest.mark.parametrize("label", [0, 1, 2])
def test_equations_7_and_8_by_autograd(tiny: _Tiny, label: int) -> None:
    images = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(label))
    made = raw_maps(tiny, images, [label] * 4)  # type: ignore[arg-type]
    assert made.shape == (4, 8, 8)
    assert made.any()
    for image, cam in zip(images, made, strict=True):
        activations, omega = _by_hand(tiny, image, label)
        expected = torch.relu(torch.einsum("n,nij->ij", omega, activations))
        np.testing.assert_allclose(cam, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.51, 1.0])
def test_channels_of_largest_signed_weight_are_sampled(
    tiny: _Tiny, rate: float
) -> None:
    image = torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(5))
    activations, omega = _by_hand(tiny, image, 1)
    kept = torch.argsort(omega, descending=True)[: int(np.ceil(rate * 8))]
    expected = torch.relu(
        torch.einsum("n,nij->ij", omega[kept], activations[kept])
    ).numpy()
    (made,) = raw_maps(tiny, image[None], [1], channel_rate=rate)  # type: ignore[arg-type]
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_the_map_of_algorithm_2_peaks_at_one() -> None:
    model = small_classifier()
    image = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(2))
    (raw,) = raw_maps(model, image[None], [1])
    found = activation_map(model, image, 1)
    assert found.shape == (64, 64)
    assert found.max() == 1
    assert found.min() == 0
    small = normalised(raw)
    assert small.max() == 1
    # Half a feature pixel from the edge both say the same.
    cell = 64 // raw.shape[0]
    inner = found[cell // 2 :: cell, cell // 2 :: cell]
    assert np.corrcoef(inner.ravel(), small.ravel())[0, 1] > 0.9
