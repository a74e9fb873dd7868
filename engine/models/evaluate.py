"""Measure a classifier or an ensemble on labelled images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from engine.models.card import Accuracy, ModelCard
from engine.models.classifier import Classifier, load_classifier
from engine.models.dataset import Images, Progress, read_image
from engine.models.samples import DatasetError
from engine.models.source import Source, as_source

BATCH = 32


class Labelled(Protocol):
    """Whatever gives one probability per label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the columns."""

    def probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C)`` probabilities of ``(N, 3, H, W)`` images in [0, 1]."""


@torch.no_grad()
def evaluate_loss(model: Classifier, images: Images) -> tuple[float, float]:
    """Cross-entropy and accuracy (0..1) on decoded images."""
    loss, correct = 0.0, 0
    for start in range(0, len(images), BATCH):
        part = images.take(torch.arange(start, min(start + BATCH, len(images))))
        part = part.to(model.mean.device)
        logits = model((part.pixels.float() / 255).expand(-1, 3, -1, -1))
        loss += float(functional.cross_entropy(logits, part.targets, reduction="sum"))
        correct += int((logits.argmax(1) == part.targets).sum())
    return loss / len(images), correct / len(images)


def load_tensor(path: Path) -> torch.Tensor:
    """One image file as ``(1, 3, H, W)`` float32 in [0, 1]."""
    pixels = np.array(read_image(path).convert("RGB"), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def confusion(
    model: Labelled,
    data: Path | Source,
    split: str = "test",
    progress: Progress | None = None,
) -> torch.Tensor:
    """Count predictions on the files of a split, each at its own size.

    Returns
    -------
    torch.Tensor
        ``(C, C)`` int64, rows the true class, columns the predicted one.

    Raises
    ------
    DatasetError
        If the classes of the split are not those of the model.
    """
    source = as_source(data)
    listing = source.split(split)
    if listing.labels != model.labels:
        raise DatasetError(
            f"{source.path}: classes {', '.join(listing.labels)}, but the model tells "
            f"apart {', '.join(model.labels)}"
        )
    table = torch.zeros(len(model.labels), len(model.labels), dtype=torch.int64)
    for done, sample in enumerate(listing.samples, start=1):
        predicted = int(model.probabilities(load_tensor(sample.path)).argmax())
        table[sample.label, predicted] += 1
        if progress is not None:
            progress(done, len(listing.samples))
    return table


def accuracy_of(table: torch.Tensor) -> Accuracy:
    """Accuracy from a confusion table."""
    return Accuracy(correct=int(table.diagonal().sum()), total=int(table.sum()))


def evaluate_card(
    card_file: Path, data: Path | Source, progress: Progress | None = None
) -> ModelCard:
    """Measure a saved classifier on the test split and write it into its card."""
    model = load_classifier(card_file)
    accuracy = accuracy_of(confusion(model, data, "test", progress))
    card = dataclasses.replace(
        model.card,
        accuracy=accuracy,
        sizes=model.card.sizes | {"test": accuracy.total},
    )
    card.write(card_file)
    return card
