"""A tiny ensemble, remover and image folder, and hand-made records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.experiments.bench import Setup
from engine.experiments.images import load_sample
from engine.experiments.marked import MarkRecord
from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone, save_classifier
from engine.models.ensemble import load_ensemble
from engine.params import DeltaParams, ProtectParams, SearchParams
from engine.removal.remover import save_remover
from engine.removal.wdnet import WDNet
from engine.watermark.working import working_image

LABELS = ("a", "b")
TINY = ProtectParams(
    search=SearchParams(n_p=1, n_g=1, r_p=0.0005), delta=DeltaParams(iterations=2)
)


def small_setup(folder: Path) -> Setup:
    """Two members that always agree, two removers, five images; all untrained."""
    _save_models(folder)
    _save_images(folder / "data", folder)
    return Setup(
        data=folder / "data",
        ensemble=folder / "pair",
        removers=(folder / "one", folder / "two"),
        params=TINY,
    )


def _save_models(folder: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet", 2)
    for name in ("first", "second"):
        card = ModelCard(
            name=name,
            family="test",
            architecture="test_resnet",
            labels=LABELS,
            input_size=64,
        )
        save_classifier(Classifier(backbone, card), folder / "pair")
    for name in ("one", "two"):
        card = ModelCard(
            name=name,
            family="remover",
            architecture="wdnet",
            architecture_arguments={"width": 4, "levels": 2},
            input_size=64,
        )
        save_remover(WDNet(width=4, levels=2), card, folder / name)


def _save_images(folder: Path, models: Path) -> None:
    """Images in the folder of the class that the members see, and one elsewhere."""
    ensemble = load_ensemble(models / "pair")
    rng = np.random.default_rng(0)
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    for i in range(5):
        coarse = rng.integers(0, 256, (6, 6, 3 if i % 2 else 1), dtype=np.uint8)
        levels = np.kron(coarse, np.ones((12, 11, 1), np.uint8)).squeeze()
        picture = Image.fromarray(levels)
        picture.save(folder / "a" / f"{i}.png")
        frame = load_sample(folder, f"a/{i}.png", LABELS).frame
        shown = working_image(frame.stored, frame.rendering, torch.device("cpu"))
        with torch.inference_mode():
            seen = LABELS[int(ensemble.probabilities(shown[None]).argmax())]
        wrong = LABELS[1 - LABELS.index(seen)]
        (folder / "a" / f"{i}.png").unlink()
        picture.save(folder / (wrong if i == 0 else seen) / f"{i}.png")


def record(strategy: str = "he", *, right: bool = True, **changes: Any) -> MarkRecord:
    """A record of two members; the first answers as `right` says, the second is right.

    The searched models answer as the first.
    """
    answer = (0.9, 0.1) if right else (0.2, 0.8)
    values: dict[str, Any] = {
        "image": "a/1.png",
        "label": 0,
        "strategy": strategy,
        "sources": "all",
        "stop": "ensemble",
        "seen": answer,
        "members": {"first": answer, "second": (0.6, 0.4)},
        "queries": 10,
        "alpha": 51,
        "psnr": 30.0,
    }
    return MarkRecord(**(values | changes))
