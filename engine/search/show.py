"""Pictures of the candidates of one frame, as their native marks would look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.watermark.blend import GridMark, blend
from engine.watermark.paint import GridPainter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from engine.search.candidate import Candidate
    from engine.watermark.maker import PatchMaker


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
        self._painter = GridPainter(maker)

    def mark(self, one: Candidate) -> GridMark:
        """Paint a candidate's mark onto the grid as its native mark would look."""
        return self._painter.mark((one.x, one.y), one.alpha, one.sit)

    def pictures(self, candidates: Sequence[Candidate]) -> torch.Tensor:
        """``(N, 3, G, G)`` float32 in [0, 1], one per candidate."""
        return blend(self.host, [self.mark(one) for one in candidates])
