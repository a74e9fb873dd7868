"""Grad-CAM maps of classifiers (Eqs. 7 and 8), through ``grad-cam``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch

from engine.errors import InvalidFrame, InvalidParameter, ModelError
from engine.models.batches import in_batches
from engine.models.compat import ensure_torchvision

ensure_torchvision()

from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]  # noqa: E402
from pytorch_grad_cam.utils.model_targets import (  # type: ignore[import-untyped]  # noqa: E402
    ClassifierOutputTarget,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.models.classifier import Classifier

_BATCH: Final = 32
"""Images explained at once at first; fewer where memory runs out."""

_FLAT: Final = 1e-5
"""Share of its peak below which the range of a map is rounding, not a finding."""


class _SampledGradCAM(GradCAM):  # type: ignore[misc]
    """Grad-CAM over the share of channels with the largest weights ω.

    Gives cam = ReLU(Σ ω A) as it is; the library would scale it.
    """

    channel_rate = 1.0

    def get_cam_weights(self, *arguments: object) -> NDArray[np.float32]:
        """Weights ω of Eq. 7, zero for channels that are not sampled."""
        weights: NDArray[np.float32] = super().get_cam_weights(*arguments)
        return sampled(weights, self.channel_rate)

    def compute_cam_per_layer(self, *arguments: object) -> list[NDArray[np.float32]]:
        """Eq. 8 for every target layer, ``(N, h, w)`` each."""
        images, targets, _ = arguments
        seen = self.activations_and_grads
        return [
            np.maximum(
                self.get_cam_image(
                    images, layer, targets, activation.numpy(), gradient.numpy()
                ),
                0,
            )
            for layer, activation, gradient in zip(
                self.target_layers, seen.activations, seen.gradients, strict=True
            )
        ]

    def aggregate_multi_layers(
        self, cam_per_target_layer: list[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the maps of the only layer."""
        return cam_per_target_layer[0]


