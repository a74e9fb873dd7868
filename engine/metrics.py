"""Measures of image quality and of accuracy, each with its definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.metrics import structural_similarity

from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

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
class Paired:
    """Two treatments of the same trials, each a success or not (McNemar).

    Attributes
    ----------
    first_only, second_only
        Trials in which only one of them succeeded.
    n
        All trials.
    """

    first_only: int
    second_only: int
    n: int

    @property
    def difference(self) -> float:
        """Success rate of the first less that of the second; nan without trials."""
        return (self.first_only - self.second_only) / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference.

        Agresti and Min's: half a trial is added to each of the four cells, which
        keeps it honest where few trials differ.
        """
        b, c, n = self.first_only + 0.5, self.second_only + 0.5, self.n + 2
        half = _Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
        return max(-1.0, (b - c) / n - half), min(1.0, (b - c) / n + half)

    @property
    def p_value(self) -> float:
        """Exact two-sided p of both being equal (binomial on those that differ)."""
        differ = self.first_only + self.second_only
        tail = sum(
            math.comb(differ, i)
            for i in range(min(self.first_only, self.second_only) + 1)
        )
        return min(1.0, float(2 * tail / 2**differ))

    def as_dict(self) -> dict[str, Any]:
        """Difference, interval, p and counts, for JSON."""
        return {
            "difference": self.difference,
            "interval": self.interval,
            "p": self.p_value,
            "first_only": self.first_only,
            "second_only": self.second_only,
            "n": self.n,
        }


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare two treatments trial by trial.

    Raises
    ------
    ValueError
        If they are not of the same length.
    """
    both = list(zip(first, second, strict=True))
    return Paired(
        first_only=sum(a and not b for a, b in both),
        second_only=sum(b and not a for a, b in both),
        n=len(both),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Roc:
    """A receiver operating characteristic and the area under it.

    ``false_positive`` and ``true_positive`` are ``(m,)`` float64 rates, rising
    from 0 to 1.
    """

    false_positive: NDArray[np.float64]
    true_positive: NDArray[np.float64]
    area: float


def micro_roc(labels: Sequence[int], probabilities: NDArray[np.float64]) -> Roc:
    """Micro-average one-vs-rest ROC (P, Metrics): one-hot and probabilities flattened.

    Parameters
    ----------
    labels
        True class of each of N images, 0..C-1.
    probabilities
        ``(N, C)`` in [0, 1], C at least 2.

    Raises
    ------
    ValueError
        There are no images, fewer than two classes, a label that is none of
        them, or a probability that is no number.
    """
    # Only experiments need it: protecting processes start without it.
    from sklearn.metrics import auc, roc_curve

    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != len(labels) or not len(labels) or p.shape[1] < 2:
        raise ValueError(
            f"{len(labels)} labels and probabilities of shape {p.shape}: need (N, C) "
            "of at least one image and two classes"
        )
    if not np.isfinite(p).all() or not 0 <= min(labels) <= max(labels) < p.shape[1]:
        raise ValueError(
            "a probability is no number, or a label is none of the classes"
        )
    truth = np.eye(p.shape[1], dtype=np.int64)[np.asarray(labels)]
    false_positive, true_positive, _ = roc_curve(truth.ravel(), p.ravel())
    return Roc(
        false_positive=false_positive,
        true_positive=true_positive,
        area=float(auc(false_positive, true_positive)),
    )


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
