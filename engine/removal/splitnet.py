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
from typing import Self

import torch
from torch import nn
from typing_extensions import override

from engine.removal.network import Removal, RemovalNetwork, changed, fold, unfold
from engine.removal.resunet import (
    Encoder,
    Gate,
    MaskAttention,
    SplitNetSizes,
    UpBlock,
)

TASKS = ("image", "mask", "watermark")
ATTENTIONS = 3
"""Up-blocks of the refinement with mask-guided attention, the last ones."""


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
