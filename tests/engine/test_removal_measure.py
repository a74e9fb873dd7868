"""How removers are measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from typing_extensions import override

from engine.models.card import ModelCard
from engine.models.dataset import DatasetError
from engine.removal.measure import (
    as_levels,
    bootstrap_interval,
    measure,
    measure_remover,
    psnr,
    rmse,
    split_samples,
)
from engine.removal.network import Removal
from engine.removal.remover import Remover, save_remover
from tests.engine.models_small import write_pictures
from tests.engine.removal_small import SMALL, small_network

CARD = ModelCard(
    name="small",
    family="watermark remover",
    architecture="wdnet",
    architecture_arguments=SMALL["wdnet"],
    input_size=64,
)


class Idle(Remover):
    """Does nothing and sees no mark."""

    @override
    def forward(self, x: torch.Tensor) -> Removal:
        nowhere = torch.zeros_like(x[:, :1])
        return Removal(image=x, mask=nowhere, alpha=nowhere, watermark=x)


def test_psnr_and_rmse_count_only_where_they_are_told() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., 0] = 0.1
    where = torch.zeros(1, 1, 4, 4)
    where[..., 0] = 1
    everywhere = torch.ones(1, 1, 4, 4)
    assert float(psnr(a, b, where)) == pytest.approx(20, abs=1e-3)
    assert float(psnr(a, b, everywhere)) == pytest.approx(26.0206, abs=1e-3)
    assert float(rmse(a, b, where)) == pytest.approx(25.5)
    assert float(rmse(a, b, everywhere)) == pytest.approx(12.75)


def test_levels_are_clipped_and_rounded() -> None:
    levels = as_levels(torch.tensor([-0.2, 0.5, 1.3])) * 255
    assert levels.tolist() == pytest.approx([0, 128, 255])


def test_a_remover_that_does_nothing_gains_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    hosts = (torch.rand(10, 1, 64, 64, generator=generator) * 255).to(torch.uint8)
    seen: list[tuple[int, int]] = []
    idle = Idle(small_network("wdnet"), CARD)
    found = measure(
        idle, hosts, progress=lambda done, total: seen.append((done, total))
    )
    assert found["psnr_in_mark_gain"] == 0
    assert found["psnr_in_mark_gain_low"] == found["psnr_in_mark_gain_high"] == 0
    assert found["mask_iou"] == 0
    assert found["ssim_before"] == found["ssim_after"] < 1
    assert found["rmse_before"] == found["rmse_after"] > 0
    assert found["composites"] == 10
    assert seen == [(8, 10), (10, 10)]


def test_the_interval_holds_the_mean_and_narrows_with_n() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(3, 1, 20), rng.normal(3, 1, 400)
    a, b = bootstrap_interval(few, rng), bootstrap_interval(many, rng)
    assert a[0] < few.mean() < a[1]
    # 1.96 standard errors each side.
    assert b[1] - b[0] == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert b[1] - b[0] < a[1] - a[0]


def test_measures_are_written_into_the_card(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    save_remover(small_network("wdnet"), CARD, tmp_path / "out")
    file = tmp_path / "out" / "small.json"
    card = measure_remover(file, data, side=64)
    assert card.sizes["test"] == card.measures["composites"] == 6
    assert card.measures["psnr_before"] > card.measures["psnr_in_mark_before"]
    assert measure_remover(file, data, side=64) == card
    assert dataclasses.replace(card, measures={}, sizes={}, sha256="") == CARD


def test_a_folder_without_splits_is_split_three_to_one(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=8) / "train"
    train, test = (split_samples(data, split) for split in ("train", "test"))
    assert len(train) == 3 * len(test) > 0
    assert not {s.path for s in train} & {s.path for s in test}


def test_missing_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        split_samples(tmp_path / "gone", "train")
