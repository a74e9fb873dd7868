"""Model cards: round trip, interval, and refusal of what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import ModelError
from engine.metrics import wilson_interval
from engine.models.card import Accuracy, ModelCard, digest, read_card


def write_pair(folder: Path, **changes: object) -> Path:
    weights = folder / "net.safetensors"
    weights.write_bytes(b"weights")
    card = ModelCard(
        name="net",
        family="residual CNN",
        architecture="test_resnet",
        architecture_arguments={"output_stride": 16, "channels": [8, 16]},
        labels=("a", "b"),
        input_size=64,
        accuracy=Accuracy(correct=81, total=100),
        sizes={"train": 10},
        sha256=digest(weights),
    )
    data = card.to_json() | changes
    path = folder / "net.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Values of Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_interval_has_published_values(
    correct: int, total: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_what_is_no_proportion(
    correct: int, total: int
) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(correct, total)


def test_card_survives_json(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    _, card = read_card(path)
    again = ModelCard.from_json(json.loads(json.dumps(card.to_json())))
    assert again == card
    assert card.labels == ("a", "b")
    assert card.accuracy == Accuracy(correct=81, total=100)
    assert card.architecture_arguments == {"output_stride": 16, "channels": [8, 16]}


def test_card_states_its_interval(tmp_path: Path) -> None:
    stated = json.loads(write_pair(tmp_path).read_text(encoding="utf-8"))["accuracy"]
    assert stated["value"] == 0.81
    assert stated["wilson_95"] == [0.7222, 0.8749]


@pytest.mark.parametrize("form", ["card", "stem", "directory"])
def test_card_is_found_by(form: str, tmp_path: Path) -> None:
    card = write_pair(tmp_path)
    path = {"card": card, "stem": tmp_path / "net", "directory": tmp_path}[form]
    assert read_card(path)[0] == card


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    card = write_pair(tmp_path)
    (tmp_path / "net.safetensors").write_bytes(b"weightz")
    with pytest.raises(ModelError, match=r"net\.safetensors: SHA-256 .* restore both"):
        read_card(card)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    card = write_pair(tmp_path)
    (tmp_path / "net.safetensors").unlink()
    with pytest.raises(ModelError, match=r"net\.safetensors: missing"):
        read_card(card)


@pytest.mark.parametrize(
    "changes", [{"unknown": 1}, {"labels": 5}, {"accuracy": {"right": 1}}]
)
def test_malformed_card_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.json: not a model card"):
        read_card(write_pair(tmp_path, **changes))


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    card = write_pair(tmp_path)
    card.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not a model card"):
        read_card(card)


def test_missing_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.json: no such model card"):
        read_card(tmp_path / "gone")


def test_directory_with_two_cards_is_ambiguous(tmp_path: Path) -> None:
    card = write_pair(tmp_path)
    (tmp_path / "other.json").write_bytes(card.read_bytes())
    with pytest.raises(ModelError, match="2 model cards"):
        read_card(tmp_path)
