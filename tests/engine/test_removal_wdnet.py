"""WDNet: its published size, and the analytic inverse of blending."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.removal.adversary import PatchDiscriminator
from engine.removal.network import fold
from engine.removal.wdnet import WDNet, WDNetSizes, unblend
from tests.engine.removal_small import SMALL, small_network, small_truth


def parameters(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_the_published_one_has_the_published_size() -> None:
    with torch.device("meta"):
        network, discriminator = WDNet.paper(), PatchDiscriminator()
        found = network(torch.rand(1, 3, 256, 256))
    assert parameters(network) == pytest.approx(21.04, rel=0.01)
    assert parameters(discriminator) == pytest.approx(0.38, rel=0.02)
    assert found.image.shape == (1, 3, 256, 256)


def test_the_published_structure_runs_and_stays_in_range() -> None:
    torch.manual_seed(0)
    sizes = WDNetSizes.paper()
    network = WDNet(sizes, width=4, refine=8, other=4).eval()
    with torch.no_grad():
        found = network(torch.rand(1, 3, 40, 33))
    assert found.image.shape == (1, 3, 40, 33)
    assert found.coarse is not None
    # A sigmoid and the image itself, weighed by the mask, never leave [0, 1].
    for part in (found.image, found.coarse, found.watermark):
        assert 0 <= float(part.min()) <= float(part.max()) <= 1


def test_untrained_it_is_the_inverse_of_blending() -> None:
    # The refinement starts at zero, so what is left is the analytic inverse.
    x = torch.rand(1, 3, 48, 48)
    torch.manual_seed(0)
    found = WDNet(**SMALL["wdnet"]).eval()(x)
    plain = unblend(x, found.watermark, found.alpha)
    expected = plain.clamp(-0.5, 1.5) * found.mask + (1 - found.mask) * x
    torch.testing.assert_close(found.image, expected)


class Oracle(nn.Module):
    """A head that knows the mark."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.maps


@pytest.mark.parametrize("grey", [False, True])
def test_a_perfectly_predicted_mark_gives_back_the_host(grey: bool) -> None:
    truth = small_truth(n=4, side=64, grey=grey)
    inverse = unblend(truth.marked, truth.watermark, truth.alpha)
    # At the rim of the matte 8-bit premultiplied colours are known less well.
    core = truth.alpha > 0.05
    error = ((inverse - truth.host).abs() * core).max()
    assert float(error) < 2e-3

    torch.manual_seed(0)
    network = WDNet(**SMALL["wdnet"] | {"other": 0}).eval()
    opacity = truth.alpha / network.sizes.alpha_max
    maps = torch.cat([truth.watermark, opacity, torch.ones_like(opacity)], dim=1)
    network.heads = Oracle(fold(torch.logit(maps.clamp(1e-6, 1 - 1e-6)), 2))
    with torch.no_grad():
        found = network(truth.marked)
    torch.testing.assert_close(found.alpha, truth.alpha, atol=1e-4, rtol=0)
    assert float(((found.image - truth.host).abs() * core).max()) < 3e-3


def test_the_opacity_never_reaches_one() -> None:
    network = small_network("wdnet")
    network.heads.bias.data.fill_(50.0)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        found = network(torch.rand(1, 3, 32, 32))
    assert float(found.alpha.max()) <= 0.95
    assert bool(found.image.isfinite().all())
