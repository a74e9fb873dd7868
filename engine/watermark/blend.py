"""Blending on the model grid, in floating point (Eq. 6, Alg. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class GridMark:
    """A mark on the model grid.

    ``patch`` is ``(4, h, w)`` float32 premultiplied RGBA in [0, 1]; ``alpha``
    the opacity byte; ``x`` and ``y`` column and row, the patch inside the grid.
    """

    x: int
    y: int
    alpha: int
    patch: torch.Tensor


def patch_tensor(patch: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """``(h, w, 4)`` uint8 premultiplied patch as ``(4, h, w)`` float32 in [0, 1]."""
    planes = torch.from_numpy(patch).to(device).permute(2, 0, 1)
    return planes.float().contiguous() / LEVELS


def blend(host: torch.Tensor, marks: Sequence[GridMark]) -> torch.Tensor:
    """One picture per mark: αI_f + (1 - αI_m)X with a soft matte (Eq. 6).

    Parameters
    ----------
    host
        X = I + δ, ``(3, G, G)`` float32 in [0, 1].
    marks
        N marks.

    Returns
    -------
    torch.Tensor
        ``(N, 3, G, G)`` float32 in [0, 1].
    """
    pictures = host.expand(len(marks), -1, -1, -1).clone()
    for picture, mark in zip(pictures, marks, strict=True):
        h, w = mark.patch.shape[1:]
        opacity = mark.alpha / LEVELS
        window = picture[:, mark.y : mark.y + h, mark.x : mark.x + w]
        window.mul_(1 - opacity * mark.patch[3]).add_(opacity * mark.patch[:3])
    return pictures


def canvas(mark: GridMark, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Express a mark as an affine map of the picture: ``host * keep + add``.

    Parameters
    ----------
    mark
        The mark.
    size
        Rows and columns of the picture.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor]
        ``keep`` and ``add``, each ``(3, *size)`` float32.
    """
    device = mark.patch.device
    add = blend(torch.zeros((3, *size), device=device), [mark])[0]
    keep = blend(torch.ones((3, *size), device=device), [mark])[0] - add
    return keep, add
