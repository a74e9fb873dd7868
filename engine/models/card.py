"""Model cards: what a weights file is, how it was made and what it achieves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.metrics import wilson_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Correct predictions of a test split, with the Wilson 95 % interval."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """Share of correct predictions, 0..1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval, 0..1."""
        return wilson_interval(self.correct, self.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """Everything a weights file needs to be used and judged.

    Attributes
    ----------
    name, family
        Unique name inside its ensemble; kind of architecture in words.
    architecture, architecture_arguments
        timm model name and the keyword arguments it was built with (for a
        remover: its own).
    labels
        Class names in the order of the logits; empty for a remover.
    input_size
        Side in pixels the model was trained at.
    mean, std
        Per-channel normalisation of images in [0, 1].
    data, licence
        What it was trained on, and the licence of the weights.
    sizes
        Number of images per split.
    accuracy
        On the test split; None for a remover.
    measures
        Further measured numbers by name, e.g. of a remover.
    seed, recipe, date
        How and when it was trained.
    initial_weights
        Source and licence of the weights training started from; empty if none.
    sha256
        Hex digest of the weights file.
    """

    name: str
    family: str
    architecture: str
    architecture_arguments: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    input_size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    data: str = ""
    licence: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    measures: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    recipe: str = ""
    date: str = ""
    initial_weights: str = ""
    sha256: str = ""

    def with_digest(self, sha256: str) -> ModelCard:
        """Copy the card for a weights file of this digest."""
        return dataclasses.replace(self, sha256=sha256)

    def to_json(self) -> dict[str, Any]:
        """As plain data for JSON."""
        data = dataclasses.asdict(self)
        if self.accuracy is not None:
            low, high = self.accuracy.interval
            data["accuracy"] |= {
                "value": round(self.accuracy.value, 4),
                "wilson_95": [round(low, 4), round(high, 4)],
            }
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelCard:
        """Invert `to_json`; raises TypeError, KeyError or ValueError."""
        values = dict(data)
        for key in ("labels", "mean", "std"):
            if key in values:
                values[key] = tuple(values[key])
        if values.get("accuracy") is not None:
            values["accuracy"] = Accuracy(
                correct=int(values["accuracy"]["correct"]),
                total=int(values["accuracy"]["total"]),
            )
        return cls(**values)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_card(path: Path) -> tuple[Path, ModelCard]:
    """Read a card and check the weights file beside it.

    Parameters
    ----------
    path
        ``NAME.json``, the same without suffix, or a directory with one card.

    Returns
    -------
    tuple of Path and ModelCard
        The card's file and the card.

    Raises
    ------
    ModelError
        If either file is missing, the card is not valid, or the digest of the
        weights differs from the card's.
    """
    card_file = _find_card(path)
    try:
        card = ModelCard.from_json(json.loads(card_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{card_file}: not a model card ({error}); restore the file or train again"
        ) from error
    weights = card_file.with_suffix(".safetensors")
    if not weights.is_file():
        raise ModelError(
            f"{weights}: missing, but {card_file.name} describes it; put the weights "
            "file beside its card"
        )
    found = digest(weights)
    if found != card.sha256:
        raise ModelError(
            f"{weights}: SHA-256 {found[:16]}… but its card says "
            f"{card.sha256[:16] or 'nothing'}…; the file is damaged or of another "
            "training: restore both files from the same source"
        )
    return card_file, card


def _find_card(path: Path) -> Path:
    if path.is_dir():
        cards = sorted(path.glob("*.json"))
        if len(cards) != 1:
            raise ModelError(
                f"{path}: {len(cards)} model cards (*.json) where one is expected; "
                "name the card itself"
            )
        return cards[0]
    card = path if path.suffix == ".json" else path.with_name(path.name + ".json")
    if not card.is_file():
        raise ModelError(f"{card}: no such model card")
    return card
