"""What training minimises, and how often it sees each class."""

from __future__ import annotations

from typing import Final, Literal

import torch

Loss = Literal["cross-entropy", "focal"]
Resample = Literal["none", "balanced"]

LOSSES: Final[tuple[Loss, ...]] = ("cross-entropy", "focal")
RESAMPLES: Final[tuple[Resample, ...]] = ("none", "balanced")


def focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    gamma: float = 2.0,
    alpha: torch.Tensor | None = None,
) -> torch.Tensor:
    """Focal loss (Lin et al. 2017, Eq. 5) for several classes and soft targets.

    -Σ_c α_c t_c (1 - p_c)^γ log p_c, mean over the batch. γ = 0 without α is the
    cross-entropy.

    Parameters
    ----------
    logits
        ``(N, C)``.
    targets
        ``(N, C)``, each row a distribution (one-hot, smoothed or mixed).
    gamma
        γ, not negative: how much less an easy image counts.
    alpha
        α, ``(C,)``, not negative; None for all 1.

    Returns
    -------
    torch.Tensor
        A scalar.
    """
    log_p = logits.log_softmax(dim=1)
    each = -targets * log_p
    if gamma:
        # The floor keeps the slope finite where p is 1, for γ below 1.
        each = each * (1 - log_p.exp()).clamp(min=1e-7) ** gamma
    if alpha is not None:
        each = each * alpha.to(each)
    return each.sum(dim=1).mean()


def smooth(targets: torch.Tensor, share: float) -> torch.Tensor:
    """Label smoothing: move `share` of each ``(N, C)`` row evenly to all classes."""
    return targets * (1 - share) + share / targets.shape[1]


def epoch_order(
    targets: torch.Tensor, how: Resample, generator: torch.Generator
) -> torch.Tensor:
    """Order in which an epoch sees its images.

    Parameters
    ----------
    targets
        ``(N,)`` int64, class of each image.
    how
        ``none``: every image once. ``balanced``: N draws with replacement in
        which every class present is equally likely.
    generator
        Source of randomness.

    Returns
    -------
    torch.Tensor
        ``(N,)`` int64 indices.
    """
    if how == "none":
        return torch.randperm(len(targets), generator=generator)
    counts = torch.bincount(targets).clamp(min=1)
    chances = 1.0 / counts[targets].double()
    return torch.multinomial(
        chances, len(targets), replacement=True, generator=generator
    )
