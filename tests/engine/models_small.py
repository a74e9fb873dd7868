"""Small untrained networks and picture folders for the model tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone

LABELS = ("bright", "dark", "striped")

SMALL = {
    "residual": ("test_resnet", {}),
    "mobile": ("test_efficientnet", {}),
    "vit": ("test_vit", {"img_size": 64}),
    "vgg": ("miad_vgg_tiny", {"widths": [[8], [8], [16], [16], [16]], "hidden": 16}),
    "densenet": ("miad_densenet_tiny", {"growth": 8, "blocks": [2, 2, 2]}),
    "inception": ("miad_inception_tiny", {"width": 16}),
    "conv-vit": ("miad_conv_vit_tiny", {"img_size": 64, "depth": 1, "embed_dim": 48}),
}
"""Timm architecture and arguments by a name of our own."""


def small_classifier(
    kind: str = "residual",
    *,
    labels: tuple[str, ...] = LABELS,
    seed: int = 0,
    name: str = "",
) -> Classifier:
    """An untrained classifier of 64 pixels in evaluation mode."""
    architecture, arguments = SMALL[kind]
    torch.manual_seed(seed)
    backbone = build_backbone(architecture, len(labels), arguments)
    card = ModelCard(
        name=name or kind,
        family=kind,
        architecture=architecture,
        architecture_arguments=dict(arguments),
        labels=labels,
        input_size=64,
    )
    return Classifier(backbone, card).eval().requires_grad_(requires_grad=False)


def write_pictures(folder: Path, *, count: int = 12, seed: int = 0) -> Path:
    """``folder/{train,test}/CLASS``: gray pictures of three easy classes."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for label in LABELS:
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(_picture(label, rng)).save(place / f"{i:02}.png")
    return folder


def write_table(pictures: Path, *, few: int = 0) -> Path:
    """Put the training pictures into ``table.csv``, two to a group.

    With `few`, only so many of the last class, as in an unbalanced data set.
    """
    lines = ["file,label,group"]
    for label in LABELS:
        names = sorted(p.name for p in (pictures / "train" / label).iterdir())
        if few and label == LABELS[-1]:
            names = names[:few]
        lines += [
            f"train/{label}/{name},{label},{label}-{i // 2}"
            for i, name in enumerate(names)
        ]
    table = pictures / "table.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def _picture(label: str, rng: np.random.Generator) -> np.ndarray:
    levels = rng.normal(0, 12, (40, 48))
    levels += {"bright": 190, "dark": 60, "striped": 125}[label]
    if label == "striped":
        levels += 60 * np.sign(np.sin(np.arange(48) * 0.8))[None, :]
    return np.clip(levels, 0, 255).astype(np.uint8)
