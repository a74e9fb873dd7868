"""Tiny removal networks of both kinds, and composites, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engine.models.dataset import Images
from engine.removal.composites import Composite, Marker
from engine.removal.network import RemovalNetwork
from engine.removal.remover import build_network

SMALL: dict[str, dict[str, Any]] = {
    "wdnet": {"width": 4, "levels": 2, "other": 2, "refine": 4},
    "splitnet": {"width": 4, "levels": 3, "shared": 1, "refine": 4, "cap": 2},
}


def small_network(architecture: str, **changes: object) -> RemovalNetwork:
    """In evaluation mode, with batch norms that have statistics of their own."""
    torch.manual_seed(0)
    network = build_network(architecture, SMALL[architecture] | changes)
    for name, parameter in network.named_parameters():
        # What starts at zero would hide what flows through it.
        if not parameter.any() and name.endswith("weight"):
            torch.nn.init.normal_(parameter, 0.0, 0.05)
    network.train()
    network(torch.rand(4, 3, 32, 32))
    return network.eval()


def small_truth(n: int = 2, side: int = 32, *, grey: bool = False) -> Composite:
    generator = torch.Generator().manual_seed(5)
    host = torch.rand(n, 1 if grey else 3, side, side, generator=generator)
    host = 0.2 + 0.6 * host.expand(-1, 3, -1, -1)
    return Marker().composite(host, np.random.default_rng(2))


def smooth_hosts(n: int = 6, side: int = 64) -> Images:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(n, 1, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")
    return Images(
        pixels=(pixels * 255).to(torch.uint8),
        targets=torch.zeros(n, dtype=torch.int64),
    )
