"""Regions that someone else marked: kept free beside or instead of Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.errors import InvalidFrame, InvalidParameter
from engine.lesion.boxes import GridRegions
from engine.types import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalRegions:
    """Lesions as marked by a person or another program, at native size.

    Attributes
    ----------
    rows, columns
        Size of the frame they were marked on.
    boxes
        Half-open boxes inside the frame.
    mask
        ``(rows, columns)`` bool, true where a lesion is.
    mode
        ``add`` keeps what Grad-CAM finds free too, ``replace`` only these.

    Raises
    ------
    InvalidParameter
        Nothing is marked, a box is empty or leaves the frame, or the mask has
        another shape, another type or holds NaN.
    """

    rows: int
    columns: int
    boxes: Sequence[Box] = ()
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    mode: Literal["add", "replace"] = "add"

    def __post_init__(self) -> None:
        if self.mode not in {"add", "replace"}:
            raise InvalidParameter(f"mode {self.mode!r}: write add or replace")
        for box in self.boxes:
            self._check_box(box)
        if self.mask is not None:
            self._check_mask(self.mask)
        if not self.boxes and (self.mask is None or not self.mask.any()):
            raise InvalidParameter(
                "external regions mark nothing: give a box or a mask that is true "
                "somewhere, or leave them out"
            )

    def _check_box(self, box: Box) -> None:
        inside = (
            0 <= box.x0 < box.x1 <= self.columns and 0 <= box.y0 < box.y1 <= self.rows
        )
        if not inside:
            raise InvalidParameter(
                f"region {box} is empty or leaves the frame of "
                f"{self.columns}x{self.rows} pixels"
            )

    def _check_mask(self, mask: NDArray[np.bool_]) -> None:
        if mask.shape != (self.rows, self.columns):
            raise InvalidParameter(
                f"mask of shape {mask.shape}: need (rows, columns) of the frame, "
                f"({self.rows}, {self.columns})"
            )
        if mask.dtype != np.bool_:
            unclear = mask.dtype.kind == "f" and bool(np.isnan(mask).any())
            raise InvalidParameter(
                f"mask of type {mask.dtype}{' with NaN' if unclear else ''}: need "
                "bool; say which values mean a lesion, e.g. mask > 0"
            )

    def check_frame(self, shape: tuple[int, ...]) -> None:
        """Refuse regions that were marked on a frame of another size.

        Parameters
        ----------
        shape
            Of the frame: rows, columns and perhaps samples.

        Raises
        ------
        InvalidFrame
            The sizes differ.
        """
        if shape[:2] != (self.rows, self.columns):
            raise InvalidFrame(
                f"regions were marked on {self.columns}x{self.rows} pixels but the "
                f"frame has {shape[1]}x{shape[0]}"
            )

    def on_grid(self, side: int) -> GridRegions:
        """Take them to the model grid: every pixel that any of them touches.

        Parameters
        ----------
        side
            Side of the grid, G.
        """
        boxes = tuple(
            Box(
                x0=box.x0 * side // self.columns,
                y0=box.y0 * side // self.rows,
                x1=-(-box.x1 * side // self.columns),
                y1=-(-box.y1 * side // self.rows),
            )
            for box in self.boxes
        )
        mask = np.zeros((side, side), dtype=np.bool_)
        if self.mask is not None:
            mask = _touched(self.mask, side)
        return GridRegions(boxes=boxes, mask=mask)


def _touched(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """``(side, side)``: whether a grid pixel shares area with a true native one."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    pixel = np.arange(side)
    (y0, y1), (x0, x1) = (
        (pixel * length // side, -(-(pixel + 1) * length // side))
        for length in mask.shape
    )
    count = (
        sums[y1[:, None], x1]
        - sums[y0[:, None], x1]
        - sums[y1[:, None], x0]
        + sums[y0[:, None], x0]
    )
    touched: NDArray[np.bool_] = count > 0
    return touched
