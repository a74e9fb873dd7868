"""A small watermark remover after WDNet, written from the published facts.

It predicts where a mark is (mask M), how opaque (α) and what colours it has
(W), takes it off by the inverse of blending, and repairs what is left (Liu,
Zhu, Bai, "WDNet: watermark-decomposition network", 2021). Differences, all for
speed and for gradients: two by two pixels are folded into channels first, so
that no convolution runs at full resolution; masks stay soft everywhere; the
result is not clipped, so that a gradient reaches every pixel.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from typing_extensions import override

ALPHA_MAX = 0.95
"""Highest opacity the network can predict: beyond it nothing shows through."""


class Removal(NamedTuple):
    """What a remover makes of ``(N, 3, H, W)`` images in [0, 1].

    Attributes
    ----------
    image
        ``(N, 3, H, W)`` with the mark removed; close to [0, 1], not clipped.
    mask
        ``(N, 1, H, W)`` in [0, 1]: where a mark is.
    alpha
        ``(N, 1, H, W)`` in [0, 1]: its opacity.
    watermark
        ``(N, 3, H, W)`` in [0, 1]: its colours.
    """

    image: torch.Tensor
    mask: torch.Tensor
    alpha: torch.Tensor
    watermark: torch.Tensor


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(
                inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False
            ),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def fuse(self) -> None:
        """Fold the batch norm into the convolution, for evaluation only."""
        convolution, norm = self[0], self[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0] = fuse_conv_bn_eval(convolution, norm)
            self[1] = nn.Identity()


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(inputs, outputs), ConvBlock(outputs, outputs))


def _colour_opacity_mask(
    maps: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values = torch.sigmoid(maps)
    return values[:, :3], values[:, 3:4], values[:, 4:]


class WDNet(nn.Module):
    """Mini WDNet, fully convolutional.

    Parameters
    ----------
    width
        Channels at half resolution; they double per level up to four times that.
    levels
        How often the grid is halved after the first folding.
    dilations
        Dilations of the convolutions at the coarsest level.
    other
        Free feature channels handed to the refinement.
    refine
        Channels of the refinement; it has two residual blocks.
    """

    def __init__(
        self,
        *,
        width: int = 16,
        levels: int = 4,
        dilations: tuple[int, ...] = (1, 2, 4),
        other: int = 8,
        refine: int = 16,
    ) -> None:
        super().__init__()
        widths = [min(width * 2**i, width * 4) for i in range(levels + 1)]
        self.multiple = 2 ** (levels + 1)
        self.other = other
        self.encoder = nn.ModuleList([_double(12, widths[0])])
        for a, b in itertools.pairwise(widths):
            self.encoder.append(_double(a, b))
        last = widths[-1]
        self.bottleneck = nn.Sequential(*(ConvBlock(last, last, d) for d in dilations))
        self.decoder = nn.ModuleList(
            _double(a + b, a)
            for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.heads = nn.Conv2d(widths[0], 4 * (3 + 1 + 1) + other, 1)
        self.refine_in = ConvBlock(24 + other, refine)
        self.refine_blocks = nn.ModuleList(_double(refine, refine) for _ in range(2))
        self.refine_out = nn.Conv2d(refine, 12, 3, padding=1)
        nn.init.zeros_(self.refine_out.weight)
        assert self.refine_out.bias is not None
        nn.init.zeros_(self.refine_out.bias)

    @override
    def forward(self, x: torch.Tensor) -> Removal:
        """Remove the mark from ``(N, 3, H, W)`` in [0, 1], any height and width."""
        rows, columns = x.shape[-2:]
        pad = (-columns % self.multiple, -rows % self.multiple)
        if any(pad):
            x = functional.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")
        found = self._remove(x.contiguous(memory_format=torch.channels_last))
        return Removal(*(part[..., :rows, :columns] for part in found))

    def _remove(self, x: torch.Tensor) -> Removal:
        folded = functional.pixel_unshuffle(x, 2)
        found = self.heads(self._features(folded))
        # float32 under autocast too: half precision would cost grey levels.
        maps = functional.pixel_shuffle(found[:, self.other :].float(), 2)
        watermark, alpha, mask = _colour_opacity_mask(maps)
        opacity = ALPHA_MAX * mask * alpha
        plain = (x - opacity * watermark) / (1 - opacity)
        plain = plain.clamp(-0.5, 1.5)
        repair = self._refine(
            found[:, : self.other], functional.pixel_unshuffle(plain, 2), folded
        ).float()
        image = (plain + repair) * mask + (1 - mask) * x
        return Removal(image=image, mask=mask, alpha=opacity, watermark=watermark)

    def _features(self, folded: torch.Tensor) -> torch.Tensor:
        skips = [self.encoder[0](folded)]
        for stage in self.encoder[1:]:
            skips.append(stage(functional.max_pool2d(skips[-1], 2)))
        features: torch.Tensor = self.bottleneck(skips.pop())
        for stage in self.decoder:
            larger = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = stage(torch.cat([skips.pop(), larger], dim=1))
        return features

    def _refine(
        self, other: torch.Tensor, plain: torch.Tensor, folded: torch.Tensor
    ) -> torch.Tensor:
        features: torch.Tensor = self.refine_in(torch.cat([other, plain, folded], 1))
        for block in self.refine_blocks:
            features = features + block(features)
        return functional.pixel_shuffle(self.refine_out(features), 2)

    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """List what Eq. 2 keeps frozen: everything before the decoder."""
        return (self.encoder, self.bottleneck)

    def fuse(self) -> WDNet:
        """Fold every batch norm into its convolution; evaluation only."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fuse()
        return self
