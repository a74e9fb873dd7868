"""Blending on the model grid, in floating point (Eq. 6, Alg. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import InvalidParameter
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
    """One picture per mark: αI_f + (1 - αI_m)X (Eq. 6).

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

    Raises
    ------
    InvalidParameter
        A mark leaves the picture.
    """
    pictures = host.expand(len(marks), -1, -1, -1).clone()
    _lay(pictures, marks)
    return pictures


def blend_many(
    hosts: torch.Tensor, index: Sequence[int], marks: Sequence[GridMark]
) -> torch.Tensor:
    """One picture per mark, each on the host it is for (Eq. 6).

    Parameters
    ----------
    hosts
        ``(B, 3, G, G)`` float32 in [0, 1], X of every frame.
    index
        N numbers of hosts, one per mark.
    marks
        N marks.

    Returns
    -------
    torch.Tensor
        ``(N, 3, G, G)`` float32 in [0, 1]; nothing larger is ever made.

    Raises
    ------
    InvalidParameter
        There are not as many marks as numbers, a number is of no host, or a
        mark leaves the picture.
    """
    if len(index) != len(marks) or any(not 0 <= i < len(hosts) for i in index):
        raise InvalidParameter(
            f"{len(marks)} marks on hosts {list(index)[:4]}...: give each mark the "
            f"number of its host, 0..{len(hosts) - 1}"
        )
    chosen = torch.tensor(list(index), dtype=torch.int64).to(
        hosts.device, non_blocking=True
    )
    pictures = hosts.index_select(0, chosen)
    _lay(pictures, marks)
    return pictures


def unblend(picture: torch.Tensor, mark: GridMark) -> torch.Tensor:
    """Invert `blend`: X = (I_w - αI_f) / (1 - αI_m) (Eq. 13).

    Exact in real arithmetic. What is stored in integers is not: that is
    recovered by `engine.recover.recover`, with a residual.

    Parameters
    ----------
    picture
        I_w, ``(3, G, G)`` float.
    mark
        The mark it was blended with.

    Returns
    -------
    torch.Tensor
        X, ``(3, G, G)`` of the type of `picture`.

    Raises
    ------
    InvalidParameter
        Somewhere αI_m = 1: there the mark hides the image wholly.
    """
    patch = mark.patch.to(picture)
    h, w = patch.shape[1:]
    opacity = mark.alpha / LEVELS
    rest = 1 - opacity * patch[3]
    if bool((rest <= 0).any()):
        raise InvalidParameter(
            f"alpha={mark.alpha} with an opaque logo: αI_m = 1 leaves nothing of the "
            "image to solve Eq. 13 for"
        )
    host = picture.clone()
    window = host[:, mark.y : mark.y + h, mark.x : mark.x + w]
    window.sub_(patch[:3], alpha=opacity).div_(rest)
    return host


def _lay(pictures: torch.Tensor, marks: Sequence[GridMark]) -> None:
    """Blend each mark into its picture, in place."""
    patches = _to_device([mark.patch for mark in marks], pictures.device)
    for i, (mark, patch) in enumerate(zip(marks, patches, strict=True)):
        h, w = patch.shape[1:]
        rows, columns = pictures.shape[2:]
        if not (0 <= mark.x <= columns - w and 0 <= mark.y <= rows - h):
            raise InvalidParameter(
                f"mark of {w}x{h} pixels at ({mark.x}, {mark.y}) leaves the picture "
                f"of {columns}x{rows}: make the logo smaller or move it"
            )
        opacity = mark.alpha / LEVELS
        window = pictures[i, :, mark.y : mark.y + h, mark.x : mark.x + w]
        window.mul_(1 - opacity * patch[3]).add_(patch[:3], alpha=opacity)


def _to_device(
    patches: Sequence[torch.Tensor], device: torch.device
) -> Sequence[torch.Tensor]:
    """All patches on a device, by one transfer; no launch waits for another."""
    if all(patch.device == device for patch in patches):
        return patches
    flat = torch.cat([patch.reshape(-1) for patch in patches])
    if device.type == "cuda":
        flat = flat.pin_memory()
    moved = flat.to(device, non_blocking=True)
    parts = torch.split(moved, [patch.numel() for patch in patches])
    return [part.view(p.shape) for part, p in zip(parts, patches, strict=True)]


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
