"""Input that δ cannot be made from is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InvalidFrame, InvalidParameter, ModelError
from engine.params import DeltaParams
from engine.perturb.pgd import craft_deltas
from tests.engine.perturb_small import AlteredRemover, TinyRemover, make_host, picture


def _broken(value: float) -> torch.Tensor:
    image = picture()
    image[0, 3, 4] = value
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (_broken(float("nan")), "image holds 1 values that are NaN"),
        (_broken(float("inf")), "image holds 1 values that are NaN or infinite"),
        (_broken(1.5), "0 to 1"),
        (picture() * 255, "divide levels by 255"),
        (picture()[0], "image of shape"),
        (picture((2, 12, 10)), r"need \(1 or 3, rows, columns\)"),
        (picture((1, 12, 0)), "image of shape"),
        (picture().double(), "need float32"),
    ],
)
def test_a_picture_that_is_none_is_refused(image: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidFrame, match=message):
        make_host(image=image)


def test_the_target_is_checked_like_the_picture() -> None:
    with pytest.raises(InvalidFrame, match="target holds 1 values that are NaN"):
        make_host(target=_broken(float("nan")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": picture((3, 12, 10))}, r"target of shape \(3, 12, 10\)"),
        ({"frozen": torch.zeros(10, 12, dtype=torch.bool)}, "frozen of shape"),
        ({"frozen": torch.zeros(12, 10)}, "frozen of torch.float32: must be bool"),
        (
            {"composites": ((torch.ones(1, 12, 10), torch.ones(12, 10)),)},
            r"composite of shape \(12, 10\)",
        ),
        ({"start": np.zeros((10, 12), np.int8)}, r"start of shape \(10, 12\)"),
        ({"start": np.zeros((12, 10), np.int16)}, "start of int16: must be int8"),
    ],
)
def test_what_does_not_fit_the_picture_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        make_host(**given)


@pytest.mark.parametrize(
    ("params", "given", "message"),
    [
        ({"host": "rand"}, {"composites": ()}, "needs random marks"),
        ({"host": "mix"}, {"composites": ()}, "needs random marks"),
        ({"kind": "noise"}, {"generator": None}, "needs the host's generator"),
        ({"order": "after"}, {}, "give the original as target"),
    ],
)
def test_what_the_parameters_want_must_be_there(
    params: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        craft_deltas([make_host(**given)], [TinyRemover()], DeltaParams(**params))


def test_a_batch_holds_at_least_one_image() -> None:
    with pytest.raises(InvalidParameter, match="batch=0"):
        craft_deltas([make_host()], [TinyRemover()], DeltaParams(), batch=0)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "delta_x"},
        {"host": "dirty"},
        {"combine": "sum"},
        {"order": "during"},
        {"precision": "float8"},
        {"epsilon": -1},
        {"epsilon": 128},
        {"step": 0.0},
        {"step": float("nan")},
        {"iterations": -1},
        {"warm_iterations": -1},
        {"patience": -1},
        {"gamma": -0.1},
        {"gamma": float("nan")},
        {"min_gain": float("inf")},
        {"momentum": -1.0},
    ],
)
def test_parameters_outside_their_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=f"{next(iter(given))}="):
        DeltaParams(**given)


def _nan_image(image: torch.Tensor, mask: torch.Tensor) -> Any:
    return image * float("nan"), mask


def _nan_gradient(image: torch.Tensor, mask: torch.Tensor) -> Any:
    return image + torch.sqrt(image * 0), mask


@pytest.mark.parametrize("alter", [_nan_image, _nan_gradient])
def test_a_remover_that_returns_nan_is_named(alter: Any) -> None:
    ticks: list[int] = []
    removers = [TinyRemover("sound"), AlteredRemover(alter, "damaged")]
    with pytest.raises(ModelError, match="remover 'damaged' returns NaN"):
        craft_deltas([make_host()], removers, DeltaParams(), tick=ticks.append)
    assert len(ticks) < 50


def test_nan_in_the_last_step_is_seen_too() -> None:
    params = DeltaParams(iterations=1)
    with pytest.raises(ModelError, match="damaged"):
        craft_deltas([make_host()], [AlteredRemover(_nan_image, "damaged")], params)


@pytest.mark.parametrize(
    "alter",
    [
        lambda image, mask: (image[..., :-1], mask),
        lambda image, mask: (image[:, :1], mask),
        lambda image, mask: (image, mask[0]),
        lambda image, mask: (image, mask.expand(-1, 3, -1, -1)),
    ],
)
@pytest.mark.parametrize("kind", ["delta_d", "delta_i"])
def test_a_remover_that_changes_the_size_is_named(alter: Any, kind: Any) -> None:
    with pytest.raises(ModelError, match="remover 'odd' makes pictures"):
        craft_deltas(
            [make_host()], [AlteredRemover(alter, "odd")], DeltaParams(kind=kind)
        )


def test_hosts_differ_in_nothing_but_what_is_replaced() -> None:
    host = make_host()
    with pytest.raises(InvalidFrame, match="NaN"):
        replace(host, image=_broken(float("nan")))
