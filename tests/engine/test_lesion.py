"""Grad-CAM maps, boxes and the fallbacks when nothing is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.lesion.boxes import binarise, central_box, fill, overlaps, region_boxes
from engine.lesion.cam import activation_map
from engine.lesion.localise import localise
from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone
from engine.models.ensemble import Ensemble
from engine.params import LesionParams
from engine.types import Box
from tests.engine.planted import planted_ensemble


def test_diagonal_neighbours_are_one_region() -> None:
    mask = np.zeros((20, 20), dtype=np.bool_)
    mask[3, 4] = mask[4, 5] = True
    mask[10:12, 15:20] = True
    assert region_boxes(mask, 0) == (
        Box(x0=4, y0=3, x1=6, y1=5),
        Box(x0=15, y0=10, x1=20, y1=12),
    )
    assert region_boxes(mask, 4)[1] == Box(x0=11, y0=6, x1=20, y1=16)


def test_the_threshold_is_relative_to_the_peak() -> None:
    ramp = np.linspace(0.2, 0.7, 256, dtype=np.float32).reshape(16, 16)
    assert binarise(ramp, 190).sum() == 66
    assert not binarise(np.full((8, 8), 0.3, np.float32), 190).any()


def test_boxes_fill_and_overlap() -> None:
    box = central_box(224)
    assert box == Box(x0=56, y0=56, x1=168, y1=168)
    assert fill([box], (224, 224)).sum() == 112 * 112
    assert overlaps(box, Box(x0=167, y0=167, x1=300, y1=300))
    assert not overlaps(box, Box(x0=168, y0=56, x1=200, y1=100))


def _picture() -> torch.Tensor:
    picture = torch.full((3, 224, 224), 0.3)
    picture[:, 104:118, 102:120] = 0.9
    return picture


def test_the_planted_lesion_is_boxed() -> None:
    picture = _picture()
    ensemble = planted_ensemble(picture, (0, 0, 20, 20), (30, 30, 60, 60))
    lesions = localise(ensemble, picture, 0, LesionParams())
    assert lesions.source == "cnn"
    assert lesions.boxes == (Box(x0=102, y0=104, x1=120, y1=118),)
    assert lesions.forbidden.sum() == 18 * 14


def test_without_any_peak_the_centre_is_kept_free() -> None:
    flat = torch.zeros((3, 224, 224))
    ensemble = planted_ensemble(flat, (0, 0, 20, 20))
    lesions = localise(ensemble, flat, 0, LesionParams())
    assert lesions.source == "central"
    assert lesions.boxes == (central_box(224),)


def _member(architecture: str, **arguments: object) -> Classifier:
    torch.manual_seed(0)
    card = ModelCard(
        name=architecture,
        family="test",
        architecture=architecture,
        labels=("a", "b", "c"),
        input_size=64,
    )
    model = Classifier(build_backbone(architecture, 3, dict(arguments)), card).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


@pytest.fixture(scope="module")
def convolutional() -> Classifier:
    return _member("resnet10t")


@pytest.fixture(scope="module")
def transformer() -> Classifier:
    return _member("miad_conv_vit_tiny", img_size=64, depth=2)


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_maps_of_real_architectures(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    torch.manual_seed(1)
    image = torch.rand((3, 96, 96))
    found = activation_map(model, image, 1)
    assert found.shape == (96, 96)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not image.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_fewer_channels_give_another_map(convolutional: Classifier) -> None:
    torch.manual_seed(1)
    image = torch.rand((3, 96, 96))
    every = activation_map(convolutional, image, 1)
    few = activation_map(convolutional, image, 1, channel_rate=0.1)
    assert np.abs(every - few).max() > 0.05


def test_transformers_stand_in_where_convolutions_see_nothing(
    transformer: Classifier,
) -> None:
    torch.manual_seed(1)
    image = torch.rand((3, 96, 96))
    lesions = localise(Ensemble("t", [transformer]), image, 1, LesionParams())
    assert lesions.source in {"transformer", "central"}
    found = activation_map(transformer, image, 1)
    assert (lesions.source == "transformer") == bool(binarise(found, 190).any())
