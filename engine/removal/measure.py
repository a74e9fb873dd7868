"""How well a remover takes off marks it has never seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models.card import ModelCard
from engine.models.dataset import Progress, hold_out, list_split, load_images
from engine.removal.composites import Composite, Marker, MarkRanges
from engine.removal.losses import ssim
from engine.removal.remover import Remover, load_remover
from engine.types import LEVELS
from engine.watermark.logo import Logo

if TYPE_CHECKING:
    from engine.models.samples import Sample

BATCH: Final = 8
HELD_OUT: Final = 0.25
"""Of a folder without splits: Eq. 2 is trained and tested 3:1."""

_SPLIT_SEED: Final = 2023
_RESAMPLED: Final = 2000
"""Bootstrap samples behind an interval."""


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each image, over the pixels `where`.

    Parameters
    ----------
    a, b
        ``(N, 3, H, W)`` in [0, 1].
    where
        ``(N, 1, H, W)``, 1 where pixels count.
    """
    return -10 * torch.log10(_squared(a, b, where).clamp(min=1e-10))


def rmse(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Root mean square difference in display levels of each image; as `psnr`."""
    return LEVELS * _squared(a, b, where).sqrt()


def _squared(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    squared = ((a - b) ** 2 * where).sum((1, 2, 3))
    return squared / (a.shape[1] * where.sum((1, 2, 3))).clamp(min=1)


def as_levels(x: torch.Tensor) -> torch.Tensor:
    """Clip to [0, 1] and round to the 256 display levels."""
    return (x.clamp(0, 1) * LEVELS).round() / LEVELS


@torch.no_grad()
def quality(remover: Remover, truth: Composite) -> dict[str, torch.Tensor]:
    """Quality of each image before and after removal, against the original.

    Returns
    -------
    dict of str to torch.Tensor
        ``(N,)`` each: ``psnr``, ``ssim`` and ``rmse`` of the whole image and
        ``psnr_in_mark``, all ``_before`` and ``_after``; ``mask_iou``,
        intersection over union of the predicted mask (over one half) and the
        true one.
    """
    found = remover(truth.marked)
    everywhere = torch.ones_like(truth.mask)
    seen = (found.mask > 0.5).float()
    both = (seen * truth.mask).sum((1, 2, 3))
    either = (seen + truth.mask).clamp(max=1).sum((1, 2, 3)).clamp(min=1)
    measured = {"mask_iou": both / either}
    for when, image in (("before", truth.marked), ("after", found.image)):
        shown = as_levels(image.float())
        measured |= {
            f"psnr_in_mark_{when}": psnr(shown, truth.host, truth.mask),
            f"psnr_{when}": psnr(shown, truth.host, everywhere),
            f"ssim_{when}": ssim(shown, truth.host),
            f"rmse_{when}": rmse(shown, truth.host, everywhere),
        }
    return measured


def split_samples(data: Path, split: str) -> list[Sample]:
    """Images to train on, or those to measure on.

    Parameters
    ----------
    data
        Folder with ``train/CLASS`` and ``test/CLASS``, or with one folder per
        class, of which one image in four is then held out, by group.
    split
        ``train`` or ``test``.

    Raises
    ------
    DatasetError
        If the images cannot be used.
    """
    if (data / "test").is_dir():
        return list(list_split(data, split).samples)
    samples = list_split(data, "train").samples
    kept, held = hold_out(samples, HELD_OUT, _SPLIT_SEED)
    chosen = kept if split == "train" else held
    return [samples[int(i)] for i in chosen]


def measure(
    remover: Remover,
    hosts: torch.Tensor,
    *,
    seed: int = 1,
    logo: Logo | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Measure a remover on marks put on images.

    The marks are those of the product: the logo (the packaged one by default) at
    sl = 2, turned and recoloured, at opacity 0.2 to 0.8, one per image.

    Parameters
    ----------
    hosts
        ``(N, 1 or 3, S, S)`` uint8.
    seed
        Of the marks.
    logo
        The logo; None for the packaged one.
    progress
        Told about images done.

    Returns
    -------
    dict of str to float
        Means over images of what `quality` gives; ``psnr_in_mark_gain`` in dB; of
        that and of ``mask_iou`` the 95 % bootstrap interval (``_low``, ``_high``);
        ``composites``, the number of images.
    """
    rng = np.random.default_rng(seed)
    marker = Marker(MarkRanges(sl=(2.0, 2.0), alpha=(0.2, 0.8), logos=1.0), logo)
    parts: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(hosts), BATCH):
        pixels = hosts[start : start + BATCH].float() / LEVELS
        truth = marker.composite(pixels.expand(-1, 3, -1, -1), rng)
        parts.append(quality(remover, truth))
        if progress is not None:
            progress(min(start + BATCH, len(hosts)), len(hosts))
    values = {k: torch.cat([p[k] for p in parts]).double().numpy() for k in parts[0]}
    values["psnr_in_mark_gain"] = (
        values["psnr_in_mark_after"] - values["psnr_in_mark_before"]
    )
    measures = {key: round(float(value.mean()), 4) for key, value in values.items()}
    for key in ("psnr_in_mark_gain", "mask_iou"):
        low, high = bootstrap_interval(values[key], rng)
        measures |= {f"{key}_low": round(low, 4), f"{key}_high": round(high, 4)}
    return measures | {"composites": float(len(hosts))}


def bootstrap_interval(
    values: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of ``(N,)`` values."""
    picks = rng.integers(len(values), size=(_RESAMPLED, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def measure_remover(
    card_file: Path,
    data: Path,
    *,
    side: int = 224,
    logo: Logo | None = None,
    progress: Progress | None = None,
) -> ModelCard:
    """Measure a saved remover on all test images and write it into its card.

    Parameters
    ----------
    card_file
        Card or directory of the remover.
    data
        As `split_samples` takes it.
    side
        Of the images, in pixels.
    logo, progress
        As `measure` takes them.

    Raises
    ------
    DatasetError
        If the images cannot be used.
    ModelError
        If the remover cannot be loaded.
    """
    remover = load_remover(card_file)
    samples = split_samples(data, "test")
    hosts = load_images(samples, side).pixels
    card = dataclasses.replace(
        remover.card,
        measures=measure(remover, hosts, logo=logo, progress=progress),
        sizes=remover.card.sizes | {"test": len(samples)},
    )
    card.write(card_file)
    return card
