"""Architectures of our own, registered with timm under names starting ``miad_``.

Importing this module is what registers them; a model card then names them like
any other timm model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override

from engine.errors import ModelError
from engine.models.compat import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402
from timm.models import register_model  # noqa: E402
from timm.models.densenet import DenseNet  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

from engine.models import small_cnns  # noqa: E402


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a direct path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(width, width, stride=1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.act = nn.GELU()

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = self.act(x + self.body(x))
        return summed


def _conv(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    ]


class ConvStem(nn.Module):
    """Patch embedding by 3x3 convolutions, four of them of stride 2 (16 in all).

    Early convolutions let a transformer learn from few images (Xiao et al.,
    "Early convolutions help transformers see better", 2021). It has the
    interface of timm's ``PatchEmbed``: ``(N, 3, H, W)`` to ``(N, H/16 * W/16,
    embed_dim)``.
    """

    def __init__(
        self,
        img_size: int = 128,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        **_: object,
    ) -> None:
        super().__init__()
        if patch_size != 16 or img_size % 16:
            raise ValueError(f"image side {img_size} must be a multiple of 16")
        self.patch_size = (16, 16)
        self.grid_size = (img_size // 16, img_size // 16)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        first, second, third = embed_dim // 6, embed_dim // 3, embed_dim * 2 // 3
        self.proj = nn.Sequential(
            *_conv(in_chans, first, stride=2),
            *_conv(first, second, stride=2),
            _Residual(second),
            *_conv(second, third, stride=2),
            _Residual(third),
            *_conv(third, embed_dim, stride=2),
            nn.Conv2d(embed_dim, embed_dim, 1),
        )

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed ``(N, 3, H, W)`` as ``(N, tokens, embed_dim)``."""
        tokens: torch.Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


@register_model
def miad_conv_vit_tiny(pretrained: bool = False, **kwargs: object) -> VisionTransformer:
    """ViT of width 192 and depth 6 behind a convolutional stem, average-pooled."""
    own = _own_arguments("miad_conv_vit_tiny", pretrained, kwargs)
    settings: dict[str, Any] = {
        "img_size": 128,
        "patch_size": 16,
        "embed_dim": 192,
        "depth": 6,
        "num_heads": 3,
        "mlp_ratio": 4.0,
        "class_token": False,
        "global_pool": "avg",
        "embed_layer": ConvStem,
    }
    return VisionTransformer(**(settings | own))


@register_model
def miad_vgg_tiny(pretrained: bool = False, **kwargs: object) -> small_cnns.SmallNet:
    """VGG of nine 3x3 convolutions in five stages; see `small_cnns.vgg`."""
    own = _own_arguments("miad_vgg_tiny", pretrained, kwargs)
    return small_cnns.vgg(own.pop("num_classes", 1000), **own)


@register_model
def miad_densenet_tiny(pretrained: bool = False, **kwargs: object) -> DenseNet:
    """DenseNet of three dense blocks; see `small_cnns.densenet`."""
    own = _own_arguments("miad_densenet_tiny", pretrained, kwargs)
    return small_cnns.densenet(own.pop("num_classes", 1000), **own)


@register_model
def miad_inception_tiny(
    pretrained: bool = False, **kwargs: object
) -> small_cnns.SmallNet:
    """Inception v3 with one or two blocks of each kind; see `small_cnns.inception`."""
    own = _own_arguments("miad_inception_tiny", pretrained, kwargs)
    return small_cnns.inception(own.pop("num_classes", 1000), **own)


def _own_arguments(
    name: str, pretrained: bool, given: dict[str, object]
) -> dict[str, Any]:
    """Drop what timm passes to every model on its own account."""
    if pretrained:
        raise ValueError(f"{name} has no published weights")
    timms = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {key: value for key, value in given.items() if key not in timms}


def create(name: str, classes: int, arguments: dict[str, Any]) -> nn.Module:
    """Untrained timm model `name` with `classes` outputs.

    Raises
    ------
    ModelError
        If timm knows no such model or refuses the arguments.
    """
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, **arguments
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"architecture {name!r} with {arguments}: {error}; "
            "see `timm.list_models()` for the names"
        ) from error
    return model
