"""Training a classifier: it learns, goes on after an interruption, refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.errors import ModelError
from engine.models.classifier import load_classifier
from engine.models.dataset import DatasetError
from engine.models.evaluate import accuracy_of, confusion, evaluate_card
from engine.models.recipe import TrainParams
from engine.models.training import EpochReport, train_classifier
from tests.engine.models_small import LABELS, write_pictures

PARAMS = TrainParams(
    name="small",
    family="residual CNN",
    architecture="test_resnet",
    input_size=32,
    epochs=5,
    batch=8,
    learning_rate=5e-3,
    warmup=0.5,
    ema=0.5,
    validation=0.25,
    data="pictures",
    licence="none",
)


class Interrupted(Exception):
    """Stands for whatever stops a training."""


def interrupt_after(epoch: int) -> object:
    def report(result: EpochReport) -> None:
        if result.epoch == epoch:
            raise Interrupted

    return report


def test_it_learns_and_the_card_says_how(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data")
    reports: list[EpochReport] = []
    train_classifier(data, PARAMS, tmp_path / "out", report=reports.append)
    card = evaluate_card(tmp_path / "out" / "small.json", data)
    assert card.accuracy is not None
    assert card.accuracy.total == 36
    assert card.accuracy.correct > 30
    assert [r.epoch for r in reports] == [1, 2, 3, 4, 5]
    assert reports[-1].best == max(r.accuracy for r in reports)
    assert card.sizes == {"train": 36, "test": 36}
    assert card.labels == LABELS
    assert "5 epochs of batches of 8" in card.recipe
    assert load_classifier(tmp_path / "out").card == card
    assert not list((tmp_path / "out").glob("*.checkpoint*"))


def test_interrupted_training_ends_as_if_it_never_was(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=6)
    params = dataclasses.replace(PARAMS, epochs=2)
    whole = train_classifier(data, params, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_classifier(data, params, tmp_path / "cut", report=interrupt_after(1))
    resumed: list[EpochReport] = []
    again = train_classifier(data, params, tmp_path / "cut", report=resumed.append)
    assert [r.epoch for r in resumed] == [2]
    assert again.sha256 == whole.sha256


def test_it_stops_early_where_told(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    reports: list[EpochReport] = []
    params = dataclasses.replace(PARAMS, last_epoch=2)
    card = train_classifier(data, params, tmp_path / "out", report=reports.append)
    assert [r.epoch for r in reports] == [1, 2]
    assert "5 epochs (stopped after 2)" in card.recipe


def test_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    with pytest.raises(Interrupted):
        train_classifier(data, PARAMS, tmp_path / "out", report=interrupt_after(1))
    other = dataclasses.replace(PARAMS, learning_rate=1e-3)
    with pytest.raises(ModelError, match="written by a training with other parameters"):
        train_classifier(data, other, tmp_path / "out")


def test_seed_decides_the_weights(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    digests = [
        train_classifier(
            data,
            dataclasses.replace(PARAMS, epochs=1, seed=seed),
            tmp_path / name,
        ).sha256
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_starting_weights_are_used_and_named(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    params = dataclasses.replace(PARAMS, epochs=1, learning_rate=1e-9)
    train_classifier(data, params, tmp_path / "first")
    start = tmp_path / "first" / "small.safetensors"
    other = dataclasses.replace(
        params, seed=7, initial_source="the first training, no licence"
    )
    card = train_classifier(data, other, tmp_path / "second", initial=start)
    assert card.initial_weights == "small.safetensors: the first training, no licence"
    models = [load_classifier(tmp_path / d) for d in ("first", "second")]
    weights = [next(m.backbone.parameters()) for m in models]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-3, rtol=0)


def test_confusion_counts_every_image_in_its_row(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    train_classifier(data, dataclasses.replace(PARAMS, epochs=1), tmp_path / "out")
    table = confusion(load_classifier(tmp_path / "out"), data)
    assert table.sum(1).tolist() == [4, 4, 4]
    assert accuracy_of(table).correct == int(table.diagonal().sum())


def test_other_classes_cannot_be_measured(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    train_classifier(data, dataclasses.replace(PARAMS, epochs=1), tmp_path / "out")
    (data / "test" / "dark").rename(data / "test" / "dim")
    with pytest.raises(DatasetError, match="bright, dim, striped"):
        confusion(load_classifier(tmp_path / "out"), data)
