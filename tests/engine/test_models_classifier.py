"""Classifiers: any size in, gradients out, saved and loaded faithfully."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import ModelError
from engine.models import architectures
from engine.models.card import digest
from engine.models.classifier import (
    build_backbone,
    load_classifier,
    resize,
    save_classifier,
)
from engine.models.initial import load_initial
from tests.engine.models_small import LABELS, SMALL, small_classifier

KINDS = sorted(SMALL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (224, 224)])
def test_any_size_gives_logits_and_features(kind: str, shape: tuple[int, int]) -> None:
    model = small_classifier(kind)
    x = torch.rand(2, 3, *shape)
    assert model(x).shape == (2, len(LABELS))
    features = model.features(x)
    assert features.ndim == 2
    assert features.shape[0] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_softmax_of_the_logits(kind: str) -> None:
    model = small_classifier(kind)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model.probabilities(x), model(x).softmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_of_a_large_image_gets_a_gradient(kind: str) -> None:
    model = small_classifier(kind)
    x = torch.rand(1, 3, 200, 170, requires_grad=True)
    logits = model(x)
    torch.autograd.backward(logits[0, 0] - logits[0, 1])
    assert x.grad is not None
    assert (x.grad.abs().sum(1) > 0).float().mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_cam_layers_give_maps(kind: str) -> None:
    model = small_classifier(kind)
    seen: list[torch.Tensor] = []
    layer = model.cam_target_layers[0]
    layer.register_forward_hook(lambda _m, _i, output: seen.append(output))
    model(torch.rand(2, 3, 64, 64))
    reshape = model.cam_reshape
    maps = seen[0] if reshape is None else reshape(seen[0])
    assert maps.ndim == 4
    assert maps.shape[0] == 2
    assert maps.shape[2] == maps.shape[3] > 1
    assert (reshape is None) == (not kind.endswith("vit"))


@pytest.mark.parametrize("kind", ["vgg", "densenet", "inception"])
def test_small_cnns_see_a_grid_of_stride_16(kind: str) -> None:
    model = small_classifier(kind)
    x = torch.rand(1, 3, 128, 128)
    maps = cast("Any", model.backbone).forward_features(x)
    assert maps.shape[-2:] == (8, 8)
    logits = cast("Any", model.backbone).forward_head(maps)
    torch.testing.assert_close(logits, model.backbone(x))


@pytest.mark.parametrize("family", ["vgg", "densenet", "inception"])
def test_small_cnns_have_about_a_million_parameters(family: str) -> None:
    backbone = build_backbone(f"miad_{family}_tiny", 4)
    assert 0.6e6 < sum(p.numel() for p in backbone.parameters()) < 1.6e6


@pytest.mark.parametrize("family", ["vgg", "densenet", "inception", "conv_vit"])
def test_our_networks_have_no_published_weights(family: str) -> None:
    with pytest.raises(ValueError, match="no published weights"):
        getattr(architectures, f"miad_{family}_tiny")(pretrained=True)


def test_tokens_become_maps_in_row_order() -> None:
    model = small_classifier("vit")
    reshape = model.cam_reshape
    assert reshape is not None
    prefix = model.backbone.num_prefix_tokens
    tokens = torch.arange(prefix + 16).float().view(1, -1, 1) - prefix
    assert reshape(tokens)[0, 0].tolist() == torch.arange(16.0).view(4, 4).tolist()


def test_resize_keeps_the_mean_when_it_shrinks() -> None:
    x = torch.rand(1, 3, 256, 256)
    torch.testing.assert_close(resize(x, 64).mean(), x.mean(), atol=2e-3, rtol=0)


def test_resize_leaves_the_right_size_alone() -> None:
    x = torch.rand(1, 3, 64, 64)
    assert resize(x, 64) is x


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_judges_alike(kind: str, tmp_path: Path) -> None:
    model = small_classifier(kind)
    card = save_classifier(model, tmp_path)
    again = load_classifier(tmp_path / f"{kind}.json")
    x = torch.rand(2, 3, 80, 80)
    torch.testing.assert_close(again(x), model(x), atol=2e-2, rtol=0)
    assert again.card == card
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert all(p.dtype == torch.float32 for p in again.parameters())


def test_labels_that_do_not_fit_the_weights_are_refused(tmp_path: Path) -> None:
    card = save_classifier(small_classifier(), tmp_path)
    file = tmp_path / "residual.json"
    file.write_text(
        json.dumps(dataclasses.replace(card, labels=("a", "b")).to_json()),
        encoding="utf-8",
    )
    with pytest.raises(ModelError, match=r"residual\.safetensors: does not hold"):
        load_classifier(file)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    card = save_classifier(small_classifier(), tmp_path)
    weights = tmp_path / "residual.safetensors"
    save_file({"other": torch.zeros(1)}, weights)
    card.with_digest(digest(weights)).write(tmp_path / "residual.json")
    with pytest.raises(ModelError, match="tensors missing and 1 unknown"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    model = small_classifier()
    next(model.backbone.parameters()).data.view(-1)[3] = value
    save_classifier(model, tmp_path)
    with pytest.raises(ModelError, match=r"1 tensor\(s\) with NaN or infinity, first"):
        load_classifier(tmp_path)


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="'resnet_of_nowhere'"):
        build_backbone("resnet_of_nowhere", 2)


def test_arguments_the_architecture_does_not_take_are_refused() -> None:
    with pytest.raises(ModelError, match="must be a multiple of 16"):
        build_backbone("miad_conv_vit_tiny", 2, {"img_size": 50})


@pytest.mark.parametrize("renamed", [False, True])
def test_training_can_start_from_weights_for_other_classes(
    renamed: bool, tmp_path: Path
) -> None:
    source = small_classifier(labels=("a", "b"), seed=1).backbone.state_dict()
    if renamed:
        source = {f"m{i}": v for i, v in enumerate(source.values())}
        source |= {"m.num_batches_tracked": torch.tensor(1)}
        for key in [k for k, v in source.items() if v.ndim == 0]:
            del source[key]
    torch.save(source, tmp_path / "w.pth")
    target = small_classifier(seed=2).backbone
    copied = load_initial(target, tmp_path / "w.pth")
    own = [k for k in target.state_dict() if not k.endswith("num_batches_tracked")]
    assert copied == len(own) - 2
    first = next(iter(source.values()))
    torch.testing.assert_close(target.state_dict()[own[0]], first)


def test_initial_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(
        {
            k: v.contiguous()
            for k, v in small_classifier("vit").backbone.state_dict().items()
        },
        tmp_path / "w.safetensors",
    )
    with pytest.raises(ModelError, match="another architecture"):
        load_initial(small_classifier().backbone, tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_unreadable_initial_weights_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_initial(small_classifier().backbone, tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ModelError, match=r"w\.\w+: not"):
        load_initial(small_classifier().backbone, tmp_path / name)
