"""The six families of the paper: at full size, and small enough for a CPU.

``paper:KEY`` names a network of the paper at its native input size and
normalisation, to be trained from weights that a file supplies or from scratch on
a GPU. ``small:KEY`` names the member of the same family the package ships.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from engine.errors import ModelError
from engine.models.recipe import TrainParams

Triple = tuple[float, float, float]

_IMAGENET: Final[tuple[Triple, Triple]] = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)
_HALF: Final[tuple[Triple, Triple]] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One network of one family, ready to be trained.

    Attributes
    ----------
    key
        ``paper:`` or ``small:`` and a name, e.g. ``paper:resnet50``.
    family
        In words, for the model card.
    architecture, arguments
        timm model name, and keyword arguments it is built with.
    input_size
        Side in pixels of the square the network sees.
    mean, std
        Per-channel normalisation of images in [0, 1].
    """

    key: str
    family: str
    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)
    input_size: int
    mean: Triple
    std: Triple

    @property
    def name(self) -> str:
        """The key without its size, which names a model by default."""
        return self.key.partition(":")[2]


def _paper(
    name: str,
    family: str,
    architecture: str,
    input_size: int = 224,
    normalisation: tuple[Triple, Triple] = _IMAGENET,
) -> Preset:
    mean, std = normalisation
    return Preset(
        key=f"paper:{name}",
        family=family,
        architecture=architecture,
        input_size=input_size,
        mean=mean,
        std=std,
    )


def _small(
    name: str,
    family: str,
    architecture: str,
    input_size: int = 128,
    arguments: dict[str, Any] | None = None,
) -> Preset:
    mean, std = _HALF
    return Preset(
        key=f"small:{name}",
        family=family,
        architecture=architecture,
        arguments=arguments or {},
        input_size=input_size,
        mean=mean,
        std=std,
    )


PRESETS: Final[tuple[Preset, ...]] = (
    _paper("resnet50", "residual CNN", "resnet50"),
    _paper("vgg16", "VGG", "vgg16"),
    _paper("inceptionv3", "Inception", "inception_v3", 299, _HALF),
    _paper("mobilenetv3", "mobile CNN", "mobilenetv3_large_100"),
    _paper("densenet121", "DenseNet", "densenet121"),
    _paper("vit", "ViT", "vit_base_patch16_224", 224, _HALF),
    _small(
        "resnet",
        "residual CNN",
        "resnet10t",
        arguments={"output_stride": 16, "channels": [64, 128, 256, 384]},
    ),
    _small("vgg", "VGG", "miad_vgg_tiny"),
    _small("inception", "Inception", "miad_inception_tiny", 144),
    _small("mobile", "mobile CNN", "tf_efficientnet_lite0"),
    _small("densenet", "DenseNet", "miad_densenet_tiny"),
    _small(
        "vit",
        "ViT",
        "miad_conv_vit_tiny",
        arguments={"img_size": 128, "drop_path_rate": 0.05},
    ),
)
"""Every preset: first the paper's (normalised as their published weights want)."""


def find_preset(architecture: str) -> Preset | None:
    """Look up ``paper:KEY`` or ``small:KEY``; None for a plain timm name.

    Raises
    ------
    ModelError
        If the name has a colon but is no preset.
    """
    for preset in PRESETS:
        if preset.key == architecture:
            return preset
    if ":" in architecture:
        raise ModelError(
            f"{architecture!r}: no such preset; there are "
            f"{', '.join(preset.key for preset in PRESETS)}"
        )
    return None


def params_for(
    architecture: str,
    *,
    name: str = "",
    family: str = "",
    input_size: int | None = None,
) -> TrainParams:
    """Training parameters of a preset, or of any timm architecture.

    Parameters
    ----------
    architecture
        ``paper:KEY``, ``small:KEY``, or a timm model name.
    name, family
        For the card; empty for those of the preset, or the timm name.
    input_size
        Side in pixels; None for that of the preset, or 128.

    Raises
    ------
    ModelError
        If the name has a colon but is no preset.
    InvalidParameter
        If the name or the size cannot be used.
    """
    preset = find_preset(architecture)
    if preset is None:
        return TrainParams(
            name=name or architecture,
            family=family or architecture,
            architecture=architecture,
            input_size=128 if input_size is None else input_size,
        )
    return TrainParams(
        name=name or preset.name,
        family=family or preset.family,
        architecture=preset.architecture,
        arguments=_arguments_at(preset, input_size),
        input_size=preset.input_size if input_size is None else input_size,
        mean=preset.mean,
        std=preset.std,
    )


def _arguments_at(preset: Preset, input_size: int | None) -> dict[str, Any]:
    """Tell a network that must know its input size which one it is."""
    sized = "img_size" in preset.arguments or preset.family == "ViT"
    if input_size is None or not sized:
        return dict(preset.arguments)
    return preset.arguments | {"img_size": input_size}
