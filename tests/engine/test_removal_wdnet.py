"""The remover network: shapes, inverse, gradients, folding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.errors import ModelError
from engine.models.card import ModelCard
from engine.removal.remover import build_network, load_remover, save_remover
from engine.removal.wdnet import WDNet

SMALL = {"width": 4, "levels": 2, "other": 2, "refine": 4}


def small_network(seed: int = 0) -> WDNet:
    torch.manual_seed(seed)
    network = WDNet(**SMALL)
    # Batch norms with statistics of their own, so that folding them shows.
    network.train()
    network(torch.rand(4, 3, 32, 32))
    return network.eval()


def small_card() -> ModelCard:
    return ModelCard(
        name="small",
        family="watermark remover",
        architecture="wdnet",
        architecture_arguments=dict(SMALL),
        input_size=64,
    )


@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (8, 33), (224, 224)])
def test_any_size_is_kept(shape: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *shape)
    with torch.no_grad():
        found = small_network()(x)
    assert found.image.shape == found.watermark.shape == x.shape
    assert found.mask.shape == found.alpha.shape == (2, 1, *shape)
    for part in (found.mask, found.alpha, found.watermark):
        assert 0 <= float(part.min()) <= float(part.max()) <= 1


def test_untrained_it_is_the_inverse_of_blending() -> None:
    # The refinement starts at zero, so what is left is the analytic inverse.
    x = torch.rand(1, 3, 48, 48)
    found = small_network()(x)
    plain = (x - found.alpha * found.watermark) / (1 - found.alpha)
    expected = plain.clamp(-0.5, 1.5) * found.mask + (1 - found.mask) * x
    torch.testing.assert_close(found.image, expected)


def test_the_gradient_reaches_every_pixel_even_of_black_and_white() -> None:
    x = torch.zeros(1, 3, 64, 64)
    x[..., 32:] = 1
    x.requires_grad_()
    found = small_network()(x)
    torch.autograd.backward(((found.image - 0.5) ** 2).mean())
    assert x.grad is not None
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize("part", ["mask", "alpha", "watermark"])
def test_every_output_depends_on_the_image(part: str) -> None:
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    torch.autograd.backward(getattr(small_network()(x), part).sum())
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_folding_the_norms_changes_nothing() -> None:
    network = small_network()
    x = torch.rand(2, 3, 40, 40)
    before = network(x)
    after = network.fuse()(x)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


def test_saved_and_loaded_it_removes_alike(tmp_path: Path) -> None:
    network = small_network()
    card = save_remover(network, small_card(), tmp_path)
    remover = load_remover(tmp_path)
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(remover(x).image, network(x).image, atol=1e-2, rtol=0)
    assert remover.card == card
    assert remover.name == "small"
    assert not any(p.requires_grad for p in remover.parameters())
    assert not remover.training


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_remover(small_network(), small_card(), tmp_path)
    weights = tmp_path / "small.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"small\.safetensors: SHA-256"):
        load_remover(tmp_path)


def test_card_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_remover(small_network(), small_card(), tmp_path)
    file = tmp_path / "small.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["architecture_arguments"]["width"] = 8
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match="does not hold the weights"):
        load_remover(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "slbr"},
            "known: splitnet, wdnet",
        ),
        ({"architecture_arguments": {"depth": 3}}, "does not take"),
    ],
)
def test_unknown_networks_are_refused(changes: dict[str, object], message: str) -> None:
    card = ModelCard.from_json(small_card().to_json() | changes)
    with pytest.raises(ModelError, match=message):
        build_network(card.architecture, card.architecture_arguments)
