"""Lesion boxes of an image: Grad-CAM over the ensemble, with fallbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.lesion.boxes import Lesions, binarise, central_box, region_boxes
from engine.lesion.cam import activation_map

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from engine.models.classifier import Classifier
    from engine.models.ensemble import Ensemble
    from engine.params import LesionParams


def localise(
    ensemble: Ensemble, image: torch.Tensor, label: int, params: LesionParams
) -> Lesions:
    """Find lesion boxes for the class the ensemble sees.

    The union over the convolutional members; the transformers where no
    convolutional map has a peak; a central box where none has.

    Parameters
    ----------
    ensemble
        Its members are explained one by one.
    image
        ``(3, G, G)`` float32 in [0, 1].
    label
        Index of the class: the consensus label, not a diagnosis.
    params
        Threshold, channel rate and margin.
    """
    members = list(ensemble.members)
    groups = {
        "cnn": [m for m in members if m.cam_reshape is None],
        "transformer": [m for m in members if m.cam_reshape is not None],
    }
    for source, group in groups.items():
        masks = [_mask(member, image, label, params) for member in group]
        boxes = [box for m in masks for box in region_boxes(m, params.margin)]
        if boxes:
            union = np.logical_or.reduce(masks)
            distinct = tuple(dict.fromkeys(boxes))
            return Lesions(boxes=distinct, mask=union, source=source)
    side = image.shape[-1]
    empty = np.zeros((side, side), dtype=np.bool_)
    return Lesions(boxes=(central_box(side),), mask=empty, source="central")


def _mask(
    member: Classifier, image: torch.Tensor, label: int, params: LesionParams
) -> NDArray[np.bool_]:
    activation = activation_map(member, image, label, channel_rate=params.channel_rate)
    return binarise(activation, params.threshold)
