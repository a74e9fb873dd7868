"""What every removal network is made of and gives back."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self, TypeVar, get_args

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from typing_extensions import override

Norm = Literal["batch", "instance"]
Up = Literal["nearest", "bilinear", "transposed"]
Fold = Literal[1, 2, 4]

S = TypeVar("S")

SLOPE = 0.2
"""Of the leaky ReLUs below zero."""


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
        ``(N, 3, H, W)``: its colours, of use only inside the mask.
    coarse
        ``(N, 3, H, W)``: the first of the two stages, of use only inside the
        mask; None if there is but one stage.
    """

    image: torch.Tensor
    mask: torch.Tensor
    alpha: torch.Tensor
    watermark: torch.Tensor
    coarse: torch.Tensor | None = None


class ConvBlock(nn.Sequential):
    """3x3 convolution, norm, leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, dilation: int = 1, norm: Norm = "batch"
    ) -> None:
        super().__init__(
            nn.Conv2d(
                inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False
            ),
            make_norm(norm, outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
        )

    def fuse(self) -> None:
        """Fold a batch norm into the convolution, for evaluation only."""
        convolution, norm = self[0], self[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0] = fuse_conv_bn_eval(convolution, norm)
            self[1] = nn.Identity()


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Give a batch norm, or an instance norm with scale and shift.

    Raises
    ------
    ValueError
        If `norm` is neither "batch" nor "instance".
    """
    check_choice("norm", norm, get_args(Norm))
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels, affine=True)


def check_choice(name: str, value: object, known: tuple[object, ...]) -> None:
    """Refuse a value that is none of the known ones, with ValueError."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: known are {', '.join(map(str, known))}")


def changed(sizes: S, changes: Mapping[str, object]) -> S:
    """Copy a frozen class of sizes with some fields changed, named at run time.

    Raises
    ------
    TypeError
        If a field is unknown.
    """
    known = {f.name: getattr(sizes, f.name) for f in dataclasses.fields(sizes)}  # type: ignore[arg-type]
    values: dict[str, Any] = {**known, **changes}
    return type(sizes)(**values)


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolution blocks."""
    return nn.Sequential(ConvBlock(inputs, outputs), ConvBlock(outputs, outputs))


def fold(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Fold `factor` by `factor` pixels into channels; exact."""
    return functional.pixel_unshuffle(x, factor) if factor > 1 else x


def unfold(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Invert `fold`."""
    return functional.pixel_shuffle(x, factor) if factor > 1 else x


class RemovalNetwork(nn.Module, ABC):
    """A removal network for images of any size.

    Attributes
    ----------
    multiple
        Sides the network itself takes are multiples of this; other images are
        padded by repeating their edge, and cut again.
    """

    multiple: int

    @override
    def forward(self, x: torch.Tensor) -> Removal:
        """Remove the mark from ``(N, 3, H, W)`` in [0, 1], any height and width."""
        rows, columns = x.shape[-2:]
        # Two cells at the coarsest level at least: a norm over one has no variance.
        pad = [
            max(2 * self.multiple - side, -side % self.multiple)
            for side in (columns, rows)
        ]
        if any(pad):
            x = functional.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")
        found = self._remove(x.contiguous(memory_format=torch.channels_last))
        if not any(pad):
            return found
        return Removal(
            image=found.image[..., :rows, :columns],
            mask=found.mask[..., :rows, :columns],
            alpha=found.alpha[..., :rows, :columns],
            watermark=found.watermark[..., :rows, :columns],
            coarse=None if found.coarse is None else found.coarse[..., :rows, :columns],
        )

    @abstractmethod
    def _remove(self, x: torch.Tensor) -> Removal:
        """Remove the mark from images whose sides are multiples of `multiple`."""

    @abstractmethod
    def encoder_parts(self) -> tuple[nn.Module, ...]:
        """List what Eq. 2 keeps frozen: everything before the decoders."""

    def fuse(self) -> Self:
        """Fold every batch norm into its convolution; evaluation only."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fuse()
        return self
