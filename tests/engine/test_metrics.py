"""Image quality and intervals against values known in advance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from engine.metrics import Proportion, micro_roc, paired, quality


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


def test_micro_roc_by_hand() -> None:
    # Flattened: positives .6 .2 .5 against negatives .4 .8 .5. Of the nine pairs
    # .6 beats .4 and .5, .5 beats .4 and ties with .5, .2 beats none: 3.5 of 9.
    roc = micro_roc([0, 0, 1], np.array([[0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]))
    assert roc.area == pytest.approx(3.5 / 9)
    assert (roc.false_positive[0], roc.true_positive[0]) == (0, 0)
    assert (roc.false_positive[-1], roc.true_positive[-1]) == (1, 1)


def test_certain_answers_have_area_one_or_zero() -> None:
    assert micro_roc([0, 1, 2], np.eye(3)).area == 1
    swapped = np.eye(2)[[1, 0]]
    assert micro_roc([0, 1], swapped).area == 0


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([], np.zeros((0, 2))),
        ([0], np.zeros((1, 1))),
        ([0, 1], np.full((1, 2), 0.5)),
        ([2], np.full((1, 2), 0.5)),
        ([-1], np.full((1, 2), 0.5)),
        ([0], np.array([[math.nan, 0.5]])),
    ],
)
def test_no_roc_of_nonsense(labels: list[int], probabilities: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"labels and probabilities|no number"):
        micro_roc(labels, probabilities)


def test_paired_comparison() -> None:
    first = [True] * 8 + [False] * 4
    second = [True] * 2 + [False] * 7 + [True] * 1 + [False] * 2
    compared = paired(first, second)
    assert (compared.first_only, compared.second_only, compared.n) == (6, 1, 12)
    assert compared.difference == pytest.approx(5 / 12)
    # 2 * P(at most 1 of 7 by a fair coin) = 2 * 8 / 128.
    assert compared.p_value == pytest.approx(0.125)
    low, high = compared.interval
    assert low < compared.difference < high


def test_equal_treatments_do_not_differ() -> None:
    same = paired([True, False], [True, False])
    assert same.p_value == 1
    assert same.difference == 0
    assert same.interval[0] < 0 < same.interval[1]
    with pytest.raises(ValueError, match="shorter"):
        paired([True], [])
