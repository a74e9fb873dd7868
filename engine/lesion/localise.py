"""Lesion boxes of images: Grad-CAM over the ensemble, with fallbacks (Alg. 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from engine.errors import InvalidParameter, NoLesionFound
from engine.lesion.boxes import (
    Lesions,
    binarise,
    central_box,
    fill,
    region_boxes,
    widened,
)
from engine.lesion.cam import enlarged, normalised, raw_maps
from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from engine.lesion.boxes import GridRegions
    from engine.lesion.regions import ExternalRegions
    from engine.models.classifier import Classifier
    from engine.models.ensemble import Ensemble
    from engine.params import LesionParams

RELAXATION: Final = 20
"""How far the threshold rises where boxes leave the mark no place, in levels."""


def localise(
    ensemble: Ensemble,
    image: torch.Tensor,
    label: int,
    params: LesionParams,
    *,
    regions: ExternalRegions | None = None,
) -> Lesions:
    """Find lesion boxes for the class the ensemble sees.

    The union over the most accurate convolutional members (`LesionParams.most`);
    the transformers where no convolutional map has a peak (or all members at
    once, see `LesionParams.surrogates`); where none has, the regions that were given;
    without any, a central box or a refusal.

    Parameters
    ----------
    ensemble
        Its members are explained one by one.
    image
        ``(3, G, G)`` float32 in [0, 1].
    label
        Index of the class: the consensus label, not a diagnosis.
    params
        Threshold, channel rate, margin and fallback.
    regions
        Lesions marked by someone else, at native size.

    Raises
    ------
    InvalidFrame
        The image holds a pixel that is no finite number.
    NoLesionFound
        Nothing was found and `LesionParams.fallback` is ``refuse``.
    """
    return localise_many(ensemble, image[None], [label], params, regions=[regions])[0]


def localise_many(
    ensemble: Ensemble,
    images: torch.Tensor,
    labels: Sequence[int],
    params: LesionParams,
    *,
    regions: Sequence[ExternalRegions | None] | None = None,
) -> list[Lesions]:
    """Find the lesion boxes of several images, as `localise` does of one.

    Parameters
    ----------
    ensemble, params
        As in `localise`.
    images
        ``(N, 3, G, G)`` float32 in [0, 1].
    labels
        N class indices.
    regions
        N entries, or None for no regions at all.

    Returns
    -------
    list of Lesions
        In the order of the images; none depends on the others.
    """
    side = images.shape[-1]
    outside = list(regions) if regions is not None else [None] * len(images)
    if not len(outside) == len(labels) == len(images):
        raise InvalidParameter(
            f"{len(labels)} labels and {len(outside)} regions for {len(images)} "
            "pictures: give one each"
        )
    given = [one.on_grid(side) if one else None for one in outside]
    found: list[Lesions | None] = [
        _from_maps((), "external", side, params, given=marked)
        if one and one.mode == "replace"
        else None
        for one, marked in zip(outside, given, strict=True)
    ]
    for source, group in _surrogates(ensemble, params):
        open_ = [n for n, one in enumerate(found) if one is None]
        if not open_ or not group:
            continue
        chosen = [labels[n] for n in open_]
        maps = [
            raw_maps(member, images[open_], chosen, channel_rate=params.channel_rate)
            for member in group
        ]
        for row, n in enumerate(open_):
            mine = tuple(of_member[row] for of_member in maps)
            found[n] = _from_maps(mine, source, side, params, given=given[n])
    return [
        one or _without_peak(side, params, given=marked)
        for one, marked in zip(found, given, strict=True)
    ]


def relaxed(lesions: Lesions, params: LesionParams, *, by: int = RELAXATION) -> Lesions:
    """Lesions at a higher threshold t, so smaller boxes; no model is asked again.

    The last rung of the ladder where the mark has no place. Regions that were
    given, and a central box, stay as they are.

    Parameters
    ----------
    lesions
        As `localise` found them.
    params
        As used then.
    by
        How far t rises, in levels; it ends at 255, where only peaks are left.
    """
    if not lesions.maps:
        return lesions
    higher = replace(params, threshold=min(LEVELS, params.threshold + by))
    source = lesions.source.removesuffix("+external")
    side = lesions.mask.shape[0]
    found = _from_maps(lesions.maps, source, side, higher, given=lesions.given)
    return found or lesions


def _surrogates(
    ensemble: Ensemble, params: LesionParams
) -> Iterator[tuple[str, list[Classifier]]]:
    """Yield groups of members to ask in turn, until one finds something."""
    members = sorted(ensemble.members, key=_accuracy, reverse=True)
    if params.surrogates == "all":
        yield "all", members[: params.most or None]
        return
    for source, tokens in (("cnn", False), ("transformer", True)):
        group = [m for m in members if (m.cam_reshape is not None) is tokens]
        yield source, group[: params.most or None]


def _accuracy(member: Classifier) -> float:
    """Test accuracy on a member's card; members without one come last."""
    card = getattr(member, "card", None)
    return card.accuracy.value if card is not None and card.accuracy else 0.0


def _from_maps(
    maps: tuple[NDArray[np.float32], ...],
    source: str,
    side: int,
    params: LesionParams,
    *,
    given: GridRegions | None,
) -> Lesions | None:
    """Boxes of the maps and of what was given; None where the maps say nothing."""
    masks = [_mask(one, side, params) for one in maps]
    boxes = [box for m in masks for box in region_boxes(m, params.margin)]
    if maps and not boxes:
        return None
    if given:
        whole = given.mask.shape
        boxes += [widened(box, params.margin, whole) for box in given.boxes]
        boxes += region_boxes(given.mask, params.margin)
        masks += [given.mask, fill(given.boxes, whole)]
        source = f"{source}+external" if maps else "external"
    return Lesions(
        boxes=tuple(dict.fromkeys(boxes)),
        mask=np.logical_or.reduce(masks),
        source=source,
        maps=maps,
        given=given,
    )


def _mask(
    activation: NDArray[np.float32], side: int, params: LesionParams
) -> NDArray[np.bool_]:
    """Threshold one map on the grid; the literal Alg. 2 resizes the result."""
    if params.resize == "before":
        return binarise(enlarged(activation, side), params.threshold)
    small = binarise(normalised(activation), params.threshold).astype(np.uint8)
    large = cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)
    mask: NDArray[np.bool_] = np.asarray(large) > 0
    return mask


def _without_peak(
    side: int, params: LesionParams, *, given: GridRegions | None
) -> Lesions:
    """Say what is kept free where no map has a peak."""
    marked = _from_maps((), "external", side, params, given=given) if given else None
    if marked:
        return marked
    if params.fallback == "refuse":
        raise NoLesionFound(
            "no member has a peak for this class and no region was given: mark the "
            "lesion, or allow the central box (fallback='central')"
        )
    empty = np.zeros((side, side), dtype=np.bool_)
    return Lesions(boxes=(central_box(side),), mask=empty, source="central")
