"""δ: its bounds, its guard, and that it does what it is made for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.params import DeltaParams, SearchParams
from engine.perturb.composites import random_composites
from engine.perturb.pgd import Host, craft_delta
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.planted import PlantedRemover


def _image(channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand((1, channels, 8, 8), generator=generator)
    return torch.nn.functional.interpolate(smooth, (64, 64), mode="bilinear")[0]


def _composites(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    geometry = Geometry(columns=64, rows=64, side=64)
    maker = PatchMaker(logo=load_logo(), geometry=geometry, sl=2.0, grey=True)
    return random_composites(
        maker,
        SearchParams(),
        np.random.default_rng(seed),
        torch.device("cpu"),
        count=4,
    )


def _host(channels: int = 1) -> Host:
    frozen = torch.zeros((64, 64), dtype=torch.bool)
    frozen[20:30, 5:25] = True
    return Host(image=_image(channels), frozen=frozen)


@pytest.mark.parametrize("kind", ["clean", "rand", "mix"])
@pytest.mark.parametrize("channels", [1, 3])
def test_delta_is_bounded_guarded_and_fits_the_picture(
    kind: str, channels: int
) -> None:
    host = _host(channels)
    params = DeltaParams(iterations=10, host=kind)  # type: ignore[arg-type]
    delta = craft_delta(host, [PlantedRemover()], params, _composites())
    assert delta.dtype == np.int8
    assert delta.shape == ((64, 64) if channels == 1 else (64, 64, 3))
    assert np.abs(delta).max() == 8
    assert not delta[20:30, 5:25].any()
    levels = np.rint(host.image.numpy() * 255).transpose(1, 2, 0)
    moved = levels + delta.reshape(64, 64, channels)
    assert moved.min() >= 0
    assert moved.max() <= 255


def _removal_error(delta: np.ndarray, keep_add: tuple[torch.Tensor, ...]) -> float:
    image = _image().expand(3, -1, -1)
    changed = image + torch.from_numpy(delta).float() / 255
    marked = changed * keep_add[0] + keep_add[1]
    return float((PlantedRemover()(marked[None]).image[0] - image).square().mean())


@pytest.mark.parametrize("kind", ["rand", "mix"])
def test_delta_raises_the_error_of_removal(kind: str) -> None:
    params = DeltaParams(iterations=15, host=kind)  # type: ignore[arg-type]
    delta = craft_delta(_host(), [PlantedRemover()], params, _composites())
    noise = np.random.default_rng(0).choice([-8, 8], (64, 64)).astype(np.int8)
    none = np.zeros((64, 64), np.int8)
    for unseen in _composites(seed=9):
        error = _removal_error(delta, unseen)
        assert error > 1.05 * _removal_error(none, unseen)
        assert error > _removal_error(noise, unseen)


@pytest.mark.parametrize(
    ("removers", "changes"),
    [
        ([], {}),
        ([PlantedRemover()], {"iterations": 0}),
        ([PlantedRemover()], {"epsilon": 0}),
    ],
)
def test_without_removers_or_budget_there_is_no_delta(
    removers: list[PlantedRemover], changes: dict[str, int]
) -> None:
    delta = craft_delta(_host(), removers, DeltaParams(**changes), _composites())
    assert not delta.any()


def test_every_step_is_told() -> None:
    ticks: list[None] = []
    craft_delta(
        _host(),
        [PlantedRemover(), PlantedRemover()],
        DeltaParams(iterations=7),
        _composites(),
        tick=lambda: ticks.append(None),
    )
    assert len(ticks) == 7


def test_composites_depend_on_the_generator_only() -> None:
    for (keep, add), (keep2, add2) in zip(_composites(3), _composites(3), strict=True):
        assert torch.equal(keep, keep2)
        assert torch.equal(add, add2)
        assert add.abs().max() > 0


def test_a_neighbours_delta_never_costs_more_steps_than_a_new_one() -> None:
    assert DeltaParams(iterations=2).warm_steps == 2
    assert DeltaParams().warm_steps == DeltaParams().warm_iterations == 15
