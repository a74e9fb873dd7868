"""Marks under the further windows of a frame, as their stored values would look.

A mark is blended in stored values in the first window; under another one logo
and host look different. With f the host's place in the first window (clipped to
it, as `engine.watermark.stored.add_mark` does), 0..1, and f' = (1 - αA) f + αL
what is stored under the logo, another window shows clip(a f' + b) with
a = (hi - lo) / (hi_p - lo_p) and b = (lo - lo_p) / (hi_p - lo_p). That clip does
not commute with the resize to the grid, so it is done pixel by pixel and what
the mark changes is resized: the resize is linear, so it adds to the host's
own picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn.functional import interpolate

from engine.rendering import render
from engine.types import LEVELS
from engine.watermark.stored import clip_bounds
from engine.watermark.working import Geometry, levels_to_tensor, working_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.types import Frame, Rendering
    from engine.watermark.working import GridView

_COVERED: Final = 0.5
"""Alpha of the logo, 0..255, from which a pixel of it is stored as covered."""


class PresetView:
    """Shows marks of one grey frame under each of its P presets.

    Exact to the rounding of the logo on frames up to `PREVIEW` pixels a side; on
    larger ones as exact as the preview: what is finer is averaged before the
    window is applied.

    Parameters
    ----------
    frame
        The original; it has presets.
    host
        X, the stored values with δ.
    device
        Where pictures lie.

    Attributes
    ----------
    clean
        ``(P, 3, G, G)`` float32 in [0, 1]: X under every preset.
    slopes
        P factors: levels of a preset per level of the first window, negative
        where one of the two is inverted.
    """

    def __init__(
        self, frame: Frame, host: NDArray[np.int32], device: torch.device
    ) -> None:
        rows, columns = host.shape
        geometry = Geometry(columns=columns, rows=rows)
        first, presets = frame.rendering, frame.presets
        self.clean = working_images(host, presets, device)
        self.slopes = tuple(_slope(first, one) for one in presets)
        self._first = first
        self._presets = presets
        width = first.hi - first.lo
        # The logo is kept within what the frame can store.
        self._range = (
            np.float32(max(0.0, (frame.minimum - first.lo) / width)),
            np.float32(min(1.0, (frame.maximum - first.lo) / width)),
        )
        self._whole = geometry.reduction == 1
        size = geometry.preview[::-1]
        lo, hi = clip_bounds(frame)
        inside = (np.clip(host, lo, hi) - first.lo) / width
        self._inside = _resized(inside.astype(np.float32), size)
        self._levels = np.stack(
            [_shown(render(host, one), size) for one in presets], axis=2
        )

    def picture(
        self,
        planes: NDArray[np.float32],
        corner: tuple[int, int],
        alpha: int,
        view: GridView,
    ) -> torch.Tensor:
        """Show one mark under every preset.

        Parameters
        ----------
        planes, corner
            ``(h, w, 2)`` premultiplied grey and alpha, 0 to 255, at preview
            size, and their column and row there, as `GridPainter.planes` draws.
        alpha
            Opacity byte.
        view
            The resize to the grid.

        Returns
        -------
        torch.Tensor
            ``(P, 3, G, G)`` float32 in [0, 1].
        """
        h, w = planes.shape[:2]
        across = slice(corner[0], corner[0] + w)
        down = slice(corner[1], corner[1] + h)
        stored = self._blended(planes, self._inside[down, across], alpha)
        covered = planes[..., 1:] >= _COVERED
        changed = np.stack([self._level(stored, one) for one in self._presets], axis=2)
        changes = np.where(covered, changed - self._levels[down, across], np.float32(0))
        small, (left, top) = view.resized(changes.astype(np.float32), corner)
        pictures = self.clean.clone()
        part = torch.from_numpy(small).to(pictures)[:, None]
        k, j = small.shape[1:]
        pictures[:, :, top : top + k, left : left + j] += part
        return pictures.clamp_(0, 1)

    def _blended(
        self, planes: NDArray[np.float32], host: NDArray[np.float32], alpha: int
    ) -> NDArray[np.float32]:
        """S' as its place in the first window, rounded where pixels are native."""
        opacity = np.float32(alpha / LEVELS / LEVELS)
        logo, matte = planes[..., 0], planes[..., 1]
        if self._first.inverted:
            logo = matte - logo
        logo = np.clip(logo, matte * self._range[0], matte * self._range[1])
        mixed = host - opacity * (matte * host - logo)
        if self._whole:
            width = self._first.hi - self._first.lo
            stored = np.floor(self._first.lo + width * mixed.astype(np.float64) + 0.5)
            mixed = ((stored - self._first.lo) / width).astype(np.float32)
        return mixed

    def _level(
        self, mixed: NDArray[np.float32], preset: Rendering
    ) -> NDArray[np.float32]:
        """Level 0..1 of a place in the first window, rounded as in `render`."""
        first, width = self._first, preset.hi - preset.lo
        a = np.float32((first.hi - first.lo) / width)
        b = np.float32((first.lo - preset.lo) / width)
        level = np.floor(np.clip(a * mixed + b, 0, 1) * LEVELS + np.float32(0.5))
        level /= np.float32(LEVELS)
        shown: NDArray[np.float32] = 1 - level if preset.inverted else level
        return shown


def _slope(first: Rendering, preset: Rendering) -> float:
    sign = -1.0 if first.inverted != preset.inverted else 1.0
    return sign * first.unit / preset.unit


def _resized(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if plane.shape == size:
        return plane
    small = interpolate(
        torch.from_numpy(plane)[None, None],
        size,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    made: NDArray[np.float32] = small[0, 0].numpy()
    return made


def _shown(levels: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.float32]:
    """Levels as 0..1 at preview size."""
    plane = levels_to_tensor(levels, (size[0], size[1]), torch.device("cpu"))[0]
    made: NDArray[np.float32] = plane.numpy()
    return made
