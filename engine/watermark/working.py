"""The working image: what the models see, and its geometry.

Frames are rendered, made three-channel and squashed to a square model grid,
always by the same function, so the search and the final check see alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.nn.functional import interpolate

from engine.rendering import render
from engine.types import LEVELS, Box
from engine.watermark.blend import GridMark
from engine.watermark.resample import Axis, axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.types import Rendering

GRID: Final = 224
"""Side of the model grid in pixels (P: all classifiers take 224x224)."""

PREVIEW: Final = 512
"""Longest side at which patches are drawn for the search. On larger frames a
pixel of the grid spans more than two of the preview: inside the mark what the
search sees is within 1/255 of the final result on average."""


_PIXEL: Final = {2: np.complex64, 4: np.complex128}
"""A type as wide as so many float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How a native frame lies on the model grid.

    ``columns`` and ``rows`` are the native size, ``side`` that of the grid and
    ``finest`` the most points δ has on a side, 0 for those of the grid.
    """

    columns: int
    rows: int
    side: int = GRID
    finest: int = 0

    @property
    def reduction(self) -> float:
        """Factor from native to preview size: 1 on all but large frames."""
        return min(1.0, PREVIEW / max(self.columns, self.rows))

    @property
    def preview(self) -> tuple[int, int]:
        """Width and height of the frame at preview size."""
        return (
            max(1, round(self.columns * self.reduction)),
            max(1, round(self.rows * self.reduction)),
        )

    def native_position(
        self, x: int, y: int, patch: tuple[int, int]
    ) -> tuple[int, int]:
        """Nearest native position of a grid position, kept inside.

        Parameters
        ----------
        x, y
            Column and row on the grid.
        patch
            Width and height of the native patch; at most the frame's.
        """
        column = math.floor(x * self.columns / self.side + 0.5)
        row = math.floor(y * self.rows / self.side + 0.5)
        return (
            max(0, min(column, self.columns - patch[0])),
            max(0, min(row, self.rows - patch[1])),
        )

    def native_box(self, box: Box) -> Box:
        """Smallest native box that holds all of a grid box."""
        return Box(
            x0=box.x0 * self.columns // self.side,
            y0=box.y0 * self.rows // self.side,
            x1=-(-box.x1 * self.columns // self.side),
            y1=-(-box.y1 * self.rows // self.side),
        )

    def delta_shape(self) -> tuple[int, int]:
        """Rows and columns of δ, never finer than the frame."""
        most = self.finest or self.side
        return min(most, self.rows), min(most, self.columns)

    def delta_box(self, native: Box) -> Box:
        """All points of δ that act on any pixel of a native box."""
        rows, columns = self.delta_shape()
        return Box(
            x0=native.x0 * columns // self.columns,
            y0=native.y0 * rows // self.rows,
            x1=(native.x1 - 1) * columns // self.columns + 1,
            y1=(native.y1 - 1) * rows // self.rows + 1,
        )


def levels_to_tensor(
    levels: NDArray[np.uint8], size: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Turn rendered levels into a picture of another size.

    Parameters
    ----------
    levels
        ``(rows, columns[, 3])`` uint8.
    size
        Rows and columns wanted.
    device
        Where the result lies.

    Returns
    -------
    torch.Tensor
        ``(C, *size)`` float32 in [0, 1], C 1 or 3, averaged over areas when
        shrunk.
    """
    planes = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
    picture = torch.from_numpy(np.ascontiguousarray(planes)).to(device).float()
    if tuple(picture.shape[1:]) != size:
        picture = interpolate(
            picture[None], size, mode="bilinear", antialias=True, align_corners=False
        )[0]
    return (picture / LEVELS).clamp(0.0, 1.0)


def working_image(
    stored: NDArray[np.int32],
    rendering: Rendering,
    device: torch.device,
    *,
    side: int = GRID,
) -> torch.Tensor:
    """Make the picture that models see of stored values.

    Parameters
    ----------
    stored
        ``(rows, columns[, 3])`` int32.
    rendering
        How they are shown.
    device
        Where the result lies.
    side
        Side of the model grid.

    Returns
    -------
    torch.Tensor
        ``(3, side, side)`` float32 in [0, 1].
    """
    picture = levels_to_tensor(render(stored, rendering), (side, side), device)
    return picture.expand(3, -1, -1).contiguous()


def working_images(
    stored: NDArray[np.int32], renderings: Sequence[Rendering], device: torch.device
) -> torch.Tensor:
    """`working_image` under W windows, ``(W, 3, GRID, GRID)`` float32 in [0, 1]."""
    return torch.stack([working_image(stored, one, device) for one in renderings])


@dataclass(frozen=True, kw_only=True, slots=True)
class GridView:
    """Puts native marks onto the grid exactly as `working_image` would show them.

    Attributes
    ----------
    geometry
        Native size and grid.
    columns, rows
        The resize from preview size along each axis.
    """

    geometry: Geometry
    columns: Axis
    rows: Axis

    def mark(
        self, place: tuple[int, int], alpha: int, planes: NDArray[np.float32]
    ) -> GridMark:
        """Resample a mark at a place of the preview onto the grid, on the CPU.

        Parameters
        ----------
        place
            Column and row at preview size; the planes inside it.
        alpha
            Opacity byte.
        planes
            ``(h, w, C)`` float32 premultiplied, 0 to 255, at preview size, C 4
            or, grey, 2.
        """
        h, w, c = planes.shape
        down, top = self.rows.apply(planes.reshape(h, w * c), place[1])
        i = len(down)
        # A pixel as one number: turning the axes round then moves it whole.
        pixels: NDArray[Any] = down.view(_PIXEL[c])
        sideways = np.ascontiguousarray(pixels.T).view(np.float32)
        across, left = self.columns.apply(sideways, place[0])
        across *= np.float32(1 / LEVELS)
        seen = across.reshape(-1, i, c).transpose(2, 1, 0)
        if c == 2:
            seen = seen[[0, 0, 0, 1]]
        patch = torch.from_numpy(np.ascontiguousarray(seen))
        return GridMark(x=left, y=top, alpha=alpha, patch=patch)

    def resized(
        self, planes: NDArray[np.float32], place: tuple[int, int]
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Resample planes that are zero around from the preview onto the grid.

        Parameters
        ----------
        planes
            ``(h, w, C)`` float32 at preview size, any C.
        place
            Their column and row there.

        Returns
        -------
        planes, place
            ``(C, k, j)`` float32 and their column and row on the grid.
        """
        h, w, c = planes.shape
        down, top = self.rows.apply(planes.reshape(h, w * c), place[1])
        sideways = down.reshape(-1, w, c).transpose(1, 0, 2).reshape(w, -1)
        across, left = self.columns.apply(np.ascontiguousarray(sideways), place[0])
        found = across.reshape(len(across), -1, c).transpose(2, 1, 0)
        return np.ascontiguousarray(found), (left, top)


def grid_view(geometry: Geometry) -> GridView:
    """Make the view of frames of one geometry."""
    columns, rows = geometry.preview
    return GridView(
        geometry=geometry,
        columns=axis(columns, geometry.side),
        rows=axis(rows, geometry.side),
    )
