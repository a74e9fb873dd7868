"""The parts of a residual U-Net that SplitNet is made of, and their sizes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Self, get_args

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from engine.removal.network import ConvBlock, Fold, Norm, Up, check_choice


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitNetSizes:
    """How large a `SplitNet` is; the defaults are the shipped small one's.

    Attributes
    ----------
    width, cap
        Channels of the first level; they double per level up to `cap` times that.
    levels
        Levels of encoder and decoder, the first counted.
    shared
        Up-blocks shared by the three tasks; the others are the branches'.
    blocks
        Residual convolutions per level.
    refine
        Channels of the first level of the refinement, which has as many levels.
    reduction
        By which the channel gates narrow.
    fold
        2 folds two by two pixels into channels first, so that no convolution
        runs at full resolution; 1 is the published full resolution.
    norm, up
        Norms, and how up-blocks enlarge.
    """

    width: int = 12
    cap: int = 6
    levels: int = 5
    shared: int = 2
    blocks: int = 1
    refine: int = 8
    reduction: int = 4
    fold: Fold = 2
    norm: Norm = "batch"
    up: Up = "nearest"

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("up", self.up, get_args(Up))
        check_choice("fold", self.fold, get_args(Fold))
        check_choice("shared", self.shared, tuple(range(self.levels)))

    @classmethod
    def paper(cls) -> Self:
        """Give the published sizes."""
        return cls(
            width=32,
            cap=16,
            blocks=3,
            refine=32,
            reduction=16,
            fold=1,
            norm="instance",
            up="transposed",
        )


class Gate(nn.Module):
    """Channel attention: each channel times a weight in (0, 1) (squeeze-excite)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(2, channels // reduction)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
            nn.Sigmoid(),
        )

    @override
    def forward(self, mean: torch.Tensor) -> torch.Tensor:
        """Weights ``(N, C, 1, 1)`` from the `spatial_mean` of the features."""
        weights: torch.Tensor = self.weigh(mean)
        return weights


def spatial_mean(x: torch.Tensor) -> torch.Tensor:
    """``(N, C, 1, 1)``: the mean over the pixels of each channel."""
    return x.mean((2, 3), keepdim=True)


class Residuals(nn.ModuleList):
    """Convolution blocks that each add to what they get."""

    def __init__(self, channels: int, sizes: SplitNetSizes) -> None:
        super().__init__(
            ConvBlock(channels, channels, norm=sizes.norm) for _ in range(sizes.blocks)
        )

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape is kept."""
        for block in self:
            x = x + block(x)
        return x


class UpBlock(nn.Module):
    """Enlarge twofold, join the skip, convolve; a gate may weigh the channels."""

    def __init__(
        self, inputs: int, skip: int, outputs: int, sizes: SplitNetSizes
    ) -> None:
        super().__init__()
        self.up: nn.Module
        if sizes.up == "transposed":
            self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
            inputs = outputs
        else:
            self.up = nn.Upsample(scale_factor=2, mode=sizes.up)
        self.merge = ConvBlock(inputs + skip, outputs, norm=sizes.norm)
        self.residuals = Residuals(outputs, sizes)

    @override
    def forward(
        self, x: torch.Tensor, skip: torch.Tensor, gate: Gate | None = None
    ) -> torch.Tensor:
        """From ``(N, inputs, H, W)`` to ``(N, outputs, 2H, 2W)``."""
        x = self.merge(torch.cat([skip, self.up(x)], dim=1))
        if gate is not None:
            x = x * gate(spatial_mean(x))
        joined: torch.Tensor = self.residuals(x)
        return joined


class Encoder(nn.ModuleList):
    """Per level a convolution and residual ones, with pooling in between."""

    def __init__(self, inputs: int, widths: list[int], sizes: SplitNetSizes) -> None:
        super().__init__(
            nn.Sequential(ConvBlock(a, b, norm=sizes.norm), Residuals(b, sizes))
            for a, b in itertools.pairwise([inputs, *widths])
        )

    @override
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features of every level, the finest first."""
        features: list[torch.Tensor] = []
        for index, stage in enumerate(self):
            features.append(stage(functional.max_pool2d(x, 2) if index else x))
            x = features[-1]
        return features


class MaskAttention(nn.Module):
    """Treat what lies under the mark and what does not differently.

    Outside the mask the features pass a channel gate; inside they pass another
    and a small block, which adds to a third gate's. The mask stays soft, so that
    a gradient passes through it, and is smoothed over 5x5 cells.
    """

    kernel: torch.Tensor

    def __init__(self, channels: int, sizes: SplitNetSizes) -> None:
        super().__init__()
        self.outside = Gate(channels, sizes.reduction)
        self.inside = Gate(channels, sizes.reduction)
        self.second = Gate(channels, sizes.reduction)
        self.block = nn.Sequential(
            ConvBlock(channels, 2 * channels, norm=sizes.norm),
            ConvBlock(2 * channels, channels, norm=sizes.norm),
        )
        line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # binomial, near Gaussian
        kernel = line[:, None] * line
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    @override
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`mask` is ``(N, 1, H, W)``, at least as large as the features."""
        mask = functional.adaptive_avg_pool2d(mask, (x.shape[-2], x.shape[-1]))
        mask = functional.pad(mask, (2, 2, 2, 2), mode="replicate")
        mask = functional.conv2d(mask, self.kernel.to(mask.dtype))
        mean = spatial_mean(x)
        inside: torch.Tensor = self.block(x * self.inside(mean))
        outside, second = self.outside(mean), self.second(mean)
        # (1 - M)·outside·x + M·(block + second·x), with the gates joined first.
        gate: torch.Tensor = outside + mask * (second - outside)
        return x * gate + mask * inside
