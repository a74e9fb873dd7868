"""Grad-CAM maps, boxes and the fallbacks when nothing is found."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from engine.errors import InvalidFrame, InvalidParameter, ModelError, NoLesionFound
from engine.lesion.boxes import binarise, central_box, fill, overlaps, region_boxes
from engine.lesion.cam import activation_map, activation_maps, raw_maps, sampled
from engine.lesion.localise import (
    _surrogates,
    localise,
    localise_many,
    relaxed,
)
from engine.models.card import Accuracy, ModelCard
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


FAMILIES = {
    "residual": ("test_resnet", {}),
    "vgg": ("miad_vgg_tiny", {}),
    "densenet": ("miad_densenet_tiny", {}),
    "inception": ("miad_inception_tiny", {}),
    "mobile": ("test_efficientnet", {}),
    "vit": ("test_vit", {"img_size": 64}),
    "conv-vit": ("miad_conv_vit_tiny", {"img_size": 64, "depth": 1, "embed_dim": 48}),
}


def _member(family: str) -> Classifier:
    architecture, arguments = FAMILIES[family]
    torch.manual_seed(0)
    card = ModelCard(
        name=family,
        family="test",
        architecture=architecture,
        labels=("a", "b", "c"),
        input_size=64,
    )
    model = Classifier(build_backbone(architecture, 3, dict(arguments)), card).eval()
    return model.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def convolutional() -> Classifier:
    return _member("residual")


@pytest.fixture(scope="module")
def transformer() -> Classifier:
    return _member("conv-vit")


def _images(count: int) -> torch.Tensor:
    return torch.rand((count, 3, 96, 96), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_real_architectures(family: str) -> None:
    model = _member(family)
    images = _images(3)
    found = activation_maps(model, images, [1, 0, 2])
    assert found.shape == (3, 96, 96)
    assert found.min() >= 0
    for n, label in enumerate((1, 0, 2)):
        # One, or zero where no evidence is left; a batch is its parts.
        assert found[n].max() in {0.0, 1.0}
        alone = activation_map(model, images[n], label)
        np.testing.assert_allclose(found[n], alone, atol=2e-3)
    assert found.max() == 1
    assert not images.requires_grad
    assert all(p.grad is None for p in model.parameters())
    hooks = [m for m in model.modules() if m._forward_hooks]
    assert not hooks


def test_maps_are_made_under_inference_mode(convolutional: Classifier) -> None:
    images = _images(1)
    expected = activation_maps(convolutional, images, [1])
    with torch.no_grad():
        np.testing.assert_array_equal(
            activation_maps(convolutional, images, [1]), expected
        )


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


def test_exactly_the_largest_signed_weights_are_kept() -> None:
    weights = np.array([[3.0, -9.0, 2.0, 2.0, -1.0]], np.float32)
    np.testing.assert_array_equal(sampled(weights, 0.6), [[3, 0, 2, 2, 0]])
    np.testing.assert_array_equal(sampled(weights, 0.4), [[3, 0, 2, 0, 0]])
    np.testing.assert_array_equal(sampled(weights, 0.01), [[3, 0, 0, 0, 0]])
    np.testing.assert_array_equal(sampled(weights, 1.0), weights)
    many = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    # 0.1 * 30 is a little more than 3 in floating point.
    assert (sampled(many, 0.1) != 0).sum(axis=1).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.full((1, 3, 64, 64), torch.nan), [0], InvalidFrame, "NaN"),
        (torch.full((1, 3, 64, 64), torch.inf), [0], InvalidFrame, "infinite"),
        (torch.zeros((3, 64, 64)), [0], InvalidFrame, "shape"),
        (torch.zeros((1, 3, 64, 64)), [3], InvalidParameter, "one each of 0..2"),
        (torch.zeros((2, 3, 64, 64)), [0], InvalidParameter, "2 pictures"),
    ],
)
def test_unusable_pictures_are_refused(
    convolutional: Classifier,
    images: torch.Tensor,
    labels: list[int],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        raw_maps(convolutional, images, labels)


def test_a_model_gone_wrong_is_named() -> None:
    model = _member("residual")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="residual"):
        raw_maps(model, _images(1), [0])


def test_many_images_give_what_each_gives_alone() -> None:
    pictures = torch.stack([_picture(), torch.zeros(3, 224, 224), _picture().flip(1)])
    ensemble = planted_ensemble(_picture(), (0, 0, 20, 20), (30, 30, 60, 60))
    params = LesionParams(margin=3)
    together = localise_many(ensemble, pictures, [0, 0, 0], params)
    for one, picture in zip(together, pictures, strict=True):
        alone = localise(ensemble, picture, 0, params)
        assert (one.boxes, one.source) == (alone.boxes, alone.source)
        np.testing.assert_array_equal(one.mask, alone.mask)
    assert [one.source for one in together] == ["cnn", "central", "cnn"]
    with pytest.raises(InvalidParameter, match="2 labels"):
        localise_many(ensemble, pictures, [0, 0], params)


def test_the_literal_order_gives_boxes_of_whole_feature_pixels(
    convolutional: Classifier,
) -> None:
    ensemble, image = Ensemble("one", [convolutional]), _images(1)[0]
    small = raw_maps(convolutional, image[None], [1])[0]
    cell = 96 // small.shape[0]
    literal = localise(ensemble, image, 1, LesionParams(resize="after"))
    assert literal.boxes
    for box in literal.boxes:
        assert not any(edge % cell for edge in (box.x0, box.y0, box.x1, box.y1))
    smooth = localise(ensemble, image, 1, LesionParams())
    assert literal.boxes != smooth.boxes


def test_all_members_or_convolutions_only(
    convolutional: Classifier, transformer: Classifier
) -> None:
    ensemble, image = Ensemble("two", [convolutional, transformer]), _images(1)[0]
    cnn = localise(ensemble, image, 1, LesionParams())
    every = localise(ensemble, image, 1, LesionParams(surrogates="all"))
    assert (cnn.source, every.source) == ("cnn", "all")
    own = binarise(activation_map(transformer, image, 1), 190)
    assert own.any()
    np.testing.assert_array_equal(every.mask, cnn.mask | own)
    assert (every.forbidden | cnn.forbidden == every.forbidden).all()


def test_refusal_where_nothing_is_found() -> None:
    flat = torch.zeros((3, 224, 224))
    ensemble = planted_ensemble(flat, (0, 0, 20, 20))
    with pytest.raises(NoLesionFound, match="fallback='central'"):
        localise(ensemble, flat, 0, LesionParams(fallback="refuse"))


def test_a_higher_threshold_shrinks_the_boxes_without_the_models(
    convolutional: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble, image = Ensemble("one", [convolutional]), _images(1)[0]
    params = LesionParams(threshold=150, margin=2)
    found = localise(ensemble, image, 1, params)
    expected = localise(ensemble, image, 1, LesionParams(threshold=170, margin=2))
    monkeypatch.setattr(Classifier, "forward", None)
    higher = relaxed(found, params)
    assert (higher.boxes, higher.source) == (expected.boxes, expected.source)
    assert higher.mask.sum() < found.mask.sum()
    assert (found.forbidden | higher.forbidden == found.forbidden).all()
    peak = relaxed(found, params, by=255)
    assert 1 <= peak.mask.sum() <= higher.mask.sum()


def test_a_central_box_does_not_relax() -> None:
    flat = torch.zeros((3, 224, 224))
    found = localise(planted_ensemble(flat, (0, 0, 20, 20)), flat, 0, LesionParams())
    assert relaxed(found, LesionParams()).boxes == (central_box(224),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 256}, "threshold"),
        ({"channel_rate": 0.0}, "channel_rate"),
        ({"channel_rate": float("nan")}, "channel_rate"),
        ({"margin": -1}, "margin"),
        ({"resize": "never"}, "before or after"),
        ({"surrogates": "vit"}, "cnn or all"),
        ({"fallback": "ignore"}, "central or refuse"),
    ],
)
def test_unusable_parameters_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        LesionParams(**arguments)


def test_only_the_most_accurate_members_are_asked(convolutional: Classifier) -> None:
    def known(name: str, correct: int) -> Classifier:
        member = copy.deepcopy(convolutional)
        member.name = name
        accuracy = Accuracy(correct=correct, total=100)
        member.card = dataclasses.replace(member.card, accuracy=accuracy)
        return member

    ensemble = Ensemble("three", [known("a", 70), known("b", 90), known("c", 80)])
    image = _images(1)[0]
    maps = {
        n: len(localise(ensemble, image, 1, LesionParams(most=n)).maps)
        for n in (0, 1, 2)
    }
    assert maps == {0: 3, 1: 1, 2: 2}
    groups = dict(_surrogates(ensemble, LesionParams(most=2)))
    assert [m.name for m in groups["cnn"]] == ["b", "c"]
