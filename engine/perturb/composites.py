"""Random marks for crafting δ: any place, opacity and transform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.watermark.blend import GridMark, canvas, patch_tensor
from engine.watermark.patch import resize_patch
from engine.watermark.sit import draw

if TYPE_CHECKING:
    import numpy as np
    import torch

    from engine.params import SearchParams
    from engine.watermark.maker import PatchMaker


def random_composites(
    maker: PatchMaker,
    params: SearchParams,
    generator: np.random.Generator,
    device: torch.device,
    *,
    count: int = 10,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Make marks as affine maps of the picture δ is made on.

    Parameters
    ----------
    maker
        Patches of the logo for this frame: an attacker's guess is no better.
    params
        Transform ranges and bounds of the opacity.
    generator
        Source of every draw.
    device
        Where the result lies.
    count
        How many.

    Returns
    -------
    list of (keep, add)
        At the size of δ, float32: ``keep`` is ``(1, rows, columns)``, ``add``
        ``(1, rows, columns)`` for a grey frame, otherwise ``(3, rows, columns)``.
    """
    rows, columns = maker.geometry.delta_shape()
    wide, high = maker.geometry.preview
    made = []
    sits = [draw(params.sit, generator) for _ in range(count)]
    make = maker.preview()
    for patch in map(make, sits):
        width = min(columns, max(1, round(patch.shape[1] * columns / wide)))
        height = min(rows, max(1, round(patch.shape[0] * rows / high)))
        mark = GridMark(
            x=int(generator.integers(0, columns - width, endpoint=True)),
            y=int(generator.integers(0, rows - height, endpoint=True)),
            alpha=int(
                generator.integers(params.alpha_min, params.alpha_max, endpoint=True)
            ),
            patch=patch_tensor(resize_patch(patch, (width, height)), device),
        )
        keep, add = canvas(mark, (rows, columns))
        # One matte serves all channels, and a grey mark has only one colour.
        made.append((keep[:1], add[: 1 if maker.grey else 3]))
    return made
