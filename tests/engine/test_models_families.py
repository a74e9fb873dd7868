"""The paper's six families: full-size networks without their weights, presets."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from engine.errors import ModelError
from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone
from engine.models.ensemble import Ensemble
from engine.models.families import PRESETS, Preset, find_preset, params_for

CAM_LAYERS = {
    "paper:resnet50": ("layer4", 2048, 7),
    "paper:vgg16": ("features.29", 512, 14),
    "paper:inceptionv3": ("Mixed_7c", 2048, 8),
    "paper:mobilenetv3": ("blocks.4", 112, 14),
    "paper:densenet121": ("features.norm5", 1024, 7),
    "paper:vit": ("blocks.11.norm1", 768, 14),
}
"""Layer Grad-CAM looks at, its channels, and the side of its grid."""

PAPER = [p for p in PRESETS if p.key.startswith("paper:")]
SMALL = [p for p in PRESETS if p.key.startswith("small:")]


def classifier(preset: Preset, classes: int = 4) -> Classifier:
    backbone = build_backbone(preset.architecture, classes, preset.arguments)
    card = ModelCard(
        name=preset.name,
        family=preset.family,
        architecture=preset.architecture,
        labels=tuple("abcdefgh"[:classes]),
        input_size=preset.input_size,
        mean=preset.mean,
        std=preset.std,
    )
    return Classifier(backbone, card).eval()


def test_there_is_a_small_member_of_every_family_of_the_paper() -> None:
    assert len(PAPER) == 6
    assert len({p.family for p in PAPER}) == 6
    assert [p.family for p in PAPER] == [p.family for p in SMALL]
    assert len({p.key for p in PRESETS}) == 12


@pytest.mark.parametrize("preset", PAPER, ids=lambda p: p.key)
def test_full_size_networks_judge_at_their_native_size(preset: Preset) -> None:
    # The meta device computes shapes without memory or weights.
    with torch.device("meta"):
        model = classifier(preset, classes=5)
        x = torch.empty(2, 3, preset.input_size, preset.input_size)
        seen: list[torch.Tensor] = []
        layer = model.cam_target_layers[0]
        layer.register_forward_hook(lambda _m, _i, output: seen.append(output))
        assert model(x).shape == (2, 5)
        assert model.features(x).shape[0] == 2
    path, channels, side = CAM_LAYERS[preset.key]
    assert layer is model.backbone.get_submodule(path)
    maps = model.cam_reshape(seen[0]) if model.cam_reshape else seen[0]
    assert maps.shape == (2, channels, side, side)
    assert (model.cam_reshape is not None) == (preset.family == "ViT")


@pytest.mark.parametrize("preset", PAPER, ids=lambda p: p.key)
def test_presets_see_what_their_published_weights_want(preset: Preset) -> None:
    import timm  # only after the engine made torchvision importable

    published: Any = timm.get_pretrained_cfg(preset.architecture)
    assert preset.input_size == published.input_size[-1]
    assert preset.mean == published.mean
    assert preset.std == published.std


def test_members_of_299_and_of_224_pixels_judge_together() -> None:
    keys = ("paper:vgg16", "paper:inceptionv3", "paper:vit")
    with torch.device("meta"), torch.no_grad():
        members = [classifier(p) for p in PAPER if p.key in keys]
        ensemble = Ensemble("paper", members)
        assert ensemble.member_logits(torch.empty(2, 3, 256, 200)).shape == (3, 2, 4)


def test_members_of_other_size_and_normalisation_judge_together() -> None:
    members = []
    for side, mean, std in ((48, 0.5, 0.5), (64, 0.2, 0.1)):
        torch.manual_seed(0)
        backbone = build_backbone("test_resnet", 2)
        card = ModelCard(
            name=str(side),
            family="residual CNN",
            architecture="test_resnet",
            labels=("a", "b"),
            input_size=side,
            mean=(mean,) * 3,
            std=(std,) * 3,
        )
        members.append(Classifier(backbone, card).eval())
    x = torch.full((1, 3, 96, 96), 0.3)
    first, second = Ensemble("mixed", members).member_logits(x)
    backbone = members[0].backbone
    expected = [
        backbone(torch.full((1, 3, side, side), level))
        for side, level in ((48, -0.4), (64, 1.0))
    ]
    torch.testing.assert_close(first, expected[0])
    torch.testing.assert_close(second, expected[1])


@pytest.mark.parametrize("preset", SMALL, ids=lambda p: p.key)
def test_small_members_can_be_built(preset: Preset) -> None:
    with torch.device("meta"):
        model = classifier(preset)
        side = preset.input_size
        assert model(torch.empty(1, 3, side, side)).shape == (1, 4)
        assert hasattr(cast("Any", model.backbone), "forward_head")


def test_presets_are_found_by_key() -> None:
    assert find_preset("paper:vgg16") is not None
    assert find_preset("vgg16") is None
    with pytest.raises(ModelError, match=r"'paper:alexnet'.*paper:resnet50"):
        find_preset("paper:alexnet")


def test_a_preset_gives_the_parameters_of_its_training() -> None:
    params = params_for("paper:inceptionv3")
    assert params.name == "inceptionv3"
    assert params.family == "Inception"
    assert (params.architecture, params.input_size) == ("inception_v3", 299)
    assert params_for("paper:resnet50").mean == (0.485, 0.456, 0.406)
    renamed = params_for("small:vgg", name="mine", family="old", input_size=96)
    assert (renamed.name, renamed.family, renamed.input_size) == ("mine", "old", 96)


def test_a_transformer_is_told_its_input_size() -> None:
    assert params_for("small:vit", input_size=64).arguments["img_size"] == 64
    assert params_for("paper:vit", input_size=160).arguments == {"img_size": 160}
    assert params_for("paper:vit").arguments == {}
    assert "img_size" not in params_for("paper:resnet50", input_size=64).arguments


def test_a_timm_name_is_trained_as_it_is() -> None:
    params = params_for("resnet18")
    assert (params.name, params.architecture) == ("resnet18", "resnet18")
    assert (params.input_size, params.mean) == (128, (0.5, 0.5, 0.5))
