"""Augmentation: what it may change, and that the seed decides it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engine.errors import InvalidParameter
from engine.models.augment import Augmentation, jitter, mix, warp
from engine.models.recipe import TrainParams
from engine.models.settings import apply_settings


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 1, 32, 32, generator=generator(9))


def test_none_changes_nothing() -> None:
    x = picture()
    how = Augmentation.none()
    torch.testing.assert_close(warp(x, 32, how, generator()), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        jitter(x, how, generator()), x.clamp(min=1e-4), atol=1e-6, rtol=0
    )


def test_flip_alone_mirrors_some_images() -> None:
    x = picture(16)
    how = dataclasses.replace(Augmentation.none(), flip=True)
    y = warp(x, 32, how, generator())
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(x, y, strict=True)]
    mirrored = [
        torch.allclose(a.flip(-1), b, atol=1e-4) for a, b in zip(x, y, strict=True)
    ]
    assert any(same)
    assert any(mirrored)
    assert all(s != m for s, m in zip(same, mirrored, strict=True))


def test_full_augmentation_stays_in_range_and_follows_the_seed() -> None:
    x, how = picture(), Augmentation()

    def run(seed: int) -> torch.Tensor:
        g = generator(seed)
        return jitter(warp(x, 24, how, g), how, g)

    assert run(1).shape == (4, 1, 24, 24)
    assert float(run(1).min()) >= 0
    assert float(run(1).max()) <= 1
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_mixup_keeps_targets_distributions_and_global_seed() -> None:
    x = picture()
    targets = torch.eye(4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    mixed, soft = mix(x, targets, 0.5, generator())
    assert torch.equal(torch.rand(1), expected)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    assert not torch.equal(mixed, x)
    weight = float(soft.max())
    assert mixed.mean() == pytest.approx(float(x.mean()), abs=1e-4)
    assert 0 < weight <= 1


def test_no_mixup_returns_its_input() -> None:
    x, targets = picture(), torch.eye(4)
    assert mix(x, targets, 0.0, generator()) == (x, targets)


def test_settings_reach_nested_fields() -> None:
    params = TrainParams(name="n", family="f", architecture="a")
    changed = apply_settings(
        params,
        [
            "epochs=3",
            "learning_rate=1",
            "bf16=true",
            "augmentation.mixup=0.5",
            'arguments={"img_size": 64}',
            "data=one = two",
        ],
    )
    assert (changed.epochs, changed.learning_rate, changed.bf16) == (3, 1.0, True)
    assert changed.augmentation.mixup == 0.5
    assert changed.arguments == {"img_size": 64}
    assert changed.data == "one = two"
    assert params.epochs == 30


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "write FIELD=VALUE"),
        ("epoch=3", "no field 'epoch'"),
        ("epochs=many", "str where int is needed"),
        ("epochs=2.5", "float where int is needed"),
        ("bf16=1", "int where bool is needed"),
        ("augmentation.twist=1", "no field 'twist'"),
        ("epochs.more=1", "no field 'more'"),
        ("epochs=0", "epochs=0"),
        ("last_epoch=31", "last_epoch=31"),
        ("validation=1.0", "must lie below 1"),
        ("input_size=8", "input_size=8"),
        ("name=a/b", "plain file name"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: str, message: str) -> None:
    params = TrainParams(name="n", family="f", architecture="a")
    with pytest.raises(InvalidParameter, match=message):
        apply_settings(params, [setting])
