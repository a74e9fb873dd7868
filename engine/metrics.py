"""Measures of image quality and of accuracy, each with its definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.metrics import structural_similarity

from engine.types import LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Z95 = 1.959963984540054
"""Normal quantile of a two-sided 95 % interval."""

_RADIUS = 5
"""Of the 11x11 window of SSIM."""

_BAND = 256
"""Rows whose SSIM is computed at once; a short last band still holds a window,
since each has `_RADIUS` more rows on either side."""


def wilson_interval(correct: int, total: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default), in [0, 1].

    Raises
    ------
    ValueError
        If `total` is not positive or `correct` is outside 0..total.
    """
    if total <= 0 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is not a proportion")
    p = correct / total
    centre = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """A share of n trials, with its Wilson 95 % interval."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """Share 0..1; not a number without trials."""
        return self.successes / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval (low, high) at 95 %."""
        if not self.n:
            return (math.nan, math.nan)
        return wilson_interval(self.successes, self.n)

    def as_dict(self) -> dict[str, Any]:
        """Value, interval and n, for JSON."""
        return {"value": self.value, "interval": self.interval, "n": self.n}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How far a picture is from the original.

    ``ssim`` with an 11x11 Gaussian window of σ 1.5, channel-wise mean;
    ``psnr`` in dB, infinite for equal pictures; ``rmse`` in display levels.
    """

    ssim: float
    psnr: float
    rmse: float


def quality(original: NDArray[np.uint8], changed: NDArray[np.uint8]) -> Quality:
    """SSIM, PSNR and RMSE between two rendered frames.

    Parameters
    ----------
    original, changed
        ``(rows, columns[, 3])`` uint8 levels 0..255, at least 11 pixels a side.
    """
    error = rmse(original, changed)
    return Quality(
        ssim=ssim(original, changed),
        psnr=math.inf if error == 0 else 20 * math.log10(LEVELS / error),
        rmse=error,
    )


def rmse(original: NDArray[np.uint8], changed: NDArray[np.uint8]) -> float:
    """Root mean square difference in display levels."""
    difference = original.astype(np.float64) - changed
    return float(np.sqrt(np.mean(difference * difference)))


def ssim(original: NDArray[np.uint8], changed: NDArray[np.uint8]) -> float:
    """Structural similarity, 1 for equal pictures.

    Computed in bands of rows, which gives the same mean and keeps the memory
    for large frames within bounds.
    """
    rows: int = original.shape[0]
    total = 0.0
    for top in range(0, rows - 2 * _RADIUS, _BAND):
        band = slice(top, min(top + _BAND + 2 * _RADIUS, rows))
        inner = band.stop - band.start - 2 * _RADIUS
        total += inner * _band_ssim(original[band], changed[band])
    return total / (rows - 2 * _RADIUS)


def _band_ssim(original: NDArray[np.uint8], changed: NDArray[np.uint8]) -> float:
    """Mean over the pixels whose window lies wholly inside."""
    # scikit-image's own functions carry no annotations.
    similarity: Any = structural_similarity
    value = similarity(
        original,
        changed,
        data_range=LEVELS,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if original.ndim == 3 else None,
    )
    return float(value)
