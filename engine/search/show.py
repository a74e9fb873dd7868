"""Pictures of the candidates of one frame, as their native marks would look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.watermark.blend import GridMark, blend
from engine.watermark.paint import GridPainter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.search.candidate import Candidate
    from engine.watermark.maker import PatchMaker
    from engine.watermark.presets import PresetView


class Gallery:
    """Shows candidates on one host, under every window of the frame.

    Parameters
    ----------
    maker
        Patches of the logo.
    host
        X = I + δ on the grid, ``(3, G, G)`` float32 in [0, 1], in the first window.
    presets
        Shows marks under the further windows; None where there are none.

    Attributes
    ----------
    maker, host, presets
        As given.
    """

    def __init__(
        self, maker: PatchMaker, host: torch.Tensor, presets: PresetView | None = None
    ) -> None:
        self.maker = maker
        self.host = host
        self.presets = presets
        self._painter = GridPainter(maker)

    @property
    def windows(self) -> int:
        """W, the number of windows."""
        return 1 if self.presets is None else 1 + len(self.presets.slopes)

    def mark(self, one: Candidate) -> GridMark:
        """Paint a candidate's mark onto the grid as its native mark would look."""
        return self._painter.mark((one.x, one.y), one.alpha, one.sit)

    def pictures(self, candidates: Sequence[Candidate]) -> torch.Tensor:
        """``(W * N, 3, G, G)`` float32 in [0, 1]: all candidates window by window."""
        first = blend(self.host, [self.mark(one) for one in candidates])
        if self.presets is None:
            return first
        further = torch.stack([self._under(self.presets, one) for one in candidates])
        return torch.cat([first, further.transpose(0, 1).flatten(0, 1)])

    def _under(self, presets: PresetView, one: Candidate) -> torch.Tensor:
        planes, corner = self._painter.planes((one.x, one.y), one.sit)
        return presets.picture(planes, corner, one.alpha, self._painter.view)

    def pulled(self, pictures: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean over windows in the first window's picture.

        To first order a level of the first window is `PresetView.slopes` levels
        of another one, and none where that is saturated.

        Parameters
        ----------
        pictures
            ``(W * N, 3, G, G)`` as `pictures` gives them.
        gradients
            Of the loss of each, the same shape.

        Returns
        -------
        torch.Tensor
            ``(N, 3, G, G)``; without presets `gradients` as they are.
        """
        if self.presets is None:
            return gradients
        apart = (self.windows, -1, *pictures.shape[1:])
        per_window, shown = gradients.reshape(apart), pictures.reshape(apart)
        free = (shown > 0) & (shown < 1)
        free[0] = True
        slopes = per_window.new_tensor([1.0, *self.presets.slopes])
        return (per_window * free * slopes.view(-1, 1, 1, 1, 1)).mean(dim=0)
