"""What a remover is trained to make small, each loss under its paper's name.

``mini`` is this project's own, enough for small networks; ``wdnet`` is that of
Liu, Zhu and Bai (WACV 2021), ``splitnet`` that of Cun and Pun (AAAI 2021). Their
adversarial and perceptual terms are optional: `engine.removal.adversary` and
`engine.removal.perceptual`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from engine.errors import InvalidParameter
from engine.removal.composites import Composite
from engine.removal.network import Removal

Loss = Callable[[Removal, Composite], torch.Tensor]
"""From what was found and the truth to a scalar."""
Features = Callable[[torch.Tensor], list[torch.Tensor]]
"""From ``(N, 3, H, W)`` images in [0, 1] to feature maps."""

LOSSES: Final = ("mini", "wdnet", "splitnet")
BACKGROUND: Final = 4
"""At most so many background pixels per marked one count for WDNet's mask."""

_LEAST: Final = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logarithm."""


def make_loss(
    name: str,
    *,
    generator: torch.Generator,
    features: Features | None = None,
) -> Loss:
    """Give a loss by name.

    Parameters
    ----------
    name
        One of `LOSSES`.
    generator
        Draws the background pixels WDNet's mask is judged on; on the CPU.
    features
        For the perceptual term, which ``mini`` has not; None leaves it out.

    Raises
    ------
    InvalidParameter
        If there is no such loss, or it has no perceptual term.
    """
    match name:
        case "mini" if features is None:
            return mini_loss
        case "mini":
            raise InvalidParameter(
                "loss=mini has no perceptual term; use loss=wdnet or loss=splitnet"
            )
        case "wdnet":
            return partial(wdnet_loss, generator=generator, features=features)
        case "splitnet":
            return partial(splitnet_loss, features=features)
        case _:
            raise InvalidParameter(
                f"loss={name!r}: unknown; known are {', '.join(LOSSES)}"
            )


def mini_loss(found: Removal, truth: Composite) -> torch.Tensor:
    """Loss of a removal: result, coarse result, mask, opacity and colours.

    Five times the absolute error inside the mark (relative to its area), five
    times that over the whole image, twice the coarse result's inside the mark,
    twice the cross-entropy of the mask, and the absolute errors of opacity (whole
    image) and colours (inside the mark).
    """
    loss = (
        5 * inside(found.image, truth.host, truth.mask)
        + 5 * functional.l1_loss(found.image, truth.host)
        + 2 * mask_entropy(found.mask, truth.mask)
        + 2 * functional.l1_loss(found.alpha, truth.alpha)
        + 0.5 * inside(found.watermark, truth.watermark, truth.mask)
    )
    if found.coarse is None:
        return loss
    return loss + 2 * inside(found.coarse, truth.host, truth.mask)


def wdnet_loss(
    found: Removal,
    truth: Composite,
    *,
    generator: torch.Generator,
    features: Features | None = None,
) -> torch.Tensor:
    """WDNet's loss without its adversarial term.

    ``10|M| + 10|W| + 10|α| + 50 (0.7|I| + 0.3|J|)``, each an absolute error. The
    mask's is taken over all marked pixels and up to `BACKGROUND` times as many of
    the others, drawn anew; the others are summed inside the mark and divided by
    its area. With `features`, 0.01 times the squared error of the result's.

    Parameters
    ----------
    generator
        Draws the background pixels; on the CPU.
    """
    judged = _balanced(truth.mask, generator)
    coarse = found.image if found.coarse is None else found.coarse
    loss = (
        10 * inside(found.mask, truth.mask, judged)
        + 10 * inside(found.watermark, truth.watermark, truth.mask)
        + 10 * inside(found.alpha, truth.alpha, truth.mask)
        + 50 * 0.7 * inside(found.image, truth.host, truth.mask)
        + 50 * 0.3 * inside(coarse, truth.host, truth.mask)
    )
    if features is None:
        return loss
    pairs = zip(features(found.image), features(truth.host), strict=True)
    return loss + 1e-2 * _total([functional.mse_loss(a, b) for a, b in pairs])


def splitnet_loss(
    found: Removal, truth: Composite, *, features: Features | None = None
) -> torch.Tensor:
    """SplitNet's loss.

    Twice, for the coarse and the refined result, the absolute error inside the
    mark (divided by its area) and over the whole image; the cross-entropy of the
    mask; the colours' absolute error inside the mark; 0.15 (1 - SSIM) of the
    refined result. With `features`, 0.025 times the absolute error of its.
    """
    stages = [found.image] if found.coarse is None else [found.coarse, found.image]
    images = [
        inside(image, truth.host, truth.mask) + functional.l1_loss(image, truth.host)
        for image in stages
    ]
    loss = (
        2 * _total(images)
        + mask_entropy(found.mask, truth.mask)
        + inside(found.watermark, truth.watermark, truth.mask)
        + 0.15 * (1 - ssim(found.image, truth.host).mean())
    )
    if features is None:
        return loss
    pairs = zip(features(found.image), features(truth.host), strict=True)
    return loss + 0.025 * _total([functional.l1_loss(a, b) for a, b in pairs])


def fine_tuning_loss(found: Removal, truth: Composite) -> torch.Tensor:
    """Eq. 2: the mean squared error of the result."""
    return functional.mse_loss(found.image, truth.host)


def inside(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference over the pixels `where`, of the whole batch.

    Parameters
    ----------
    a, b
        ``(N, C, H, W)``.
    where
        ``(N, 1, H, W)``, 1 where pixels count; if none does the mean is 0.
    """
    return ((a - b).abs() * where).sum() / (where.sum() * a.shape[1]).clamp(min=1)


def mask_entropy(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of a mask, mean over pixels; finite at 0 and 1."""
    kept = found.clamp(_LEAST, 1 - _LEAST)
    return functional.binary_cross_entropy(kept, truth)


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image: 11x11 Gaussian window of σ 1.5.

    Mean over channels and over the pixels whose window lies wholly inside, as
    `engine.metrics.ssim`, but differentiable.

    Parameters
    ----------
    a, b
        ``(N, C, H, W)`` in [0, 1], at least 11 pixels a side.

    Returns
    -------
    torch.Tensor
        ``(N,)``.
    """
    steps = torch.arange(-5, 6, device=a.device, dtype=a.dtype)
    line = torch.exp(-(steps**2) / (2 * 1.5**2))
    line = line / line.sum()
    channels = a.shape[1]

    def smooth(x: torch.Tensor) -> torch.Tensor:
        rows = line.view(1, 1, 11, 1).expand(channels, 1, 11, 1)
        columns = line.view(1, 1, 1, 11).expand(channels, 1, 1, 11)
        x = functional.conv2d(x, rows, groups=channels)
        return functional.conv2d(x, columns, groups=channels)

    mean_a, mean_b = smooth(a), smooth(b)
    var_a = smooth(a * a) - mean_a**2
    var_b = smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * both + c2) / (var_a + var_b + c2)
    return (light * structure).mean((1, 2, 3))


def _balanced(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Choose all marked pixels and some random others, as 1 and 0."""
    marked = mask.sum()
    others = mask.numel() - marked
    share = (BACKGROUND * marked / others.clamp(min=1)).clamp(max=1)
    drawn = torch.rand(mask.shape, generator=generator).to(mask.device)
    return torch.where(mask > 0, 1.0, (drawn < share).to(mask.dtype))


def _total(terms: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(terms).sum()
