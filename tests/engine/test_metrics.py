"""Image quality and intervals against values known in advance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from engine.metrics import Proportion, quality


def test_psnr_and_rmse_fit_the_papers_pair() -> None:
    original = np.full((64, 64), 100, np.uint8)
    changed = original.copy()
    changed[::2] += 8
    measured = quality(original, changed)
    assert measured.rmse == pytest.approx(math.sqrt(32))
    assert measured.psnr == pytest.approx(20 * math.log10(255 / math.sqrt(32)))


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_equal_pictures_are_perfect(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    measured = quality(picture, picture.copy())
    assert measured.ssim == pytest.approx(1.0)
    assert measured.rmse == 0
    assert measured.psnr == math.inf


def test_noise_lowers_ssim() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(50, 200, (64, 64)).astype(np.uint8)
    noisy = (picture + rng.integers(-40, 41, (64, 64))).astype(np.uint8)
    assert quality(picture, noisy).ssim < 0.95


@pytest.mark.parametrize("shape", [(300, 40), (267, 40), (600, 40, 3)])
def test_bands_do_not_change_ssim(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, shape).astype(np.uint8)
    other = np.clip(picture + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)
    whole = structural_similarity(
        picture,
        other,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if len(shape) == 3 else None,
    )
    assert quality(picture, other).ssim == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(k: int, n: int, low: float, high: float) -> None:
    share = Proportion(successes=k, n=n)
    assert share.value == k / n
    assert share.interval == pytest.approx((low, high), abs=1e-4)


def test_no_trials_say_nothing() -> None:
    assert math.isnan(Proportion(successes=0, n=0).value)
    assert all(math.isnan(x) for x in Proportion(successes=0, n=0).interval)
