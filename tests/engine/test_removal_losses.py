"""The losses: zero for the truth, dear for an error, and each paper's weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import InvalidParameter, ModelError
from engine.metrics import ssim as reference_ssim
from engine.removal.adversary import Adversary
from engine.removal.composites import Composite
from engine.removal.losses import (
    LOSSES,
    Loss,
    fine_tuning_loss,
    inside,
    make_loss,
    mask_entropy,
    splitnet_loss,
    ssim,
    wdnet_loss,
)
from engine.removal.network import Removal
from engine.removal.perceptual import Vgg16Features
from tests.engine.removal_small import small_truth


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def loss_of(name: str) -> Loss:
    return make_loss(name, generator=draws())


def perfect(truth: Composite) -> Removal:
    return Removal(
        image=truth.host.clone(),
        mask=truth.mask.clone(),
        alpha=truth.alpha.clone(),
        watermark=truth.watermark.clone(),
        coarse=truth.host.clone(),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_truth_costs_next_to_nothing(name: str) -> None:
    truth = small_truth()
    assert abs(float(loss_of(name)(perfect(truth), truth))) < 0.01


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (name, part)
        for name in LOSSES
        for part in ("image", "mask", "alpha", "watermark", "coarse")
        # SplitNet does not predict opacity.
        if (name, part) != ("splitnet", "alpha")
    ],
)
def test_any_error_costs(name: str, part: str) -> None:
    truth = small_truth()
    right = perfect(truth)
    wrong = right._replace(**{part: 0.5 + 0 * getattr(right, part)})
    loss = loss_of(name)
    assert float(loss(wrong, truth)) > float(loss(right, truth)) + 0.05


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_of_one_stage_is_judged_too(name: str) -> None:
    truth = small_truth()
    found = perfect(truth)._replace(coarse=None)
    assert abs(float(loss_of(name)(found, truth))) < 0.01


def blank(truth: Composite) -> Composite:
    """A truth whose every part is 0, the mask on the left half only."""
    mask = torch.zeros_like(truth.mask)
    mask[..., : mask.shape[-1] // 2] = 1
    empty = torch.zeros_like(truth.host)
    return Composite(empty, empty, mask, torch.zeros_like(mask), empty)


@pytest.mark.parametrize(
    ("part", "weight"),
    [("watermark", 10.0), ("alpha", 10.0), ("image", 35.0), ("coarse", 15.0)],
)
def test_wdnets_weights(part: str, weight: float) -> None:
    truth = blank(small_truth())
    right = perfect(truth)
    wrong = right._replace(**{part: getattr(right, part) + 0.1})
    loss = partial(wdnet_loss, generator=draws())
    assert float(loss(wrong, truth)) == pytest.approx(weight * 0.1, rel=1e-4)


def test_wdnets_mask_is_judged_on_few_background_pixels() -> None:
    truth = small_truth(n=1, side=64)
    mask = torch.zeros_like(truth.mask)
    mask[..., :8, :8] = 1
    truth = truth._replace(mask=mask)
    everywhere = perfect(truth)._replace(mask=torch.ones_like(mask))
    nowhere = perfect(truth)._replace(mask=torch.zeros_like(mask))
    loss = partial(wdnet_loss, generator=draws())
    # Of 64 marked and about 256 others: what is missed weighs a fifth of 10.
    assert float(loss(nowhere, truth)) == pytest.approx(2, rel=0.2)
    assert float(loss(everywhere, truth)) == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize("part", ["image", "coarse"])
def test_splitnets_weights(part: str) -> None:
    truth = blank(small_truth())
    right = perfect(truth)
    wrong = right._replace(**{part: getattr(right, part) + 0.1})
    cost = 2 * (0.1 + 0.1)
    if part == "image":
        cost += 0.15 * float(1 - ssim(wrong.image, truth.host).mean())
    extra = splitnet_loss(wrong, truth) - splitnet_loss(right, truth)
    assert float(extra) == pytest.approx(cost, rel=1e-4)


def test_equation_2_is_the_mean_squared_error() -> None:
    truth = small_truth()
    found = perfect(truth)._replace(image=truth.host + 0.1)
    assert float(fine_tuning_loss(found, truth)) == pytest.approx(0.01, rel=1e-4)


def test_errors_count_inside_the_mark_only() -> None:
    a, b, where = (
        torch.zeros(1, 3, 4, 4),
        torch.ones(1, 3, 4, 4),
        torch.zeros(1, 1, 4, 4),
    )
    assert float(inside(a, b, where)) == 0
    where[..., 0] = 1
    b[..., 1:] = 7
    assert float(inside(a, b, where)) == pytest.approx(1)


def test_the_entropy_of_a_wrong_mask_is_finite() -> None:
    zeros = torch.zeros(1, 1, 4, 4)
    assert 5 < float(mask_entropy(zeros, 1 - zeros)) < 20


def test_ssim_is_the_metrics_ssim() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(v).permute(2, 0, 1)[None].double() / 255 for v in (a, b))
    assert float(ssim(x, y)) == pytest.approx(reference_ssim(a, b), abs=1e-6)


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="known are mini, wdnet, splitnet"):
        loss_of("huber")
    with pytest.raises(InvalidParameter, match="no perceptual term"):
        make_loss("mini", generator=draws(), features=lambda x: [x])


@pytest.mark.parametrize(("name", "weight"), [("wdnet", 0.01), ("splitnet", 0.025)])
def test_the_perceptual_term_adds_its_weight(name: str, weight: float) -> None:
    truth = small_truth()
    found = perfect(truth)._replace(image=truth.host + 1.0)
    plain = loss_of(name)(found, truth)
    # Features that differ by 1 everywhere cost 1 per map, squared or not.
    more = make_loss(name, generator=draws(), features=lambda x: [x, x])(found, truth)
    assert float(more - plain) == pytest.approx(2 * weight, rel=1e-2)


def test_vgg_features_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Vgg16Features(None)
    convolutions = {
        k: v for k, v in source.state_dict().items() if k.startswith("features")
    }
    save_file(convolutions, tmp_path / "vgg16.safetensors")
    features = Vgg16Features(tmp_path / "vgg16.safetensors")
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    maps = features(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
    ]
    for a, b in zip(maps, source(x), strict=True):
        torch.testing.assert_close(a, b)
    torch.autograd.backward(maps[-1].sum())
    assert x.grad is not None
    assert not any(p.requires_grad for p in features.parameters())
    with pytest.raises(ModelError, match="no such file"):
        Vgg16Features(tmp_path / "gone.pth")


def test_the_adversary_learns_at_every_third_step_and_is_then_less_fooled() -> None:
    torch.manual_seed(0)
    adversary = Adversary(torch.device("cpu"), width=4, learning_rate=0.01)
    marked = torch.rand(4, 3, 32, 32)
    host, image = marked * 0.5, marked * 0.5 + 0.4
    before = float(adversary.cost(marked, image).detach())
    first = {k: v.clone() for k, v in adversary.network.state_dict().items()}
    for index in (1, 2):
        adversary.learn(marked, image, host, index)
    now = adversary.network.state_dict()
    weights = [k for k in first if k.endswith("weight")]
    assert all(torch.equal(first[k], now[k]) for k in weights)
    for index in range(30):
        adversary.learn(marked, image, host, index)
    assert float(adversary.cost(marked, image).detach()) > before + 0.5
