"""Mild changes of pictures, and finalists ranked again under them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InvalidParameter
from engine.params import StopRule
from engine.search import robust
from engine.search.objective import Objective, objective_for
from tests.engine.planted import planted_ensemble

SIDE = 224


def _host() -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    wave = 0.4 + 0.2 * torch.sin(xx / 17) + 0.2 * torch.cos(yy / 23)
    return wave.expand(3, -1, -1).contiguous()


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "resized": lambda x: robust.resized(x, 0.6),
    "blurred": lambda x: robust.blurred(x, 0.8),
    "compressed": lambda x: robust.compressed(x, 75),
    "windowed": lambda x: robust.windowed(x, brightness=0.05, contrast=1.1, gamma=0.9),
    "cropped": lambda x: robust.cropped(x, 0.05, (0.3, 0.8)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_mild_and_keep_shape_and_range(name: str) -> None:
    noise = torch.rand((2, 3, 33, 47), generator=torch.Generator().manual_seed(0))
    pictures = 0.5 * noise + 0.5 * torch.linspace(0, 1, 47)
    before = pictures.clone()
    changed = CHANGES[name](pictures)
    assert changed.shape == pictures.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(pictures, before)
    assert 0.002 < (changed - pictures).abs().mean() < 0.25


def test_what_changes_nothing() -> None:
    pictures = _host()[None]
    still = robust.windowed(pictures, brightness=0, contrast=1, gamma=1)
    assert torch.allclose(still, pictures, atol=1e-6)
    assert torch.allclose(robust.resized(pictures, 1), pictures, atol=1e-6)
    assert torch.allclose(robust.cropped(pictures, 0, (0, 0)), pictures, atol=1e-6)
    flat = torch.full((1, 3, 16, 16), 0.25)
    assert torch.allclose(robust.blurred(flat, 1.0), flat, atol=1e-6)


def test_blur_is_the_gaussian_of_nine_pixels() -> None:
    point = torch.zeros(1, 3, 9, 9)
    point[..., 4, 4] = 1
    seen = robust.blurred(point, 0.7)[0, 0]
    assert seen.sum() == pytest.approx(1)
    assert int((seen > 0).sum()) == 9
    ratio = seen[4, 5] / seen[4, 4]
    assert float(ratio) == pytest.approx(np.exp(-1 / (2 * 0.7**2)), rel=1e-5)


def test_a_crop_takes_away_what_it_says() -> None:
    ramp = torch.arange(100.0).div(100).expand(1, 3, 100, 100)
    left = robust.cropped(ramp, 0.06, (1.0, 0.0))
    right = robust.cropped(ramp, 0.06, (0.0, 0.0))
    assert float(left[0, 0, 50, 0]) == pytest.approx(0.06, abs=0.005)
    assert float(right[0, 0, 50, 0]) == pytest.approx(0, abs=0.005)
    assert float(right[0, 0, 50, -1]) == pytest.approx(0.93, abs=0.005)


def test_less_quality_is_a_larger_change() -> None:
    grey = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    noise = grey.expand(-1, 3, -1, -1)
    low, high = (
        (robust.compressed(noise, quality) - noise).abs().mean() for quality in (60, 95)
    )
    assert low > 2 * high


def test_changes_are_drawn_from_the_generator_alone() -> None:
    pictures = torch.stack([_host(), 1 - _host()])

    def drawn(seed: int, few: torch.Tensor) -> list[torch.Tensor]:
        return list(robust.changes(few, 7, np.random.default_rng(seed)))

    first, second, other = drawn(1, pictures), drawn(1, pictures), drawn(2, pictures)
    assert len(first) == 7
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    # A picture sees the same changes whoever else is there.
    alone = drawn(1, pictures[1:])
    for a, b in zip(first, alone, strict=True):
        assert torch.allclose(a[1:], b, atol=1e-6)


def test_every_kind_comes_before_one_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    for name in CHANGES:

        def spy(pictures: torch.Tensor, *args: Any, _name: str = name, **more: Any):  # noqa: ANN202
            del args, more
            seen.append(_name)
            return pictures

        monkeypatch.setattr(robust, name, spy)
    few = torch.zeros(1, 3, 8, 8)
    assert len(list(robust.changes(few, 10, np.random.default_rng(0)))) == 10
    assert set(seen[:5]) == set(seen[5:]) == set(CHANGES)


def test_no_change_at_all_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="at least 1"):
        list(robust.changes(torch.zeros(1, 3, 8, 8), 0, np.random.default_rng(0)))


PLACE = (40, 40, 120, 120)


def _planted() -> tuple[Objective, Callable[[torch.Tensor], torch.Tensor]]:
    ensemble = planted_ensemble(_host(), PLACE, PLACE, threshold=0.10)
    objective = objective_for(ensemble, _host(), 0, StopRule.parse("all"))
    return objective, ensemble.member_logits


def _finalists() -> torch.Tensor:
    """A mark that only fine detail makes, and a plain one: changed by as much."""
    yy, xx = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    sign = ((xx + yy) % 2 * 2 - 1).float()
    fine, plain = _host(), _host()
    x0, y0, x1, y1 = PLACE
    fine[:, y0:y1, x0:x1] += 0.19 * sign[y0:y1, x0:x1]
    plain[:, y0:y1, x0:x1] += 0.17
    return torch.stack([fine, plain]).clamp(0, 1)


def test_a_mark_that_does_not_last_is_ranked_behind() -> None:
    objective, look = _planted()
    pictures = _finalists()
    plainly = objective.judge(look(pictures).detach().double())
    assert all(one.success for one in plainly)
    assert plainly[0].rank < plainly[1].rank
    kept = robust.steadiness(
        pictures, look, objective, count=5, generator=np.random.default_rng(0)
    )
    assert kept[0].success < kept[1].success
    order = robust.rerank(
        pictures, look, objective, count=5, generator=np.random.default_rng(0)
    )
    assert order == [1, 0]
    swapped = robust.rerank(
        pictures.flip(0), look, objective, count=5, generator=np.random.default_rng(0)
    )
    assert swapped == [0, 1]


def test_equal_finalists_stay_in_order() -> None:
    objective, look = _planted()
    alike = _finalists()[[1, 1, 1]]
    order = robust.rerank(
        alike, look, objective, count=4, generator=np.random.default_rng(0)
    )
    assert order == [0, 1, 2]


def test_no_finalists_is_no_error() -> None:
    objective, look = _planted()
    none = torch.zeros(0, 3, SIDE, SIDE)
    assert (
        robust.rerank(
            none, look, objective, count=4, generator=np.random.default_rng(0)
        )
        == []
    )
