"""Pictures of the candidates of one frame, as their native marks would look."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch

from engine.watermark.blend import GridMark, blend, patch_tensor
from engine.watermark.working import grid_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.search.candidate import Candidate
    from engine.types import SIT
    from engine.watermark.maker import PatchMaker

_PATCHES: Final = 32
"""Drawn patches kept: offspring use those of their ancestors."""


class Gallery:
    """Shows candidates on one host.

    Parameters
    ----------
    maker
        Patches of the logo.
    host
        X = I + δ on the grid, ``(3, G, G)`` float32 in [0, 1].

    Attributes
    ----------
    maker, host
        As given.
    """

    def __init__(self, maker: PatchMaker, host: torch.Tensor) -> None:
        self.maker = maker
        self.host = host
        self._view = grid_view(maker.geometry, host.device)
        make = maker.preview()

        @lru_cache(maxsize=_PATCHES)
        def patch(sit: SIT) -> torch.Tensor:
            return patch_tensor(make(sit), host.device)

        self._patch = patch

    def mark(self, one: Candidate) -> GridMark:
        """Put a candidate's mark onto the grid as its native mark would look."""
        patch, geometry = self._patch(one.sit), self._view.geometry
        h, w = patch.shape[1:]
        native = round(w / geometry.reduction), round(h / geometry.reduction)
        place = geometry.native_position(one.x, one.y, native)
        return self._view.mark(place, one.alpha, patch)

    def pictures(self, candidates: Sequence[Candidate]) -> torch.Tensor:
        """``(N, 3, G, G)`` float32 in [0, 1], one per candidate."""
        return blend(self.host, [self.mark(one) for one in candidates])
