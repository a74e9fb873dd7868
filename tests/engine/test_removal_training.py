"""Training a remover: it learns, Eq. 2 leaves the encoder alone, it goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import EngineError, InvalidParameter, ModelError
from engine.models.dataset import DatasetError
from engine.removal.recipe import RemoverParams, describe, paper_params
from engine.removal.remover import build_network, load_remover
from engine.removal.training import RemoverTrainer, train_remover
from tests.engine.models_small import write_pictures
from tests.engine.removal_small import SMALL, smooth_hosts

BOTH = sorted(SMALL)
PARAMS = RemoverParams(
    arguments=SMALL["wdnet"],
    side=64,
    crop=32,
    steps=3,
    batch=4,
    fine_tune=2,
    save_every=2,
)


def params_of(architecture: str, **changes: object) -> RemoverParams:
    return dataclasses.replace(
        PARAMS,
        architecture=architecture,
        arguments=SMALL[architecture],
        **changes,  # type: ignore[arg-type]
    )


def small_trainer(architecture: str = "wdnet", **changes: object) -> RemoverTrainer:
    return RemoverTrainer(params_of(architecture, **changes), smooth_hosts())


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize("loss", ["mini", "wdnet", "splitnet"])
def test_it_learns_one_batch(
    monkeypatch: pytest.MonkeyPatch, architecture: str, loss: str
) -> None:
    trainer = small_trainer(architecture, steps=16, loss=loss, learning_rate=1e-2)
    batch = trainer.draw()
    monkeypatch.setattr(trainer, "draw", lambda: batch)
    losses = [trainer.step(i) for i in range(16)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("architecture", "frozen", "decoder"),
    [
        ("wdnet", ("encoder.", "bottleneck."), {"heads.weight", "refine.last.weight"}),
        (
            "splitnet",
            ("encoder.",),
            {"heads.mask.weight", "heads.image.weight", "refine.head.weight"},
        ),
    ],
)
def test_equation_2_moves_the_decoder_and_not_the_encoder(
    architecture: str, frozen: tuple[str, ...], decoder: set[str]
) -> None:
    trainer = small_trainer(architecture)
    trainer.step(0)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    for i in range(2):
        trainer.fine_tune_step(i)
    moved = {
        key
        for key, value in trainer.network.state_dict().items()
        if not torch.equal(value, before[key])
    }
    # The statistics of the norms are buffers among these.
    kept = {k for k in before if k.startswith(frozen)}
    assert any(k.endswith("running_mean") for k in kept)
    assert not moved & kept
    assert decoder <= moved
    assert any(k.endswith("running_mean") for k in moved)


def test_pieces_are_cut_from_whole_composites() -> None:
    batch = small_trainer().draw()
    assert batch.marked.shape == (4, 3, 32, 32)
    assert batch.mask.shape == (4, 1, 32, 32)
    outside = batch.alpha == 0
    torch.testing.assert_close(
        batch.marked.masked_select(outside), batch.host.masked_select(outside)
    )


def test_the_adversary_takes_part() -> None:
    trainer = small_trainer(loss="wdnet", adversary=True)
    assert trainer.adversary is not None
    before = trainer.adversary.network.layers[0].weight.clone()
    with_it = trainer.step(0)
    assert not torch.equal(before, trainer.adversary.network.layers[0].weight)
    assert with_it > small_trainer(loss="wdnet").step(0)


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
    assert "3 steps on loss mini, then 2 steps of Eq. 2" in card.recipe
    assert load_remover(tmp_path / "out").card == card
    written = json.loads((tmp_path / "out" / "wdnet.json").read_text(encoding="utf-8"))
    assert written["measures"] == card.measures
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "wdnet.json",
        "wdnet.safetensors",
    }


class Stopped(Exception):
    """The power failed."""


@pytest.mark.parametrize("architecture", BOTH)
def test_an_interrupted_training_ends_alike(tmp_path: Path, architecture: str) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    params = params_of(architecture, loss="wdnet", adversary=True)
    whole = train_remover(data, params, tmp_path / "whole")

    # Between checkpoints of the first stage, and in the second.
    stops = [3, 5]

    def stop(done: int, _total: int, _loss: float) -> None:
        if done == stops[0]:
            stops.pop(0)
            raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            train_remover(data, params, tmp_path / "parts", report=stop)
    parts = train_remover(data, params, tmp_path / "parts")
    assert parts.sha256 == whole.sha256
    assert not (tmp_path / "parts" / f"{architecture}.checkpoint").exists()


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    trainer = small_trainer()
    trainer.save(tmp_path / "checkpoint")
    other = small_trainer(seed=7)
    with pytest.raises(ModelError, match="other parameters"):
        other.resume(tmp_path / "checkpoint")


def test_a_loss_that_is_no_number_stops_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = small_trainer()
    monkeypatch.setattr(trainer, "step", lambda _index: float("nan"))
    with pytest.raises(ModelError, match=r"loss is nan at step 1; lower"):
        trainer.advance()


def test_seed_decides_the_remover(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    first, again = (train_remover(data, PARAMS, tmp_path / name) for name in "ab")
    other = train_remover(data, dataclasses.replace(PARAMS, seed=1), tmp_path / "c")
    assert first.sha256 == again.sha256 != other.sha256


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    train_remover(data, PARAMS, tmp_path / "first")
    weights = tmp_path / "first" / "wdnet.safetensors"
    tuned = dataclasses.replace(PARAMS, steps=0, initial_source="of our own")
    card = train_remover(data, tuned, tmp_path / "tuned", initial=weights)
    assert card.initial_weights == "wdnet.safetensors: of our own"
    assert "steps on loss" not in card.recipe
    network = load_remover(tmp_path / "tuned").network.state_dict()
    first = load_remover(tmp_path / "first").network.state_dict()
    # Eq. 2 alone: the frozen encoder is the first one's, bit for bit.
    kept = [k for k in first if k.startswith("encoder.")]
    assert all(torch.equal(first[k], network[k]) for k in kept)
    assert not torch.equal(first["heads.weight"], network["heads.weight"])


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


@pytest.mark.parametrize("architecture", BOTH)
def test_the_published_training_is_spelt_out(architecture: str) -> None:
    params = paper_params(architecture, images=60_000)
    assert params.loss == params.architecture == params.label == architecture
    assert json.loads(json.dumps(params.arguments)) == params.arguments
    with torch.device("meta"):
        network = build_network(architecture, params.arguments)
        published = type(network).paper()  # type: ignore[attr-defined]
    shapes = [p.shape for p in network.parameters()]
    assert shapes == [p.shape for p in published.parameters()]
    epochs, batch = {"wdnet": (50, 8), "splitnet": (100, 4)}[architecture]
    assert params.steps == epochs * 60_000 // batch
    assert "constant rate" in describe(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logo": "gone.png"}, r"gone\.png cannot be read"),
        ({"architecture": "slbr"}, "known: splitnet, wdnet"),
        ({"arguments": {"depth": 3}}, "does not take"),
        ({"perceptual": "gone.pth", "loss": "wdnet"}, "no such file"),
        ({"perceptual": __file__}, "not a PyTorch state dict|not readable"),
        ({"device": "quantum"}, "cannot be used here"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        RemoverTrainer(
            dataclasses.replace(PARAMS, **change),  # type: ignore[arg-type]
            smooth_hosts(),
        )


def test_missing_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        train_remover(tmp_path / "gone", PARAMS, tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"crop": 300},
        {"crop": 0},
        {"steps": 0},
        {"fine_tune": -1},
        {"batch": 0},
        {"save_every": 0},
        {"loss": "huber"},
        {"schedule": "stairs"},
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(change))):
        RemoverParams(**change)  # type: ignore[arg-type]


def test_there_is_no_published_training_of_an_unknown_network() -> None:
    with pytest.raises(InvalidParameter, match="known are wdnet, splitnet"):
        paper_params("slbr", images=8)
