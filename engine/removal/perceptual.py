"""VGG16 features, for the perceptual terms of the published losses.

The weights are not part of the package: a file with the convolutions of VGG16
(as torchvision and timm name them, ``features.0.weight`` and so on) is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn
from typing_extensions import override

from engine.models.initial import load_initial

_PLAN: Final = (
    (3, 64),
    (64, 64),
    None,
    (64, 128),
    (128, 128),
    None,
    (128, 256),
    (256, 256),
    (256, 256),
)
_TAPS: Final = (3, 8, 15)
"""Layers after which features are taken: relu1_2, relu2_2 and relu3_3."""
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


class Vgg16Features(nn.Module):
    """Features of VGG16 at relu1_2, relu2_2 and relu3_3; frozen.

    Parameters
    ----------
    weights
        ``.safetensors`` or a PyTorch state dict; None leaves random weights.

    Raises
    ------
    ModelError
        If the file is unreadable or holds other weights.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in _PLAN:
            if step is None:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(*step, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        if weights is not None:
            load_initial(self, weights)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.eval().requires_grad_(requires_grad=False)

    @override
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps, finest first, of ``(N, 3, H, W)`` images in [0, 1]."""
        x = (x - self.mean) / self.std
        taken: list[torch.Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _TAPS:
                taken.append(x)
        return taken
