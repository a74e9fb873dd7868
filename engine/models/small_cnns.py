"""Small members of the VGG, DenseNet and Inception v3 families.

Each keeps what makes its family err in its own way (plain stacks and a wide
head; concatenation; parallel branches of factorised kernels) at about a million
parameters, and sees a grid of stride 16 where Grad-CAM looks. They have timm's
interface: ``forward_features``, ``forward_head`` and ``feature_info``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from timm.models.densenet import DenseNet
from torch import nn
from torch.nn import functional
from typing_extensions import override

Size = int | tuple[int, int]


class ConvUnit(nn.Sequential):
    """Convolution that keeps the grid (but for `stride`), batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size = 3, *, stride: int = 1
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(
            nn.Conv2d(
                inputs,
                outputs,
                sides,
                stride=stride,
                padding=(sides[0] // 2, sides[1] // 2),
                bias=False,
            ),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Branches(nn.Module):
    """Parallel ways over the same maps, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class SmallNet(nn.Module):
    """Maps by `features`, pooled features by `neck`, logits by one linear layer.

    Attributes
    ----------
    feature_info
        One entry: the module whose output is the last maps, as timm lists it.
    """

    def __init__(
        self, features: nn.Module, neck: nn.Module, width: int, classes: int
    ) -> None:
        super().__init__()
        self.features = features
        self.neck = neck
        self.num_features = width
        self.num_classes = classes
        self.head = nn.Linear(width, classes)
        self.feature_info = [{"module": "features", "reduction": 16}]
        self.apply(_initialise)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Give maps ``(N, D, H/16, W/16)`` of ``(N, 3, H, W)`` normalised images."""
        return cast("torch.Tensor", self.features(x))

    def forward_head(
        self, maps: torch.Tensor, pre_logits: bool = False
    ) -> torch.Tensor:
        """Logits ``(N, C)`` of maps, or the ``(N, width)`` features before them."""
        pooled: torch.Tensor = self.neck(maps)
        return pooled if pre_logits else cast("torch.Tensor", self.head(pooled))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class SameAdaptivePool(nn.Module):
    """Mean over a `cells` by `cells` partition of the maps, flattened.

    The head of a VGG wants maps of one size; this makes it so for any input.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    @override
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(maps, self.cells).flatten(1)


def vgg(
    classes: int,
    *,
    widths: Sequence[Sequence[int]] = ((16,), (32, 32), (64, 64), (96, 96), (160, 160)),
    hidden: int = 192,
    drop: float = 0.2,
) -> SmallNet:
    """VGG (Simonyan, Zisserman 2014): stacks of 3x3 convolutions, max-pool between.

    Parameters
    ----------
    classes
        Number of logits.
    widths
        Output channels of the convolutions of each of the five stages.
    hidden, drop
        Width and dropout of the two fully connected layers before the last.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for index, stage in enumerate(widths):
        if index:
            layers.append(nn.MaxPool2d(2))
        for outputs in stage:
            layers.append(ConvUnit(inputs, outputs))
            inputs = outputs
    cells = 4
    neck = nn.Sequential(
        SameAdaptivePool(cells),
        nn.Linear(inputs * cells * cells, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(drop),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(drop),
    )
    return SmallNet(nn.Sequential(*layers), neck, hidden, classes)


def densenet(
    classes: int,
    *,
    growth: int = 32,
    blocks: tuple[int, ...] = (2, 6, 12),
    bottleneck: int = 2,
    drop: float = 0.0,
) -> DenseNet:
    """DenseNet (Huang et al. 2016) of three dense blocks, strides 4, 8 and 16.

    Parameters
    ----------
    classes
        Number of logits.
    growth
        Channels each layer adds; the stem has twice as many.
    blocks
        Layers per block.
    bottleneck
        Width of a layer's 1x1 convolution in units of `growth`.
    drop
        Dropout before the last layer.
    """
    return DenseNet(
        growth_rate=growth,
        block_config=blocks,
        bn_size=bottleneck,
        num_classes=classes,
        drop_rate=drop,
    )


def _pooled(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvUnit(inputs, outputs, 1))


def _block_a(inputs: int, pool: int) -> Branches:
    """1x1; 3x3; two 3x3 in place of 5x5; pooling: 128 + `pool` channels."""
    return Branches(
        ConvUnit(inputs, 32, 1),
        nn.Sequential(ConvUnit(inputs, 32, 1), ConvUnit(32, 48)),
        nn.Sequential(ConvUnit(inputs, 32, 1), ConvUnit(32, 48), ConvUnit(48, 48)),
        _pooled(inputs, pool),
    )


def _reduction(inputs: int) -> Branches:
    """Halve the grid by strided convolutions beside a max-pool."""
    return Branches(
        nn.Sequential(ConvUnit(inputs, 48, 1), ConvUnit(48, 80, stride=2)),
        nn.Sequential(
            ConvUnit(inputs, 32, 1), ConvUnit(32, 48), ConvUnit(48, 64, stride=2)
        ),
        nn.MaxPool2d(3, 2, 1),
    )


def _block_c(inputs: int, width: int) -> Branches:
    """1x1; 7x7 as 1x7 and 7x1, once and twice; pooling: 256 channels."""
    return Branches(
        ConvUnit(inputs, 64, 1),
        nn.Sequential(
            ConvUnit(inputs, width, 1),
            ConvUnit(width, width, (1, 7)),
            ConvUnit(width, 64, (7, 1)),
        ),
        nn.Sequential(
            ConvUnit(inputs, width, 1),
            ConvUnit(width, width, (7, 1)),
            ConvUnit(width, width, (1, 7)),
            ConvUnit(width, width, (7, 1)),
            ConvUnit(width, 64, (1, 7)),
        ),
        _pooled(inputs, 64),
    )


def _block_e(inputs: int) -> Branches:
    """1x1; 3x3 spread over 1x3 beside 3x1, once and twice; pooling: 448 channels."""

    def spread() -> Branches:
        return Branches(ConvUnit(80, 80, (1, 3)), ConvUnit(80, 80, (3, 1)))

    return Branches(
        ConvUnit(inputs, 64, 1),
        nn.Sequential(ConvUnit(inputs, 80, 1), spread()),
        nn.Sequential(ConvUnit(inputs, 80, 1), ConvUnit(80, 80), spread()),
        _pooled(inputs, 64),
    )


def inception(classes: int, *, width: int = 48, drop: float = 0.2) -> SmallNet:
    """Inception v3 (Szegedy et al. 2015): stem, blocks A, reduction, C and E.

    Parameters
    ----------
    classes
        Number of logits.
    width
        Channels inside the factorised 7x7 branches.
    drop
        Dropout before the last layer.
    """
    features = nn.Sequential(
        ConvUnit(3, 24, stride=2),
        ConvUnit(24, 32),
        nn.MaxPool2d(3, 2, 1),
        ConvUnit(32, 48, 1),
        ConvUnit(48, 64),
        nn.MaxPool2d(3, 2, 1),
        _block_a(64, 32),
        _block_a(160, 32),
        _reduction(160),
        _block_c(304, width),
        _block_c(256, width),
        _block_e(256),
    )
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(drop))
    return SmallNet(features, neck, 448, classes)
