"""Focal loss and balanced draws: their formulas, limits and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from engine.models.losses import epoch_order, focal_loss, smooth


def batch(scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(8, 3, generator=generator, dtype=torch.float64) * scale
    classes = torch.randint(3, (8,), generator=generator)
    return logits, functional.one_hot(classes, 3).double()


def test_without_focus_it_is_the_cross_entropy() -> None:
    logits, targets = batch()
    torch.testing.assert_close(
        focal_loss(logits, targets, 0.0), functional.cross_entropy(logits, targets)
    )
    torch.testing.assert_close(
        focal_loss(logits, smooth(targets, 0.1), 0.0),
        functional.cross_entropy(logits, targets, label_smoothing=0.1),
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_it_follows_its_formula(gamma: float) -> None:
    logits, targets = batch()
    alpha = torch.tensor([0.25, 1.0, 3.0], dtype=torch.float64)
    true = targets.argmax(1)
    p = logits.softmax(1)[torch.arange(8), true]
    expected = (-alpha[true] * (1 - p) ** gamma * p.log()).mean()
    torch.testing.assert_close(focal_loss(logits, targets, gamma, alpha), expected)


def test_easy_images_count_less_the_larger_gamma_is() -> None:
    logits = torch.tensor([[4.0, 0.0], [-1.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    shares = []
    for gamma in (0.0, 1.0, 2.0):
        easy, hard = (
            focal_loss(logits[i : i + 1], targets[i : i + 1], gamma) for i in (0, 1)
        )
        shares.append(float(easy / (easy + hard)))
    assert shares[0] > 10 * shares[1] > 100 * shares[2]


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_it_can_be_differentiated_where_it_is_certain(gamma: float) -> None:
    logits, targets = batch()
    assert torch.autograd.gradcheck(
        lambda z: focal_loss(z, targets, gamma), (logits.requires_grad_(),)
    )
    certain = torch.tensor([[200.0, -200.0]], requires_grad=True)
    focal_loss(certain, torch.tensor([[1.0, 0.0]]), gamma).backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_smoothed_targets_are_distributions() -> None:
    _, targets = batch()
    smoothed = smooth(targets, 0.3)
    torch.testing.assert_close(smoothed.sum(1), torch.ones(8, dtype=torch.float64))
    assert float(smoothed.min()) == pytest.approx(0.1)


def test_plain_order_sees_every_image_once() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    order = epoch_order(targets, "none", torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(100))


def test_balanced_order_draws_every_class_equally_often() -> None:
    targets = torch.tensor([0] * 2700 + [2] * 300)  # there is no class 1
    order = epoch_order(targets, "balanced", torch.Generator().manual_seed(0))
    assert len(order) == 3000
    # 1,500 are expected; 4 standard deviations of the binomial are 110.
    assert abs(int((targets[order] == 2).sum()) - 1500) < 110


@pytest.mark.parametrize("how", ["none", "balanced"])
def test_order_depends_on_the_seed_only(how: str) -> None:
    targets = torch.tensor([0, 0, 0, 1, 1] * 4)
    first, again, other = (
        epoch_order(targets, how, torch.Generator().manual_seed(s)).tolist()
        for s in (1, 1, 2)
    )
    assert first == again != other
