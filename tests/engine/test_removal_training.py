"""Training a remover: it learns, Eq. 2 leaves the encoder alone, it is measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InvalidParameter
from engine.models.dataset import DatasetError, Images
from engine.removal.composites import Composite
from engine.removal.measure import as_levels, measure_remover, psnr
from engine.removal.remover import load_remover
from engine.removal.training import (
    RemoverParams,
    RemoverTrainer,
    removal_loss,
    train_remover,
)
from engine.removal.wdnet import Removal
from tests.engine.models_small import write_pictures

PARAMS = RemoverParams(
    arguments={"width": 4, "levels": 2, "other": 2, "refine": 4},
    side=64,
    crop=32,
    steps=3,
    batch=4,
    fine_tune=2,
)


def small_trainer(steps: int = 40) -> RemoverTrainer:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(6, 1, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")
    hosts = Images(
        pixels=(pixels * 255).to(torch.uint8),
        targets=torch.zeros(6, dtype=torch.int64),
    )
    params = RemoverParams(
        arguments=PARAMS.arguments, side=64, crop=48, steps=steps, batch=4
    )
    return RemoverTrainer(params, hosts)


def test_it_learns_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(steps=60)
    batch = trainer.draw()
    monkeypatch.setattr(trainer, "draw", lambda: batch)
    losses = [trainer.step(i) for i in range(60)]
    assert losses[-1] < 0.85 * losses[0]


def test_equation_2_moves_the_decoder_and_not_the_encoder() -> None:
    trainer = small_trainer()
    trainer.step(0)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    for i in range(2):
        trainer.fine_tune_step(i)
    moved = {
        key
        for key, value in trainer.network.state_dict().items()
        if not torch.equal(value, before[key])
    }
    frozen = {k for k in before if k.startswith(("encoder.", "bottleneck."))}
    assert frozen
    assert not moved & frozen
    assert {"heads.weight", "refine.last.weight"} <= moved


def test_pieces_are_cut_from_whole_composites() -> None:
    batch = small_trainer().draw()
    assert batch.marked.shape == (4, 3, 48, 48)
    assert batch.mask.shape == (4, 1, 48, 48)
    outside = batch.alpha == 0
    torch.testing.assert_close(
        batch.marked.masked_select(outside), batch.host.masked_select(outside)
    )


def perfect(truth: Composite) -> Removal:
    return Removal(
        image=truth.host,
        mask=truth.mask,
        alpha=truth.alpha,
        watermark=truth.watermark,
    )


@pytest.mark.parametrize("part", ["image", "mask", "alpha", "watermark"])
def test_any_error_costs(part: str) -> None:
    truth = small_trainer().draw()
    right = perfect(truth)
    wrong = right._replace(**{part: 0.5 + 0 * getattr(right, part)})
    assert float(removal_loss(right, truth)) < 0.01
    assert float(removal_loss(wrong, truth)) > 0.05


def test_training_writes_a_measured_remover(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    seen: list[tuple[int, int]] = []
    card = train_remover(
        data,
        PARAMS,
        tmp_path / "out",
        report=lambda done, total, _loss: seen.append((done, total)),
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    assert card.sizes == {"train": 6, "test": 6}
    assert card.measures["composites"] == 6
    assert card.measures["psnr_before"] > card.measures["psnr_in_mark_before"]
    assert "then 2 steps of Eq. 2" in card.recipe
    assert load_remover(tmp_path / "out").card == card
    written = json.loads((tmp_path / "out" / "wdnet.json").read_text(encoding="utf-8"))
    assert written["measures"] == card.measures
    assert measure_remover(tmp_path / "out" / "wdnet.json", data, side=64) == card


def test_seed_decides_the_remover(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    first, again = (train_remover(data, PARAMS, tmp_path / name) for name in "ab")
    assert first.sha256 == again.sha256


def test_a_logo_of_ones_own_is_used_and_named(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    ring = np.zeros((40, 60, 4), np.uint8)
    ring[4:36, 4:56] = (200, 30, 30, 255)
    Image.fromarray(ring).save(tmp_path / "ring.png")
    params = dataclasses.replace(PARAMS, logo=str(tmp_path / "ring.png"))
    card = train_remover(data, params, tmp_path / "own")
    plain = train_remover(data, PARAMS, tmp_path / "packaged")
    digest = hashlib.sha256((tmp_path / "ring.png").read_bytes()).hexdigest()
    assert f"logo {digest[:12]}" in card.recipe
    assert card.recipe != plain.recipe
    assert card.measures != plain.measures


def test_an_unreadable_logo_is_refused(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    params = dataclasses.replace(PARAMS, logo=str(tmp_path / "gone.png"))
    with pytest.raises(InvalidParameter, match=r"gone\.png cannot be read"):
        train_remover(data, params, tmp_path / "out")


def test_missing_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        train_remover(tmp_path / "gone", PARAMS, tmp_path / "out")


@pytest.mark.parametrize("change", [{"crop": 300}, {"crop": 0}, {"steps": 0}])
def test_parameters_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InvalidParameter, match=r"crop=|must be positive"):
        RemoverParams(**change)


def test_psnr_counts_only_where_it_is_told() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., 0] = 0.1
    where = torch.zeros(1, 1, 4, 4)
    where[..., 0] = 1
    assert float(psnr(a, b, where)) == pytest.approx(20, abs=1e-3)
    everywhere = torch.ones(1, 1, 4, 4)
    assert float(psnr(a, b, everywhere)) == pytest.approx(26.0206, abs=1e-3)


def test_levels_are_clipped_and_rounded() -> None:
    levels = as_levels(torch.tensor([-0.2, 0.5, 1.3])) * 255
    assert levels.tolist() == pytest.approx([0, 128, 255])
