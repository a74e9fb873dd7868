"""SplitNet: its published size, its gates, its attention, its derived opacity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.removal.resunet import Gate, MaskAttention, SplitNetSizes
from engine.removal.splitnet import SplitNet, implied_opacity
from tests.engine.removal_small import SMALL, small_network, small_truth


def parameters(*modules: nn.Module) -> float:
    return sum(p.numel() for m in modules for p in m.parameters()) / 1e6


def test_the_published_one_has_the_published_sizes() -> None:
    with torch.device("meta"):
        network = SplitNet.paper()
        found = network(torch.rand(1, 3, 256, 256))
    assert parameters(network) == pytest.approx(32.61, rel=0.01)
    assert parameters(network.encoder) == pytest.approx(11.01, rel=0.01)
    assert parameters(network.shared, network.gates) == pytest.approx(4.38, rel=0.01)
    assert parameters(network.refine) == pytest.approx(16.40, rel=0.01)
    for branch in network.branches.values():
        assert parameters(branch) == pytest.approx(0.27, rel=0.02)
    assert found.image.shape == (1, 3, 256, 256)


def test_the_published_structure_runs_at_any_size() -> None:
    torch.manual_seed(0)
    network = SplitNet(SplitNetSizes.paper(), width=2, cap=2, refine=2).eval()
    x = torch.rand(1, 3, 21, 40, requires_grad=True)
    found = network(x)
    assert found.image.shape == x.shape
    torch.autograd.backward(found.mask.sum())
    assert x.grad is not None
    assert bool((x.grad != 0).all())


def test_norms_have_their_usual_epsilon() -> None:
    norms = [m for m in SplitNet.paper().modules() if isinstance(m, nn.InstanceNorm2d)]
    assert norms
    assert {m.eps for m in norms} == {1e-5}


def test_untrained_it_leaves_the_image_alone() -> None:
    x = torch.rand(1, 3, 32, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        found = SplitNet(**SMALL["splitnet"]).eval()(x)
    torch.testing.assert_close(found.image, x)
    assert float(found.alpha.max()) < 1e-3


def test_the_tasks_share_a_decoder_and_differ_by_their_gates() -> None:
    network = small_network("splitnet")
    assert isinstance(network, SplitNet)
    for task in ("mask", "watermark"):
        network.branches[task].load_state_dict(network.branches["image"].state_dict())
        network.gates[task].load_state_dict(network.gates["image"].state_dict())
    for task in network.heads:
        network.heads[task] = nn.Identity()
    features = network.encoder(torch.rand(1, 12, 16, 16))
    image, mask = (network._decode(task, features) for task in ("image", "mask"))
    torch.testing.assert_close(image, mask)
    gate = network.gates["mask"][0]  # type: ignore[index]
    gate.weigh[-2].bias.data.fill_(-3.0)
    assert not torch.allclose(image, network._decode("mask", features))


def test_a_gate_weighs_channels_between_zero_and_one() -> None:
    weights = Gate(8, 4)(torch.randn(2, 8, 1, 1)).detach()
    assert weights.shape == (2, 8, 1, 1)
    assert 0 < float(weights.min()) <= float(weights.max()) < 1


def test_the_attention_treats_marked_and_unmarked_pixels_apart() -> None:
    torch.manual_seed(0)
    attention = MaskAttention(4, SplitNetSizes(width=4)).eval()
    x = torch.randn(1, 4, 16, 16)
    none, full = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(attention(x, none), x * attention.outside(mean))
    inside = attention.block(x * attention.inside(mean)) + x * attention.second(mean)
    torch.testing.assert_close(attention(x, full), inside)
    half = none.clone()
    half[..., 16:] = 1
    mixed = attention(x, half)
    # Two cells either side of the border are smoothed.
    torch.testing.assert_close(mixed[..., :6], attention(x, none)[..., :6])
    torch.testing.assert_close(mixed[..., 10:], attention(x, full)[..., 10:])
    assert not torch.allclose(mixed[..., 7], attention(x, none)[..., 7])


def test_opacity_follows_from_the_mark_and_the_host() -> None:
    truth = small_truth(n=4, side=64)
    found = implied_opacity(truth.marked, truth.host, truth.watermark)
    apart = (truth.watermark - truth.host).square().sum(1, keepdim=True) > 0.2
    core = apart & (truth.alpha > 0.05)
    error = (found - truth.alpha).abs()[core]
    assert len(error) > 50
    assert float(error.max()) < 0.06
    assert float(error.mean()) < 0.02


@pytest.mark.parametrize("changes", [{"shared": 0}, {"blocks": 0}, {"up": "bilinear"}])
def test_other_sizes_run(changes: dict[str, object]) -> None:
    found = small_network("splitnet", **changes)(torch.rand(1, 3, 32, 32))
    assert found.image.shape == (1, 3, 32, 32)
