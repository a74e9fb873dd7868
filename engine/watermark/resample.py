"""One axis of the resize from a frame to the model grid, as sparse weights.

All on the CPU: how many grid pixels a mark reaches is known without asking a
device, and a patch costs what its taps cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Antialiased resize of ``length`` pixels to ``side``.

    Attributes
    ----------
    length, side
        Pixels before and after.
    first, last
        ``(side,)`` int32: first and last pixel each result looks at, never
        decreasing.
    weights
        ``(side, taps)`` float32: of the pixels from there on; unused taps are 0.
    """

    length: int
    side: int
    first: NDArray[np.int32] = field(repr=False)
    last: NDArray[np.int32] = field(repr=False)
    weights: NDArray[np.float32] = field(repr=False)

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """Half-open range of results that see any of the pixels [start, stop)."""
        low = int(np.searchsorted(self.last, start))
        high = int(np.searchsorted(self.first, stop))
        return low, max(high, low + 1)

    def apply(
        self, planes: NDArray[np.float32], start: int
    ) -> tuple[NDArray[np.float32], int]:
        """Resize pixels that begin at ``start``; all others are zero.

        Parameters
        ----------
        planes
            ``(n, m)`` float32, resized along the first axis.
        start
            Where along the axis they lie; ``start + n`` at most `length`.

        Returns
        -------
        tuple[NDArray[np.float32], int]
            ``(k, m)`` float32, the results that see any of them, and the index
            of the first.
        """
        n = len(planes)
        low, high = self.reach(start, start + n)
        seen = self.weights[low:high]
        taps = seen.shape[1]
        pixel = self.first[low:high, None] - start + np.arange(taps, dtype=np.int32)
        inside = (pixel >= 0) & (pixel < n)
        matrix = csr_matrix(
            (
                np.where(inside, seen, np.float32(0)).ravel(),
                np.where(inside, pixel, 0).ravel(),
                np.arange(0, seen.size + 1, taps, dtype=np.int32),
            ),
            shape=(high - low, n),
        )
        return cast("NDArray[np.float32]", matrix @ planes), low


def axis(length: int, side: int) -> Axis:
    """Weights of the resize that `levels_to_tensor` does, along one axis."""
    basis = torch.eye(length)[None, None]
    dense = interpolate(
        basis, (length, side), mode="bilinear", antialias=True, align_corners=False
    )[0, 0].T.numpy()
    used = dense > 0
    first = used.argmax(axis=1).astype(np.int32)
    taps = int(used.sum(axis=1).max())
    pixel = np.minimum(first[:, None] + np.arange(taps), length - 1)
    weights = np.take_along_axis(dense, pixel, axis=1)
    # Where the clip repeated the last pixel it must not count twice.
    weights[first[:, None] + np.arange(taps) >= length] = 0
    last = (first + used.sum(axis=1) - 1).astype(np.int32)
    return Axis(length=length, side=side, first=first, last=last, weights=weights)
