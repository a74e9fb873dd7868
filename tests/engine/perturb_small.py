"""Tiny removers and hosts, for tests of δ."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from engine.perturb.host import Composite, Host
from engine.removal.network import Removal


class TinyRemover(nn.Module):
    """Two random convolutions: a repaired picture inside a soft mask."""

    def __init__(self, name: str = "tiny", *, seed: int = 0) -> None:
        super().__init__()
        self.name = name
        generator = torch.Generator().manual_seed(seed)
        self.repair = nn.Conv2d(3, 3, 3, padding=1)
        self.find = nn.Conv2d(3, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.requires_grad = False
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    @override
    def forward(self, x: torch.Tensor) -> Removal:
        mask = torch.sigmoid(4 * self.find(x))
        image = mask * torch.tanh(self.repair(x)) + (1 - mask) * x
        return Removal(image=image, mask=mask, alpha=mask, watermark=x)


class AlteredRemover(TinyRemover):
    """Returns what `alter` makes of the picture and the mask."""

    def __init__(self, alter: Any, name: str = "altered") -> None:
        super().__init__(name)
        self.alter = alter

    @override
    def forward(self, x: torch.Tensor) -> Removal:
        removal = super().forward(x)
        image, mask = self.alter(removal.image, removal.mask)
        return removal._replace(image=image, mask=mask)


def picture(
    shape: tuple[int, int, int] = (1, 12, 10),
    *,
    seed: int = 0,
    levels: tuple[int, int] = (0, 255),
) -> torch.Tensor:
    """Noise in whole display levels of the closed range `levels`."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(levels[0], levels[1], shape, endpoint=True)
    return torch.from_numpy(whole).float() / 255


def marks(
    shape: tuple[int, int, int], *, count: int = 3, seed: int = 0
) -> tuple[Composite, ...]:
    """Affine maps that keep pictures in [0, 1]; grey for one channel."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        opacity = torch.from_numpy(rng.uniform(0, 0.7, (1, *shape[1:]))).float()
        colour = torch.from_numpy(rng.uniform(0, 1, shape)).float()
        made.append((1 - opacity, opacity * colour))
    return tuple(made)


def make_host(
    shape: tuple[int, int, int] = (1, 12, 10), *, seed: int = 0, **given: Any
) -> Host:
    """Make a host with three marks, nothing frozen and its own generator."""
    values: dict[str, Any] = {
        "image": picture(shape, seed=seed),
        "frozen": torch.zeros(shape[1:], dtype=torch.bool),
        "composites": marks(shape, seed=seed),
        "generator": np.random.default_rng(seed),
    }
    return Host(**(values | given))
