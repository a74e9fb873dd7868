"""The fast copy judges, differentiates and explains as the original does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from typing_extensions import override

from engine.models.ensemble import Ensemble, load_ensemble, packaged_ensembles
from engine.models.fast import fast_classifier, fold_batch_norms, for_search
from tests.engine.models_small import SMALL, small_classifier


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def lived_in(module: nn.Module) -> None:
    """Give batch norms statistics and weights as after a training."""
    generator = torch.Generator().manual_seed(9)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.3, 2.0),
                (norm.weight.data, 0.5, 1.5),
                (norm.bias.data, -0.5, 0.5),
            ):
                draw = torch.rand(values.shape, generator=generator)
                values.copy_(low + draw * (high - low))


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_logits_and_gradients_stay_the_same(kind: str) -> None:
    model = small_classifier(kind)
    lived_in(model)
    quick = fast_classifier(model)
    x = torch.rand(2, 3, 80, 70)
    outcomes = []
    for judge in (model, quick):
        image = x.clone().requires_grad_()
        logits = judge(image)
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), image)
        outcomes.append((logits.detach(), gradient))
    for plain, fast in zip(*outcomes, strict=True):
        assert (plain - fast).abs().max() <= 1e-4 * plain.abs().max()


@pytest.mark.parametrize(
    ("kind", "left"), [("vgg", 0), ("inception", 0), ("mobile", 0), ("conv-vit", 0)]
)
def test_every_batch_norm_behind_a_convolution_is_folded(kind: str, left: int) -> None:
    model = small_classifier(kind)
    before = norms(model)
    assert before > left
    assert norms(fast_classifier(model)) == left
    assert norms(model) == before


def test_batch_norms_before_a_convolution_stay() -> None:
    model = small_classifier("densenet")
    quick = fast_classifier(model)
    assert 0 < norms(quick) < norms(model)


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_the_copy_has_the_same_cam_layer_and_features(kind: str) -> None:
    model = small_classifier(kind)
    quick = fast_classifier(model)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(quick.features(x), model.features(x))
    maps: list[torch.Tensor] = []
    for judge in (model, quick):
        layer = judge.cam_target_layers[0]
        hook = layer.register_forward_hook(lambda _m, _i, out: maps.append(out.clone()))
        judge(x)
        hook.remove()
    torch.testing.assert_close(maps[0], maps[1], atol=1e-5, rtol=1e-4)


class Shared(nn.Module):
    """Convolutions that are read twice, run twice, or hide behind a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.twice_read = nn.Conv2d(3, 3, 1)
        self.read_norm = nn.BatchNorm2d(3)
        self.twice_run = nn.Conv2d(3, 3, 1)
        self.run_norm = nn.BatchNorm2d(3)
        self.plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.twice_read(x)
        y = y + self.read_norm(y)
        y = self.run_norm(self.twice_run(self.twice_run(y)))
        return self.plain(y)


class Branching(nn.Module):
    """Cannot be traced as a whole, for it looks at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = Shared()

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return self.inner(y) if float(y.mean()) > -1e9 else y


@pytest.mark.parametrize("make", [Shared, Branching])
def test_only_what_is_safe_is_folded(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval().requires_grad_(requires_grad=False)
    lived_in(network)
    x = torch.rand(2, 3, 5, 5)
    expected, before = network(x), norms(network)
    assert fold_batch_norms(network) == 1
    assert norms(network) == before - 1
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-4)


def test_an_ensemble_keeps_its_name_weights_and_combination() -> None:
    members = [small_classifier(kind) for kind in ("residual", "vgg")]
    ensemble = Ensemble("pair", members, [3.0, 1.0], combine="logit").eval()
    quick = for_search(ensemble)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(quick.probabilities(x), ensemble.probabilities(x))
    assert (quick.name, quick.names) == (ensemble.name, ensemble.names)
    assert quick.combine == "logit"
    assert torch.equal(quick.weights, ensemble.weights)
    assert not any(p.requires_grad for p in quick.parameters())


def test_the_packaged_ensemble_judges_alike() -> None:
    ensemble = load_ensemble(packaged_ensembles()["brain-mri"])
    quick = for_search(ensemble)
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, fast = ensemble.member_logits(x), quick.member_logits(x)
    scale = plain.abs().amax(dim=(1, 2), keepdim=True)
    assert ((plain - fast).abs() <= 1e-4 * scale).all()
