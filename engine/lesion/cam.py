"""Grad-CAM maps of classifiers (Eqs. 7 and 8), through ``grad-cam``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engine.models.compat import ensure_torchvision

ensure_torchvision()

from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]  # noqa: E402
from pytorch_grad_cam.utils.model_targets import (  # type: ignore[import-untyped]  # noqa: E402
    ClassifierOutputTarget,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from engine.models.classifier import Classifier


class _SampledGradCAM(GradCAM):  # type: ignore[misc]
    """Grad-CAM over the share of channels with the largest weights ω."""

    channel_rate = 1.0

    def get_cam_weights(self, *arguments: object) -> NDArray[np.float32]:
        """Weights ω of Eq. 7, zero for channels that are not sampled."""
        weights: NDArray[np.float32] = super().get_cam_weights(*arguments)
        kept = math.ceil(self.channel_rate * weights.shape[1])
        least = -np.sort(-weights, axis=1)[:, kept - 1 : kept]
        return np.where(weights >= least, weights, np.float32(0.0))


def activation_map(
    model: Classifier,
    image: torch.Tensor,
    label: int,
    *,
    channel_rate: float = 1.0,
) -> NDArray[np.float32]:
    """Where a classifier sees a class.

    Parameters
    ----------
    model
        In evaluation mode.
    image
        ``(3, G, G)`` float32 in [0, 1].
    label
        Index of the class whose logit is explained.
    channel_rate
        The paper's r_ch: share of channels kept, those of largest weight.

    Returns
    -------
    NDArray[np.float32]
        ``(G, G)`` in [0, 1], maximum 1; all zero where the map is flat.
    """
    batch = image[None].detach().clone()
    # Weights are frozen: without this no gradient would be recorded.
    batch.requires_grad = True
    cam = _SampledGradCAM(
        model=model,
        target_layers=list(model.cam_target_layers),
        reshape_transform=model.cam_reshape,
    )
    cam.channel_rate = channel_rate
    with cam:
        maps = cam(input_tensor=batch, targets=[ClassifierOutputTarget(label)])
    return np.asarray(maps[0], dtype=np.float32)
