"""A watermark remover after WDNet, written from the published facts.

It predicts where a mark is (mask M), how opaque (α) and what colours it has
(W), takes it off by the inverse of blending, and repairs what is left (Liu,
Zhu, Bai, "WDNet: Watermark-Decomposition Network for Visible Watermark
Removal", WACV 2021).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from engine.removal.network import (
    SLOPE,
    ConvBlock,
    Fold,
    Removal,
    RemovalNetwork,
    changed,
    check_choice,
    double,
    fold,
    unfold,
)

Repair = Literal["residual", "sigmoid"]
Smooth = Literal["nearest", "bilinear"]

CHANNELS = 3 + 1 + 1
"""Per pixel: colours, opacity and mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WDNetSizes:
    """How large a `WDNet` is; the defaults are the shipped small one's.

    Attributes
    ----------
    width, cap
        Channels of the first level; they double per level up to `cap` times that.
    levels
        How often the grid is halved.
    taper
        Whether an up-block gives half the channels of the skip it joins, as
        published, or as many.
    dilations
        Dilations of the convolutions at the coarsest level.
    other
        Free feature channels handed to the refinement.
    refine, blocks
        Channels of the refinement and number of its residual blocks.
    repair
        What the refinement gives: a "residual" on the analytic inverse, or as
        published the image itself, as a "sigmoid".
    fold
        2 folds two by two pixels into channels first, so that no convolution
        runs at full resolution; 1 is the published full resolution.
    up
        How up-blocks enlarge.
    alpha_max
        Highest opacity the network can predict: beyond it nothing shows through.
    margin
        How far the analytic inverse may leave [0, 1] before it is clipped, and
        gradients with it.
    """

    width: int = 16
    cap: int = 4
    levels: int = 4
    taper: bool = False
    dilations: tuple[int, ...] = (1, 2, 4)
    other: int = 8
    refine: int = 16
    blocks: int = 2
    repair: Repair = "residual"
    fold: Fold = 2
    up: Smooth = "nearest"
    alpha_max: float = 0.95
    margin: float = 0.5

    def __post_init__(self) -> None:
        check_choice("repair", self.repair, get_args(Repair))
        check_choice("up", self.up, get_args(Smooth))
        check_choice("fold", self.fold, get_args(Fold))

    @classmethod
    def paper(cls) -> Self:
        """Give the published sizes."""
        return cls(
            width=64,
            cap=8,
            taper=True,
            dilations=(2, 4, 6),
            other=64,
            refine=128,
            blocks=3,
            repair="sigmoid",
            fold=1,
            up="bilinear",
            alpha_max=1 - 1e-6,
            margin=0.0,
        )


class _Residual(nn.Module):
    """Refinement to a residual: blocks of two convolutions that add."""

    def __init__(self, inputs: int, outputs: int, sizes: WDNetSizes) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, sizes.refine)
        self.blocks = nn.ModuleList(
            double(sizes.refine, sizes.refine) for _ in range(sizes.blocks)
        )
        self.last = nn.Conv2d(sizes.refine, outputs, 3, padding=1)
        # From zero: untrained, the network is the analytic inverse.
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        residual: torch.Tensor = self.last(x)
        return residual


class _Whole(nn.Module):
    """Refinement to the image before its sigmoid, as published."""

    def __init__(self, inputs: int, outputs: int, sizes: WDNetSizes) -> None:
        super().__init__()
        half, full = sizes.refine // 2, sizes.refine
        self.first = nn.Sequential(
            ConvBlock(inputs, half), nn.Conv2d(half, full, 3, padding=1)
        )
        self.blocks = nn.ModuleList(_before(full, full) for _ in range(sizes.blocks))
        self.last = _before(full, outputs)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        whole: torch.Tensor = self.last(x)
        return whole


