"""Makes the patches of one frame: at native size and for the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.errors import InvalidParameter
from engine.watermark import sit
from engine.watermark.patch import scale_logo, scaled_size
from engine.watermark.stored import Mark

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
    matte
        ``soft`` keeps the alpha of the logo, ``binary`` makes it 0 or 1.
    """

    logo: Logo
    geometry: Geometry
    sl: float
    grey: bool
    shrink: float = 1.0
    matte: Literal["soft", "binary"] = "soft"

    def __post_init__(self) -> None:
        if self.matte not in {"soft", "binary"}:
            raise InvalidParameter(f"matte {self.matte!r}: write soft or binary")
        if self.matte == "binary" and self.logo.rgba[..., 3].max() < 128:
            raise InvalidParameter(
                "the logo is nowhere at least half opaque: a binary matte leaves "
                "nothing of it; use matte='soft' or another logo"
            )

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

    def extent(self, one: SIT) -> tuple[int, int]:
        """Native width and height that hold the patch, whatever its shape."""
        return sit.turned_size(self.size, one.rotation)

    def footprint(self, one: SIT) -> tuple[int, int]:
        """Width and height on the grid that hold the patch, whatever its shape."""
        geometry, (w, h) = self.geometry, self.extent(one)
        return (
            -(-w * geometry.side // geometry.columns),
            -(-h * geometry.side // geometry.rows),
        )

    def native_place(self, place: tuple[int, int], one: SIT) -> tuple[int, int]:
        """Native column and row of an extent whose footprint is at a grid place."""
        return self.geometry.native_position(*place, self.extent(one))

    def native(self, one: SIT) -> NDArray[np.uint8]:
        """``(h'', w'', 4)`` uint8 premultiplied patch at native size, cut."""
        return self._drawn(one)[0]

    def mark(self, place: tuple[int, int], alpha: int, one: SIT) -> Mark:
        """Draw the native mark of a candidate.

        Parameters
        ----------
        place
            Column and row on the grid of the corner of the footprint.
        alpha
            Opacity byte.
        one
            The transform.

        Returns
        -------
        Mark
            Inside the extent at `native_place`, cut to what is not transparent.
        """
        patch, inset = self._drawn(one)
        column, row = self.native_place(place, one)
        return Mark(
            x=column + inset[0], y=row + inset[1], alpha=alpha, sit=one, patch=patch
        )

    def matted(self, planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Premultiplied planes ``(h, w, C)`` with the matte that is wanted."""
        return sit.binary(planes) if self.matte == "binary" else planes

    def preview(self) -> Callable[[SIT], NDArray[np.uint8]]:
        """Return what makes patches at preview size, the logo scaled once.

        They are ``(h, w, 4)`` uint8 premultiplied: those of `native` on all but
        large frames, where nothing finer is seen on the grid.
        """
        reduction = self.geometry.reduction
        w, h = (max(1, round(side * reduction)) for side in self.size)
        scaled = scale_logo(self.logo, (w, h))
        return lambda one: self._cut(scaled, one)[0]

    def _drawn(self, one: SIT) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        return self._cut(scale_logo(self.logo, self.size), one)

    def _cut(
        self, scaled: NDArray[np.uint8], one: SIT
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Patch of a scaled logo, and its corner within the extent."""
        planes = sit.turn(sit.coloured(scaled, one, grey=self.grey), one.rotation)
        patch, inset = sit.cut(self.matted(planes))
        if not patch[..., -1].any():
            w, h = self.size
            raise InvalidParameter(
                f"nothing is left of the logo at {w}x{h} pixels: its lines are too "
                f"thin for matte={self.matte!r}; use a smaller sl or another logo"
            )
        return patch if not self.grey else patch[..., [0, 0, 0, 1]], inset
