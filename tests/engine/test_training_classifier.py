"""Training a classifier: it learns, goes on after an interruption, refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.errors import InvalidParameter, ModelError
from engine.models.classifier import load_classifier
from engine.models.dataset import list_split
from engine.models.evaluate import accuracy_of, confusion, evaluate_card
from engine.models.recipe import TrainParams
from engine.models.samples import DatasetError
from engine.models.training import (
    EpochReport,
    Trainer,
    source_of,
    train_classifier,
)
from tests.engine.models_small import LABELS, write_pictures, write_table

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


def test_it_learns_an_unbalanced_table_with_focal_loss(tmp_path: Path) -> None:
    table = write_table(write_pictures(tmp_path / "data"), few=6)
    params = dataclasses.replace(
        PARAMS,
        epochs=6,
        loss="focal",
        focal_gamma=1.0,
        focal_alpha=(1.0, 1.0, 2.0),
        resample="balanced",
        test_share=0.25,
        mean=(0.4, 0.4, 0.4),
        std=(0.3, 0.3, 0.3),
    )
    card = train_classifier(table, params, tmp_path / "out")
    assert "focal loss of gamma 1 and alpha 1, 1, 2" in card.recipe
    assert "classes drawn equally often" in card.recipe
    assert "0.25 of the groups held out for the test" in card.recipe
    assert (card.mean, card.std) == (params.mean, params.std)
    assert card.sizes == {"train": 20}
    source = source_of(table, params)
    card = evaluate_card(tmp_path / "out" / "small.json", source)
    assert card.accuracy is not None
    assert card.accuracy.total == 10
    assert card.accuracy.correct >= 8


def test_it_stops_when_no_epoch_is_better(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    reports: list[EpochReport] = []
    # So small a rate never changes a prediction, nor the loss by much.
    params = dataclasses.replace(
        PARAMS, epochs=9, patience=2, learning_rate=1e-30, ema=0.0, weight_decay=0.0
    )
    trainer = Trainer(params, list_split(data, "train"))
    trainer.best = (2.0, 0.0)  # better than any accuracy
    while not trainer.finished:
        reports.append(trainer.run_epoch())
    assert [r.epoch for r in reports] == [1, 2]


def test_patience_survives_an_interruption(tmp_path: Path) -> None:
    data = list_split(write_pictures(tmp_path / "data", count=4), "train")
    params = dataclasses.replace(PARAMS, patience=2)
    trainer = Trainer(params, data)
    trainer.best, trainer.best_epoch, trainer.epoch = (2.0, 0.0), 1, 2
    trainer.save(tmp_path / "checkpoint")
    again = Trainer(params, data)
    again.resume(tmp_path / "checkpoint")
    assert not again.finished
    again.run_epoch()
    assert again.finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "loss='hinge'.*cross-entropy, focal"),
        ({"resample": "twice"}, "resample='twice'"),
        ({"focal_gamma": -1.0}, "focal_gamma=-1"),
        ({"patience": -1}, "patience=-1"),
        ({"std": (0.0, 1.0, 1.0)}, "deviations above 0"),
        ({"mean": (0.0,)}, "three numbers"),
    ],
)
def test_impossible_parameters_are_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        dataclasses.replace(PARAMS, **change)


def test_class_weights_must_fit_the_classes(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    params = dataclasses.replace(PARAMS, loss="focal", focal_alpha=(1.0, 2.0))
    with pytest.raises(InvalidParameter, match="2 numbers for 3 classes"):
        train_classifier(data, params, tmp_path / "out")