def _before(inputs: int, outputs: int) -> nn.Sequential:
    """Norm and activation before the convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(inputs, outputs, 3, padding=1),
    )


class WDNet(RemovalNetwork):
    """Watermark decomposition, fully convolutional.

    ``WDNet(WDNetSizes.paper())`` has the published structure and size (21.0 M
    parameters). It differs in that the U-Net's activations are leaky too.

    Parameters
    ----------
    sizes
        How large; None for the shipped small one's.
    **changes
        Fields of `WDNetSizes` to change.
    """

    def __init__(self, sizes: WDNetSizes | None = None, **changes: object) -> None:
        super().__init__()
        sizes = changed(sizes or WDNetSizes(), changes)
        self.sizes = sizes
        self.multiple = sizes.fold * 2**sizes.levels
        cells = sizes.fold**2
        widths = [sizes.width * min(2**i, sizes.cap) for i in range(sizes.levels + 1)]
        self.encoder = nn.ModuleList(
            double(a, b) for a, b in itertools.pairwise([3 * cells, *widths])
        )
        last = widths[-1]
        self.bottleneck = nn.Sequential(
            *(ConvBlock(last, last, d) for d in sizes.dilations)
        )
        self.decoder = nn.ModuleList()
        for skip in widths[-2::-1]:
            # Tapering stops at the first level's width.
            given = max(skip // 2, sizes.width) if sizes.taper else skip
            self.decoder.append(double(last + skip, given))
            last = given
        self.heads = nn.Conv2d(last, CHANNELS * cells + sizes.other, 1)
        refinement = _Residual if sizes.repair == "residual" else _Whole
        self.refine = refinement(sizes.other + 2 * 3 * cells, 3 * cells, sizes)

    @classmethod
    def paper(cls) -> Self:
        """Give the network at its published size."""
        return cls(WDNetSizes.paper())

    @override
    def encoder_parts(self) -> tuple[nn.Module, ...]:
        return (self.encoder, self.bottleneck)

    @override
    def _remove(self, x: torch.Tensor) -> Removal:
        sizes = self.sizes
        folded = fold(x, sizes.fold)
        found = self.heads(self._features(folded))
        # float32 under autocast too: half precision would cost grey levels.
        maps = torch.sigmoid(unfold(found[:, sizes.other :].float(), sizes.fold))
        watermark, alpha, mask = maps[:, :3], maps[:, 3:4], maps[:, 4:]
        opacity = sizes.alpha_max * mask * alpha
        plain = unblend(x, watermark, opacity)
        plain = plain.clamp(-sizes.margin, 1 + sizes.margin)
        repaired = self._repair(found[:, : sizes.other], plain, folded)
        return Removal(
            image=repaired * mask + (1 - mask) * x,
            mask=mask,
            alpha=opacity,
            watermark=watermark,
            coarse=plain,
        )

    def _features(self, folded: torch.Tensor) -> torch.Tensor:
        skips = [self.encoder[0](folded)]
        for stage in self.encoder[1:]:
            skips.append(stage(functional.max_pool2d(skips[-1], 2)))
        features: torch.Tensor = self.bottleneck(skips.pop())
        for stage in self.decoder:
            larger = functional.interpolate(
                features, scale_factor=2.0, mode=self.sizes.up
            )
            features = stage(torch.cat([skips.pop(), larger], dim=1))
        return features

    def _repair(
        self, other: torch.Tensor, plain: torch.Tensor, folded: torch.Tensor
    ) -> torch.Tensor:
        if self.sizes.repair == "sigmoid":
            other = torch.sigmoid(other)
        given = torch.cat([other, fold(plain, self.sizes.fold), folded], dim=1)
        repair = unfold(self.refine(given).float(), self.sizes.fold)
        return (
            torch.sigmoid(repair) if self.sizes.repair == "sigmoid" else plain + repair
        )


def unblend(
    marked: torch.Tensor, watermark: torch.Tensor, opacity: torch.Tensor
) -> torch.Tensor:
    """Invert the blending of Eq. 6: the host under a mark known exactly.

    Parameters
    ----------
    marked, watermark
        ``(N, 3, H, W)``; the colours are not premultiplied.
    opacity
        ``(N, 1, H, W)`` in [0, 1).
    """
    return (marked - opacity * watermark) / (1 - opacity)
