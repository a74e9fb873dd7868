"""Paints the marks of a search onto the model grid as they would look natively."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.types import LEVELS, SIT
from engine.watermark import sit as transforms
from engine.watermark.patch import scale_logo
from engine.watermark.working import grid_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.watermark.blend import GridMark
    from engine.watermark.maker import PatchMaker

    _Planes = NDArray[np.float32]

_KEPT: Final = 1
"""Drawn logos kept: neighbours in a batch often share a transform. More would
only displace what is being worked on from the caches of the processor."""

_FINER: Final = 1.5
"""How much finer than the preview of a large frame the logo is kept: a place
between pixels would blur it otherwise."""


class GridPainter:
    """Paints marks of one frame; all on the CPU, so it never waits for a device.

    On frames up to `PREVIEW` pixels a side a mark is drawn as it is natively and
    resized as the frame is; on larger ones it is drawn at preview size, at its
    exact place between the pixels of the preview.

    Parameters
    ----------
    maker
        Patches of the logo.

    Attributes
    ----------
    maker
        As given.
    view
        Puts marks onto the grid.
    """

    def __init__(self, maker: PatchMaker) -> None:
        self.maker = maker
        self.view = grid_view(maker.geometry)
        wide, high = maker.geometry.preview
        native = maker.geometry.columns, maker.geometry.rows
        self._pixel = wide / native[0], high / native[1]
        finer = min(1.0, _FINER * maker.geometry.reduction)
        w, h = (max(1, round(side * finer)) for side in maker.size)
        logo = scale_logo(maker.logo, (w, h))
        self._binary = maker.matte == "binary"
        if self._binary and maker.geometry.reduction < 1:
            # Here a pixel is an average of native ones: its matte is a share.
            hard = np.where(logo[..., 3:] >= 128, 255, 0).astype(np.uint8)
            logo = np.concatenate([logo[..., :3], hard], axis=2)
        self._logo = _palette(logo)
        self._coloured = lru_cache(_KEPT)(self._recolour)
        self._whole = lru_cache(_KEPT)(self._draw)

    def mark(self, place: tuple[int, int], alpha: int, sit: SIT) -> GridMark:
        """Make a candidate's mark as its native mark would look on the grid.

        Parameters
        ----------
        place
            Column and row on the grid of the corner of the footprint.
        alpha
            Opacity byte.
        sit
            The transform.

        Returns
        -------
        GridMark
            On the CPU; `blend` takes marks to the device of the host.
        """
        planes, corner = self.planes(place, sit)
        return self.view.mark(corner, alpha, planes)

    def planes(
        self, place: tuple[int, int], sit: SIT
    ) -> tuple[_Planes, tuple[int, int]]:
        """Draw a candidate's logo at preview size.

        Parameters
        ----------
        place, sit
            As in `mark`.

        Returns
        -------
        planes, corner
            ``(h, w, C)`` float32 premultiplied, 0 to 255, C 4 or, grey, 2; and
            its column and row on the preview.
        """
        column, row = self.maker.native_place(place, sit)
        if self.maker.geometry.reduction == 1:
            return self._whole(sit), (column, row)
        return self._draw_between(sit, column, row)

    def _recolour(self, hue: float, saturation: float, value: float) -> _Planes:
        """Recolour the logo at preview size, ``(h, w, 4)``, 0 to 255."""
        palette, index = self._logo
        sit = SIT(hue=hue, saturation=saturation, value=value)
        changed = transforms.coloured(palette, sit, grey=self.maker.grey)[0]
        if self.maker.grey:
            # Four channels are resampled faster than two.
            changed = changed[:, [0, 0, 0, 1]]
        packed = np.ascontiguousarray(changed).view(np.uint32)[:, 0]
        planes = packed.take(index).view(np.uint8)
        return planes.reshape(*index.shape, 4).astype(np.float32)

    def _turned(self, sit: SIT) -> _Planes:
        return self._coloured(sit.hue, sit.saturation, sit.value)

    def _draw(self, sit: SIT) -> _Planes:
        """Draw the whole canvas of a transform at native size."""
        planes = self._turned(sit)
        h, w = planes.shape[:2]
        size = self.maker.extent(sit)
        if sit.rotation:
            to_logo = transforms.logo_from_canvas((w, h), size, sit.rotation)
            planes = transforms.warp(planes, to_logo, size)
        return self._lean(_hardened(planes) if self._binary else planes)

    def _lean(self, planes: _Planes) -> _Planes:
        """Leave out all but one of equal colours: they need not be resampled."""
        if not self.maker.grey:
            return planes
        pairs = planes.view(np.complex64)[..., 1]
        return np.ascontiguousarray(pairs).view(np.float32).reshape(*pairs.shape, 2)

    def _draw_between(
        self, sit: SIT, column: int, row: int
    ) -> tuple[_Planes, tuple[int, int]]:
        """Draw the part of the preview that a mark at a native place reaches."""
        planes = self._turned(sit)
        maker, (px, py) = self.maker, self._pixel
        width, height = maker.extent(sit)
        left, top = math.floor(column * px), math.floor(row * py)
        wide = min(maker.geometry.preview[0], math.ceil((column + width) * px)) - left
        high = min(maker.geometry.preview[1], math.ceil((row + height) * py)) - top
        h, w = planes.shape[:2]
        to_canvas = np.array(
            [[1 / px, 0, left / px - column], [0, 1 / py, top / py - row], [0, 0, 1]]
        )
        to_logo = transforms.logo_from_canvas(maker.size, (width, height), sit.rotation)
        to_pixels = np.diag([w / maker.size[0], h / maker.size[1], 1.0])
        drawn = transforms.warp(planes, to_pixels @ to_logo @ to_canvas, (wide, high))
        return self._lean(drawn), (left, top)


def _palette(rgba: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """List the distinct colours, ``(1, n, 4)``, and which one each pixel has.

    A logo has few; changing them instead of its pixels saves most of the work.
    """
    seen = np.where(rgba[..., 3:] > 0, rgba, 0).astype(np.uint8)
    packed = np.ascontiguousarray(seen).view(np.uint32)[..., 0]
    colours, index = np.unique(packed, return_inverse=True)
    return colours.view(np.uint8).reshape(1, -1, 4), index.reshape(packed.shape)


def _hardened(planes: _Planes) -> _Planes:
    """`sit.binary` for floats of 0 to 255."""
    alpha = planes[..., 3:]
    kept = np.float32(LEVELS) / np.maximum(alpha, np.float32(1))
    hard: _Planes = np.where(alpha >= LEVELS / 2, planes * kept, np.float32(0))
    return hard
