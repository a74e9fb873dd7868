"""Random changes of a batch of training images, all in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How far training images are changed at random.

    Attributes
    ----------
    rotation
        Largest angle in degrees, either way.
    scale
        Largest relative change of size.
    shift
        Largest displacement as a share of the side.
    flip
        Whether to mirror left and right.
    gain, gamma
        Largest relative change of contrast, and of gamma.
    noise
        Largest standard deviation of added noise, image in [0, 1].
    mixup
        Parameter of the Beta distribution of mixup; 0 for none.
    """

    rotation: float = 20.0
    scale: float = 0.2
    shift: float = 0.08
    flip: bool = True
    gain: float = 0.25
    gamma: float = 0.25
    noise: float = 0.03
    mixup: float = 0.0

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(
            rotation=0,
            scale=0,
            shift=0,
            flip=False,
            gain=0,
            gamma=0,
            noise=0,
        )


def _uniform(n: int, limit: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(n, generator=generator) * 2 - 1) * limit


def warp(
    x: torch.Tensor, side: int, how: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Rotate, scale, shift, mirror and resample to `side` by `side`.

    Parameters
    ----------
    x
        ``(N, C, S, S)`` float32.

    Returns
    -------
    torch.Tensor
        ``(N, C, side, side)`` float32, black outside the image.
    """
    n = x.shape[0]
    angle = _uniform(n, math.radians(how.rotation), generator)
    size_x = 1 + _uniform(n, how.scale, generator)
    size_y = size_x * (1 + _uniform(n, how.scale / 2, generator))
    mirror = torch.ones(n)
    if how.flip:
        mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.cos(angle) / size_x * mirror
    theta[:, 0, 1] = -torch.sin(angle) / size_x
    theta[:, 1, 0] = torch.sin(angle) / size_y * mirror
    theta[:, 1, 1] = torch.cos(angle) / size_y
    theta[:, :, 2] = _uniform(2 * n, 2 * how.shift, generator).view(n, 2)
    shape = [n, x.shape[1], side, side]
    grid = functional.affine_grid(theta.to(x.device), shape, align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", align_corners=False)


def jitter(
    x: torch.Tensor, how: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Change gamma and contrast and add noise; ``(N, C, H, W)`` in [0, 1]."""
    n = x.shape[0]
    gamma = torch.exp(_uniform(n, how.gamma, generator)).view(n, 1, 1, 1)
    gain = (1 + _uniform(n, how.gain, generator)).view(n, 1, 1, 1)
    sigma = torch.rand(n, generator=generator).view(n, 1, 1, 1) * how.noise
    x = x.clamp(min=1e-4) ** gamma.to(x.device) * gain.to(x.device)
    if how.noise:
        x = x + (sigma * torch.randn(x.shape, generator=generator)).to(x.device)
    return x.clamp(0, 1)


def mix(
    x: torch.Tensor, targets: torch.Tensor, beta: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup: convex pairs of images and of their ``(N, C)`` float targets."""
    if beta <= 0:
        return x, targets
    # torch.distributions takes no generator, so the seed comes from ours.
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weight = float(torch.distributions.Beta(beta, beta).sample())
    other = torch.randperm(x.shape[0], generator=generator)
    return (
        weight * x + (1 - weight) * x[other],
        weight * targets + (1 - weight) * targets[other],
    )
