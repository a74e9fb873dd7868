"""A watermark remover after "Split then Refine", from the published facts.

One encoder and one decoder are shared by three tasks (clean image, mask,
watermark), told apart by channel gates of their own; light branches finish each
task. The image they make inside the mask is refined by a second U-Net whose
attention treats marked and unmarked pixels differently (Cun & Pun, "Split then
Refine: Stacked Attention-guided ResUNets for Blind Single Image Visible
Watermark Removal", AAAI 2021).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Self, get_args

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from engine.removal.network import (
    ConvBlock,
    Fold,
    Norm,
    Removal,
    RemovalNetwork,
    Up,
    changed,
    check_choice,
    fold,
    unfold,
)

TASKS = ("image", "mask", "watermark")
ATTENTIONS = 3
"""Up-blocks of the refinement with mask-guided attention, the last ones."""


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


class RefineNet(nn.Module):
    """Second stage: a U-Net on the coarse image and the mask; gives a residual."""

    def __init__(self, sizes: SplitNetSizes) -> None:
        super().__init__()
        self.factor = sizes.fold
        widths = _widths(sizes.refine, sizes)
        self.encoder = Encoder(4 * sizes.fold**2, widths, sizes)
        self.decoder = nn.ModuleList(
            UpBlock(a, b, b, sizes) for a, b in itertools.pairwise(widths[::-1])
        )
        attended = widths[:-1][:ATTENTIONS][::-1]
        self.attentions = nn.ModuleList(MaskAttention(w, sizes) for w in attended)
        self.head = _zeroed(nn.Conv2d(widths[0], 3 * sizes.fold**2, 1))

    @override
    def forward(self, coarse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Residual ``(N, 3, H, W)`` in (-1, 1)."""
        skips = self.encoder(fold(torch.cat([coarse, mask], dim=1), self.factor))
        x = skips.pop()
        plain = len(self.decoder) - len(self.attentions)
        for index, block in enumerate(self.decoder):
            x = block(x, skips.pop())
            if index >= plain:
                x = self.attentions[index - plain](x, mask)
        return torch.tanh(unfold(self.head(x).float(), self.factor))


class SplitNet(RemovalNetwork):
    """Split then refine, fully convolutional.

    ``SplitNet(SplitNetSizes.paper())`` has the published structure and size
    (32.6 M parameters: encoder 11.0, shared decoder 4.4, branches 0.27 each,
    refinement 16.4). It differs where the published text leaves a choice: every
    norm is the one asked for with its usual epsilon, activations are leaky, each
    residual adds after its activation, the mask is never rounded, and opacity
    (which the published network does not predict) is derived from the result.

    Parameters
    ----------
    sizes
        How large; None for the shipped small one's.
    **changes
        Fields of `SplitNetSizes` to change.
    """

    def __init__(self, sizes: SplitNetSizes | None = None, **changes: object) -> None:
        super().__init__()
        sizes = changed(sizes or SplitNetSizes(), changes)
        self.sizes = sizes
        widths = _widths(sizes.width, sizes)
        self.multiple = sizes.fold * 2 ** (sizes.levels - 1)
        self.encoder = Encoder(3 * sizes.fold**2, widths, sizes)
        steps = list(itertools.pairwise(widths[::-1]))
        shared, own = steps[: sizes.shared], steps[sizes.shared :]
        self.shared = nn.ModuleList(UpBlock(a, b, b, sizes) for a, b in shared)
        self.gates = nn.ModuleDict(
            {
                t: nn.ModuleList(Gate(b, sizes.reduction) for _, b in shared)
                for t in TASKS
            }
        )
        self.branches = nn.ModuleDict(
            {t: nn.ModuleList(UpBlock(a, b, b, sizes) for a, b in own) for t in TASKS}
        )
        cells = sizes.fold**2
        self.heads = nn.ModuleDict(
            {
                "image": _zeroed(nn.Conv2d(widths[0], 3 * cells, 1)),
                "mask": nn.Conv2d(widths[0], cells, 1),
                "watermark": _zeroed(nn.Conv2d(widths[0], 3 * cells, 1)),
            }
        )
        self.refine = RefineNet(sizes)

    @classmethod
    def paper(cls) -> Self:
        """Give the network at its published size."""
        return cls(SplitNetSizes.paper())

    @override
    def encoder_parts(self) -> tuple[nn.Module, ...]:
        return (self.encoder,)

    @override
    def _remove(self, x: torch.Tensor) -> Removal:
        features = self.encoder(fold(x, self.sizes.fold))
        maps = {task: self._decode(task, features) for task in TASKS}
        mask = torch.sigmoid(maps["mask"])
        watermark = x + torch.tanh(maps["watermark"])
        coarse = x + mask * torch.tanh(maps["image"])
        refined = coarse + self.refine(coarse, mask)
        image = x + mask * (refined - x)
        return Removal(
            image=image,
            mask=mask,
            alpha=mask * implied_opacity(x, image, watermark),
            watermark=watermark,
            coarse=coarse,
        )

    def _decode(self, task: str, features: list[torch.Tensor]) -> torch.Tensor:
        *skips, x = features
        # The branches have no gates; ModuleDict's typing knows only Module.
        gates = [*self.gates[task]] + [None] * len(self.branches[task])  # type: ignore[arg-type, misc]
        for block, gate in zip(
            [*self.shared, *self.branches[task]],  # type: ignore[misc]
            gates,
            strict=True,
        ):
            x = block(x, skips.pop(), gate)
        # float32 under autocast too: half precision would cost grey levels.
        return unfold(self.heads[task](x).float(), self.sizes.fold)


def implied_opacity(
    marked: torch.Tensor, host: torch.Tensor, watermark: torch.Tensor
) -> torch.Tensor:
    """Opacity that blends host and watermark into the marked image, per pixel.

    The least-squares solution of Eq. 6 over the colours, drawn to zero where
    host and watermark hardly differ.

    Parameters
    ----------
    marked, host, watermark
        ``(N, 3, H, W)``.

    Returns
    -------
    torch.Tensor
        ``(N, 1, H, W)`` in [0, 1].
    """
    toward = watermark - host
    share = ((marked - host) * toward).sum(1, keepdim=True)
    return (share / (toward.square().sum(1, keepdim=True) + 1e-2)).clamp(0, 1)


def _widths(first: int, sizes: SplitNetSizes) -> list[int]:
    return [first * min(2**level, sizes.cap) for level in range(sizes.levels)]


def _zeroed(convolution: nn.Conv2d) -> nn.Conv2d:
    """Start from zero, so that the untrained network changes nothing."""
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
