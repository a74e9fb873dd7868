"""How well a remover takes off marks it has never seen, in decibels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from engine.models.card import ModelCard
from engine.models.dataset import list_split, load_images
from engine.removal.composites import Composite, Marker, MarkRanges
from engine.removal.remover import Remover, load_remover
from engine.watermark.logo import Logo

BATCH = 8
COUNT = 96
"""Composites a remover is measured on."""


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each image, over the pixels `where`.

    Parameters
    ----------
    a, b
        ``(N, 3, H, W)`` in [0, 1].
    where
        ``(N, 1, H, W)``, 1 where pixels count.
    """
    squared = ((a - b) ** 2 * where).sum((1, 2, 3))
    mean = squared / (3 * where.sum((1, 2, 3))).clamp(min=1)
    return -10 * torch.log10(mean.clamp(min=1e-10))


def as_levels(x: torch.Tensor) -> torch.Tensor:
    """Clip to [0, 1] and round to the 256 display levels."""
    return (x.clamp(0, 1) * 255).round() / 255


@torch.no_grad()
def quality(remover: Remover, truth: Composite) -> dict[str, torch.Tensor]:
    """Per-image PSNR before and after removal, inside the mark and overall."""
    found = remover(truth.marked)
    cleaned, marked = as_levels(found.image), as_levels(truth.marked)
    everywhere = torch.ones_like(truth.mask)
    seen = (found.mask > 0.5).float()
    both = (seen * truth.mask).sum((1, 2, 3))
    either = (seen + truth.mask).clamp(max=1).sum((1, 2, 3)).clamp(min=1)
    return {
        "psnr_in_mark_before": psnr(marked, truth.host, truth.mask),
        "psnr_in_mark_after": psnr(cleaned, truth.host, truth.mask),
        "psnr_before": psnr(marked, truth.host, everywhere),
        "psnr_after": psnr(cleaned, truth.host, everywhere),
        "mask_iou": both / either,
    }


def measure_remover(
    card_file: Path,
    data: Path,
    *,
    side: int = 224,
    seed: int = 1,
    logo: Logo | None = None,
) -> ModelCard:
    """Measure a saved remover on the test images and write it into its card.

    The marks are those of the product: the logo (the packaged one by default),
    turned and recoloured, at opacity 0.2 to 0.8, on images of `side` pixels. PSNR
    is the mean of the per-image values in dB.
    """
    remover = load_remover(card_file)
    split = "test" if (data / "test").is_dir() else "train"
    samples = list_split(data, split).samples
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(samples))[:COUNT]
    hosts = load_images([samples[i] for i in chosen], side)
    marker = Marker(MarkRanges(sl=(2.0, 2.0), alpha=(0.2, 0.8), logos=1.0), logo)
    parts: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(hosts), BATCH):
        pixels = hosts.pixels[start : start + BATCH].float() / 255
        truth = marker.composite(pixels.expand(-1, 3, -1, -1), rng)
        parts.append(quality(remover, truth))
    measures = {
        key: round(float(torch.cat([p[key] for p in parts]).mean()), 3)
        for key in parts[0]
    }
    card = dataclasses.replace(
        remover.card,
        measures=measures | {"composites": float(len(hosts))},
        sizes=remover.card.sizes | {split: len(samples)},
    )
    card.write(card_file)
    return card
