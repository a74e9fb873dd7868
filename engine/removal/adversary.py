"""The discriminator WDNet is trained against, if asked for."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from engine.removal.network import SLOPE

PERIOD: Final = 3
"""The discriminator learns at every third step."""


class PatchDiscriminator(nn.Module):
    """Tells clean images from cleaned ones, patch by patch, given the marked one.

    Four 3x3 convolutions to 64, 128, 256 and 1 channels, the first three halving
    the grid (0.38 M parameters).

    Parameters
    ----------
    width
        Channels of the first convolution.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(6, width, 3, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
        ]
        for inputs in (width, 2 * width):
            layers += [
                nn.Conv2d(inputs, 2 * inputs, 3, stride=2, padding=1),
                nn.BatchNorm2d(2 * inputs),
                nn.LeakyReLU(SLOPE),
            ]
        layers.append(nn.Conv2d(4 * width, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(_small_normal)

    @override
    def forward(self, marked: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 1, h, w)`` that `image` is the clean one of `marked`."""
        logits: torch.Tensor = self.layers(torch.cat([marked, image], dim=1))
        return logits


class Adversary:
    """A discriminator in training, and what it makes the remover pay.

    Parameters
    ----------
    device
        Where to compute.
    width
        Of the discriminator.
    learning_rate
        Of Adam with β = (0.5, 0.999).
    """

    def __init__(
        self,
        device: torch.device,
        *,
        width: int = 64,
        learning_rate: float = 2e-4,
    ) -> None:
        self.network = PatchDiscriminator(width).to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=learning_rate, betas=(0.5, 0.999)
        )

    def cost(self, marked: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of `image` being taken for a cleaned one."""
        logits = self.network(marked, image)
        return functional.binary_cross_entropy_with_logits(
            logits, torch.ones_like(logits)
        )

    def learn(
        self, marked: torch.Tensor, image: torch.Tensor, host: torch.Tensor, index: int
    ) -> None:
        """Learn from one batch of cleaned and clean images, every third `index`."""
        if index % PERIOD:
            return
        real, fake = self.network(marked, host), self.network(marked, image.detach())
        right = functional.binary_cross_entropy_with_logits
        loss = right(real, torch.ones_like(real)) + right(fake, torch.zeros_like(fake))
        self.optimizer.zero_grad()
        torch.autograd.backward(loss / 2)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Give everything needed to go on later."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def _small_normal(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, as published."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
