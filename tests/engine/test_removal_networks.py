"""What every removal network keeps: sizes, ranges, gradients, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.models.card import ModelCard, read_card
from engine.removal.measure import quality
from engine.removal.network import Removal, fold, make_norm, unfold
from engine.removal.remover import (
    ARCHITECTURES,
    Remover,
    build_network,
    load_remover,
    packaged_removers,
    save_remover,
)
from tests.engine.removal_small import SMALL, small_network, small_truth

LIMIT = 12_000_000
"""Bytes both packaged removers may take together."""

pytestmark = pytest.mark.parametrize("architecture", sorted(SMALL))


def card_of(architecture: str) -> ModelCard:
    return ModelCard(
        name="small",
        family="watermark remover",
        architecture=architecture,
        architecture_arguments=dict(SMALL[architecture]),
        input_size=64,
    )


@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (8, 33), (5, 3), (1, 1)])
@pytest.mark.parametrize("changes", [{}, {"fold": 1}])
def test_any_size_is_kept(
    architecture: str, shape: tuple[int, int], changes: dict[str, object]
) -> None:
    x = torch.rand(2, 3, *shape)
    with torch.no_grad():
        found = small_network(architecture, **changes)(x)
    assert found.image.shape == found.watermark.shape == x.shape
    assert found.coarse is not None
    assert found.coarse.shape == x.shape
    assert found.mask.shape == found.alpha.shape == (2, 1, *shape)
    for part in (found.mask, found.alpha):
        assert 0 <= float(part.min()) <= float(part.max()) <= 1
    assert all(bool(part.isfinite().all()) for part in found if part is not None)


def test_sizes_that_fit_are_not_padded(architecture: str) -> None:
    # Padded by whole cells of the coarsest level, the inside must come out alike
    # if nothing reaches that far; cutting alone must change nothing.
    network = small_network(architecture)
    x = torch.rand(1, 3, 64, 64)
    odd = network(x[..., :61, :59])
    assert odd.image.shape[-2:] == (61, 59)
    assert torch.equal(network(x).image, network(x.clone()).image)


def test_grey_is_taken_as_three_equal_channels(architecture: str) -> None:
    grey = torch.rand(1, 1, 32, 32)
    network = small_network(architecture)
    found = network(grey.expand(-1, 3, -1, -1))
    again = network(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(found.image, again.image)


def test_the_gradient_reaches_every_pixel_even_of_black_and_white(
    architecture: str,
) -> None:
    x = torch.zeros(1, 3, 48, 48)
    x[..., 24:] = 1
    x.requires_grad_()
    found = small_network(architecture)(x)
    torch.autograd.backward(((found.image - 0.5) ** 2).mean())
    assert x.grad is not None
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize("part", ["mask", "alpha", "watermark", "coarse"])
def test_every_output_depends_on_the_image(architecture: str, part: str) -> None:
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    torch.autograd.backward(getattr(small_network(architecture)(x), part).sum())
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_the_image_depends_on_the_mask_smoothly(architecture: str) -> None:
    # δ_I works through the mask: no rounding may stand in the way.
    network = small_network(architecture)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    found = network(x)
    (through,) = torch.autograd.grad(
        found.image.sum(), found.mask, allow_unused=True, retain_graph=True
    )
    assert through is not None
    assert bool((through != 0).float().mean() > 0.9)
    (whole,) = torch.autograd.grad(found.mask.square().mean(), x)
    assert bool((whole != 0).all())


def test_outside_the_mask_nothing_changes(architecture: str) -> None:
    x = torch.rand(1, 3, 32, 32)
    found = small_network(architecture)(x)
    moved = (found.image - x).abs()
    bound = found.mask * 4  # residuals and margins are bounded
    assert bool((moved <= bound + 1e-6).all())


def test_folding_the_norms_changes_nothing(architecture: str) -> None:
    network = small_network(architecture)
    x = torch.rand(2, 3, 40, 40)
    before = network(x)
    after = network.fuse()(x)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


@given(factor=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_folding_pixels_is_exact(architecture: str, factor: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 8, 12, generator=generator)
    folded = fold(x, factor)
    assert folded.shape == (2, 3 * factor**2, 8 // factor, 12 // factor)
    assert torch.equal(unfold(folded, factor), x)
    assert architecture in ARCHITECTURES


def test_saved_and_loaded_it_removes_alike(architecture: str, tmp_path: Path) -> None:
    network = small_network(architecture)
    card = save_remover(network, card_of(architecture), tmp_path)
    remover = load_remover(tmp_path)
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(remover(x).image, network(x).image, atol=2e-2, rtol=0)
    assert remover.card == card
    assert remover.name == "small"
    assert not any(p.requires_grad for p in remover.parameters())
    assert not remover.training


def test_damaged_weights_are_refused(architecture: str, tmp_path: Path) -> None:
    save_remover(small_network(architecture), card_of(architecture), tmp_path)
    weights = tmp_path / "small.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"small\.safetensors: SHA-256"):
        load_remover(tmp_path)


def test_card_of_another_shape_is_refused(architecture: str, tmp_path: Path) -> None:
    save_remover(small_network(architecture), card_of(architecture), tmp_path)
    file = tmp_path / "small.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["architecture_arguments"]["width"] = 8
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match="does not hold the weights"):
        load_remover(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [{"depth": 3}, {"width": -1}, {"width": "many"}, {"up": "magic"}, {"fold": 3}],
)
def test_arguments_it_does_not_take_are_refused(
    architecture: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(ModelError, match=f"'{architecture}' does not take"):
        build_network(architecture, arguments)


def test_unknown_networks_and_norms_are_refused(architecture: str) -> None:
    with pytest.raises(ModelError, match="known: splitnet, wdnet"):
        build_network(architecture + "2", {})
    with pytest.raises(ValueError, match="known are batch, instance"):
        make_norm("layer", 4)  # type: ignore[arg-type]


def test_a_perfect_remover_is_measured_perfect(architecture: str) -> None:
    truth = small_truth()
    network = small_network(architecture)
    remover = Remover(network, card_of(architecture))
    perfect = Removal(truth.host, truth.mask, truth.alpha, truth.watermark)
    network.forward = lambda _x: perfect  # type: ignore[method-assign]
    measured = quality(remover, truth)
    assert bool((measured["mask_iou"] == 1).all())
    assert bool((measured["psnr_in_mark_after"] > 50).all())
    assert bool((measured["psnr_in_mark_after"] > measured["psnr_after"] - 20).all())


@pytest.mark.slow
def test_the_packaged_one_is_small_and_removes_marks(architecture: str) -> None:
    packaged = packaged_removers()
    assert set(packaged) == set(SMALL)
    size = sum(
        file.stat().st_size for folder in packaged.values() for file in folder.iterdir()
    )
    assert size <= LIMIT
    _, card = read_card(packaged[architecture])
    assert card.architecture == card.name == architecture
    measures = card.measures
    assert measures["psnr_in_mark_gain_low"] >= 8
    assert measures["mask_iou_low"] >= 0.7
    assert card.sizes["test"] == measures["composites"]
