"""The key size page says what its figures say."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.record_sizes import GRID, NATIVE, NO_DELTA, NOISE, Sizes, page

CT = Sizes(
    kind="CT",
    file="ct.dcm",
    raw=100_000,
    lossless=18_000,
    sealed=18_500,
    keys={NO_DELTA: 900, GRID: 4_000, NOISE: 9_000, NATIVE: 16_000},
    custody="key",
    record=4_900,
    alpha=128,
    misled=True,
)

OTHER = replace(CT, keys={NO_DELTA: 1_100, GRID: 6_000, NOISE: 9_000, NATIVE: 26_000})


def test_shares_means_and_choices_are_in_the_page() -> None:
    said = page([CT, OTHER])
    assert "| CT | `ct.dcm` | 100,000 | 0.50 | 18.0 | 18.5 | 0.9 | 4.0 | 9.0 |" in said
    means = "| mean |  |  |  | 18.0 | 18.5 | 1.0 | 5.0 | 9.0 | 21.0 | 4.9 |  |"
    assert means in said
    assert "5.0 % of the raw pixel octets (at most 8 %)" in said
    assert "larger than the sealed original in 0 of 2 images" in said
    assert "it keeps the key in 2" in said
    assert "smaller than the sealed original in 1 of 2 images" in said


def test_broken_bounds_are_said() -> None:
    large = replace(CT, keys={**CT.keys, GRID: 9_000}, record=30_000)
    said = page([large])
    assert "**above** 8 %" in said
    assert "in 1 of 1 images" in said
