"""Makes the patches of one frame: at native size and for the search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.watermark import sit
from engine.watermark.patch import render_patch, scale_logo, scaled_size

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from engine.types import SIT
    from engine.watermark.logo import Logo
    from engine.watermark.working import Geometry


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchMaker:
    """Patches of a logo for one frame.

    Attributes
    ----------
    logo
        The logo.
    geometry
        Native size and model grid.
    sl
        Logo scale of Eq. 5.
    grey
        Whether the frame is grey.
    shrink
        Further factor on the sides, below 1 where the full size has no place.
    """

    logo: Logo
    geometry: Geometry
    sl: float
    grey: bool
    shrink: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """Native width and height before rotation."""
        frame = self.geometry.columns, self.geometry.rows
        w, h = scaled_size(frame, self.logo.size, self.sl)
        return max(1, int(w * self.shrink)), max(1, int(h * self.shrink))

    @property
    def grid_size(self) -> tuple[int, int]:
        """Width and height on the grid before rotation: w' and h' of Eq. 9."""
        geometry, (width, height) = self.geometry, self.size
        return (
            max(1, round(width * geometry.side / geometry.columns)),
            max(1, round(height * geometry.side / geometry.rows)),
        )

    def native(self, one: SIT) -> NDArray[np.uint8]:
        """``(h'', w'', 4)`` uint8 premultiplied patch at native size."""
        return render_patch(self.logo, self.size, one, grey=self.grey)

    def preview(self) -> Callable[[SIT], NDArray[np.uint8]]:
        """Return what makes patches at preview size, the logo scaled once.

        They are ``(h, w, 4)`` uint8 premultiplied: those of `native` on all but
        large frames, where nothing finer is seen on the grid.
        """
        reduction = self.geometry.reduction
        w, h = (max(1, round(side * reduction)) for side in self.size)
        scaled = scale_logo(self.logo, (w, h))
        return lambda one: sit.apply(scaled, one, grey=self.grey)

    def footprint(self, one: SIT) -> tuple[int, int]:
        """Width and height on the grid that hold the patch, whatever its shape."""
        geometry, (w, h) = self.geometry, self.size
        if one.rotation:
            # One pixel more: a rotated canvas starts and ends between pixels.
            angle = math.radians(one.rotation)
            across, down = abs(math.cos(angle)), abs(math.sin(angle))
            w, h = (
                math.ceil(w * across + h * down) + 1,
                math.ceil(w * down + h * across) + 1,
            )
        return (
            -(-w * geometry.side // geometry.columns),
            -(-h * geometry.side // geometry.rows),
        )
