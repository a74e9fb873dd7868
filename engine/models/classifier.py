"""One diagnosis classifier: resize, normalise, backbone, logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional
from typing_extensions import override

from engine.errors import ModelError
from engine.models import architectures
from engine.models.card import ModelCard, digest, read_card
from engine.models.compat import channels_last

Reshape = Callable[[torch.Tensor], torch.Tensor]
"""From a transformer's tokens ``(N, tokens, D)`` to maps ``(N, D, h, w)``."""

_CAM_STAGE: Final = {"efficientnet": "blocks.4", "mobilenetv3": "blocks.4"}


def resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """Resample ``(N, C, H, W)`` to `side` by `side`, bilinear, differentiable.

    Antialiased when it shrinks, so that every input pixel counts and gets a
    gradient.
    """
    if tuple(x.shape[-2:]) == (side, side):
        return x
    shrinks = x.shape[-2] > side or x.shape[-1] > side
    return functional.interpolate(
        x, size=(side, side), mode="bilinear", align_corners=False, antialias=shrinks
    )


class Classifier(nn.Module):
    """A trained backbone that takes images of any size.

    Attributes
    ----------
    name, family
        From the card, e.g. ``resnet`` and ``residual CNN``.
    labels
        Class names in the order of the logits.
    input_size
        Side of the square the backbone sees, in pixels.
    """

    def __init__(self, backbone: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.backbone = backbone
        self.card = card
        self.name = card.name
        self.family = card.family
        self.labels = card.labels
        self.input_size = card.input_size
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for key, value in (("mean", card.mean), ("std", card.std)):
            tensor = torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(key, tensor, persistent=False)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """Turn into what the backbone sees ``(N, 3, H, W)`` in [0, 1].

        Returns
        -------
        torch.Tensor
            ``(N, 3, input_size, input_size)`` normalised, channels last.
        """
        seen = (resize(x, self.input_size) - self.mean) / self.std
        return seen.contiguous(memory_format=torch.channels_last)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images.

        Parameters
        ----------
        x
            ``(N, 3, H, W)`` float in [0, 1], of any height and width.

        Returns
        -------
        torch.Tensor
            ``(N, C)``, one column per label.
        """
        return cast("torch.Tensor", self.backbone(self.prepare(x)))

    def probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """Softmax of the logits, ``(N, C)``, of ``(N, 3, H, W)``."""
        return self.forward(x).softmax(dim=1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features before the last layer, ``(N, D)``, of ``(N, 3, H, W)``."""
        backbone = cast("Any", self.backbone)
        maps = backbone.forward_features(self.prepare(x))
        return cast("torch.Tensor", backbone.forward_head(maps, pre_logits=True))

    @property
    def cam_target_layers(self) -> list[nn.Module]:
        """Layers whose output Grad-CAM weighs: the deepest with a usable grid.

        The last convolutions of a mobile CNN see a 4x4 grid at 128 pixels, too
        coarse for a box, so the last stage of stride 16 stands in for them.
        """
        backbone = cast("Any", self.backbone)
        if hasattr(backbone, "patch_embed"):
            return [cast("nn.Module", backbone.blocks[-1].norm1)]
        for prefix, path in _CAM_STAGE.items():
            if prefix in self.card.architecture:
                return [self.backbone.get_submodule(path)]
        return [_before_pooling(self.backbone, backbone.feature_info[-1]["module"])]

    @property
    def cam_reshape(self) -> Reshape | None:
        """Tokens to maps for a transformer; None for a CNN."""
        backbone = cast("Any", self.backbone)
        if not hasattr(backbone, "patch_embed"):
            return None
        rows, columns = backbone.patch_embed.grid_size
        prefix = int(backbone.num_prefix_tokens)

        def reshape(tokens: torch.Tensor) -> torch.Tensor:
            maps = tokens[:, prefix:].transpose(1, 2)
            return maps.reshape(maps.shape[0], maps.shape[1], rows, columns)

        return reshape


def _before_pooling(backbone: nn.Module, path: str) -> nn.Module:
    """Take the layer at `path`, or the one before it where that only pools.

    timm names the last max-pool of a VGG; the maps before it are twice as fine.
    """
    layer = backbone.get_submodule(path)
    parent, _, index = path.rpartition(".")
    if isinstance(layer, nn.MaxPool2d) and index.isdigit() and int(index) > 0:
        return backbone.get_submodule(f"{parent}.{int(index) - 1}")
    return layer


def build_backbone(
    architecture: str, classes: int, arguments: dict[str, Any] | None = None
) -> nn.Module:
    """Untrained timm backbone with `classes` outputs.

    Raises
    ------
    ModelError
        If timm knows no such architecture or refuses the arguments.
    """
    return architectures.create(architecture, classes, arguments or {})


def save_classifier(model: Classifier, directory: Path) -> ModelCard:
    """Write ``NAME.safetensors`` (fp16) and ``NAME.json`` into `directory`.

    Returns
    -------
    ModelCard
        The card as written, with the digest of the weights file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.backbone.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    weights = directory / f"{model.name}.safetensors"
    weights.write_bytes(save(tensors))
    card = model.card.with_digest(digest(weights))
    card.write(directory / f"{model.name}.json")
    return card


def load_classifier(path: Path, device: str | torch.device = "cpu") -> Classifier:
    """Load a classifier from its card.

    Parameters
    ----------
    path
        The card ``NAME.json``, the same without suffix, or a directory that
        holds exactly one card.

    Returns
    -------
    Classifier
        float32, in evaluation mode, without parameter gradients.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the weights do not fit the card.
    """
    card_file, card = read_card(path)
    backbone = build_backbone(
        card.architecture, len(card.labels), card.architecture_arguments
    )
    weights = card_file.with_suffix(".safetensors")
    load_weights(backbone, weights)
    model = Classifier(backbone, card).eval()
    model.requires_grad_(requires_grad=False)
    channels_last(model)
    return model.to(device)


def load_weights(module: nn.Module, weights: Path) -> None:
    """Load fp16 safetensors into a float32 module.

    Raises
    ------
    ModelError
        If the file is unreadable, its tensors do not fit, or one of them holds a
        value that is not a finite number.
    """
    try:
        tensors = {k: v.float() for k, v in load_file(weights).items()}
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except Exception as error:
        raise ModelError(
            f"{weights}: does not hold the weights its card describes ({error}); "
            "install the package again or train the model again"
        ) from error
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ModelError(
            f"{weights}: {len(missing)} tensors missing and {len(unexpected)} unknown "
            f"({', '.join([*missing, *unexpected][:3])}); the card names another "
            "architecture than the weights were made with"
        )
    broken = [k for k, v in tensors.items() if not bool(v.isfinite().all())]
    if broken:
        raise ModelError(
            f"{weights}: {len(broken)} tensor(s) with NaN or infinity, first "
            f"{broken[0]}; a training that diverged: train again with a smaller "
            "learning rate"
        )