def sampled(weights: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    """Keep the ``ceil(rate * n)`` largest weights of each row, the others zero.

    Parameters
    ----------
    weights
        ``(N, n)``, signed; of equal ones the first is kept.
    rate
        The paper's r_ch, in (0, 1].
    """
    # The tiny term keeps a rate such as 0.1 of 30 channels at 3.
    kept = math.ceil(rate * weights.shape[1] - 1e-9)
    chosen = np.argsort(-weights, axis=1, kind="stable")[:, :kept]
    result = np.zeros_like(weights)
    np.put_along_axis(
        result, chosen, np.take_along_axis(weights, chosen, axis=1), axis=1
    )
    return result


def raw_maps(
    model: Classifier,
    images: torch.Tensor,
    labels: Sequence[int],
    *,
    channel_rate: float = 1.0,
) -> NDArray[np.float32]:
    """Where a classifier sees classes, at the size of its feature maps (Eq. 8).

    Parameters
    ----------
    model
        In evaluation mode.
    images
        ``(N, 3, H, W)`` float32 in [0, 1].
    labels
        Per image the index of the class whose logit is explained.
    channel_rate
        The paper's r_ch: share of channels kept, those of largest weight.

    Returns
    -------
    NDArray[np.float32]
        ``(N, h, w)``, ReLU of the weighted sum, not scaled.

    Raises
    ------
    InvalidFrame
        The images have another shape, or a pixel is no finite number.
    InvalidParameter
        There is not one label per image, or the model has no such class.
    ModelError
        The model names several layers to explain, or its maps are not finite.
    OutOfMemory
        Not even one image fits into the memory of the device.
    """
    _check(model, images, labels)
    if len(images) == 0:
        return np.zeros((0, 1, 1), dtype=np.float32)

    def explain(rows: torch.Tensor) -> torch.Tensor:
        chosen = [labels[row] for row in rows.tolist()]
        return torch.from_numpy(_explain(model, images[rows], chosen, channel_rate))

    rows = torch.arange(len(images), device=images.device)
    maps: NDArray[np.float32] = in_batches(explain, rows, _BATCH).numpy()
    if not np.isfinite(maps).all():
        raise ModelError(
            f"{model.name}: its activations or gradients are not finite numbers; "
            "the weights are damaged or the model has diverged"
        )
    return maps


def _explain(
    model: Classifier, images: torch.Tensor, labels: list[int], channel_rate: float
) -> NDArray[np.float32]:
    reshape = model.cam_reshape
    cam = _SampledGradCAM(
        model=model,
        target_layers=list(model.cam_target_layers),
        # A copy: the activation that follows may work in place.
        reshape_transform=reshape or torch.clone,
    )
    cam.channel_rate = channel_rate
    batch = images.detach().clone()
    # Weights are frozen: without this no gradient would be recorded.
    batch.requires_grad = True
    try:
        with torch.enable_grad():
            maps = cam(batch, [ClassifierOutputTarget(label) for label in labels])
    finally:
        cam.activations_and_grads.release()
    return np.asarray(maps, dtype=np.float32)


def _check(model: Classifier, images: torch.Tensor, labels: Sequence[int]) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise InvalidFrame(
            f"pictures of shape {tuple(images.shape)}: need (N, 3, rows, columns)"
        )
    if not bool(torch.isfinite(images).all()):
        raise InvalidFrame("a picture holds NaN or infinite pixels: nothing is found")
    classes = len(model.labels)
    if len(labels) != len(images) or any(not 0 <= n < classes for n in labels):
        raise InvalidParameter(
            f"{model.name}: labels {list(labels)[:4]} for {len(images)} pictures; "
            f"need one each of 0..{classes - 1}"
        )
    if len(model.cam_target_layers) != 1:
        raise ModelError(
            f"{model.name} names {len(model.cam_target_layers)} layers to explain: "
            "need one"
        )


def normalised(activation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Min-max to [0, 1], maximum exactly 1; all zero where the map is flat.

    Parameters
    ----------
    activation
        ``(h, w)`` float, not negative.
    """
    low, high = float(activation.min()), float(activation.max())
    if not high - low > _FLAT * high:
        return np.zeros(activation.shape, dtype=np.float32)
    above: NDArray[np.float32] = activation - np.float32(low)
    scaled: NDArray[np.float32] = above / above.max()
    return scaled


def enlarged(activation: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Resize a map bilinearly to ``(side, side)``, then `normalised`."""
    large = cv2.resize(
        normalised(activation), (side, side), interpolation=cv2.INTER_LINEAR
    )
    return normalised(np.asarray(large, dtype=np.float32))


def activation_maps(
    model: Classifier,
    images: torch.Tensor,
    labels: Sequence[int],
    *,
    channel_rate: float = 1.0,
) -> NDArray[np.float32]:
    """Where a classifier sees classes, at the size of the images.

    Parameters
    ----------
    model, labels, channel_rate
        As in `raw_maps`.
    images
        ``(N, 3, G, G)`` float32 in [0, 1].

    Returns
    -------
    NDArray[np.float32]
        ``(N, G, G)`` in [0, 1], maximum 1; all zero where a map is flat.
    """
    raw = raw_maps(model, images, labels, channel_rate=channel_rate)
    side = images.shape[-1]
    found = np.zeros((len(raw), side, side), dtype=np.float32)
    for n, one in enumerate(raw):
        found[n] = enlarged(one, side)
    return found


def activation_map(
    model: Classifier,
    image: torch.Tensor,
    label: int,
    *,
    channel_rate: float = 1.0,
) -> NDArray[np.float32]:
    """`activation_maps` of one image ``(3, G, G)``: ``(G, G)``."""
    (found,) = activation_maps(model, image[None], [label], channel_rate=channel_rate)
    only: NDArray[np.float32] = found
    return only
