"""Random marks: Eq. 6, ranges, gray on gray, and the seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from engine.removal.composites import Marker, MarkRanges, blend_layer, random_logo

RANGES = MarkRanges()


def hosts(n: int = 4, *, colour: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    channels = 3 if colour else 1
    x = torch.rand(n, channels, 96, 96, generator=generator)
    return x.expand(-1, 3, -1, -1).clone()


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("logos", [0.0, 1.0])
@pytest.mark.parametrize("colour", [False, True])
def test_composites_follow_equation_6(colour: bool, logos: float) -> None:
    marker = Marker(dataclasses.replace(RANGES, logos=logos))
    host = hosts(colour=colour)
    c = marker.composite(host, rng())
    expected = c.alpha * c.watermark + (1 - c.alpha) * host
    # Near-transparent edges lose their colour to 8 bits; they hardly count.
    torch.testing.assert_close(c.marked, expected, atol=0.01, rtol=0)
    assert torch.equal(c.host, host)
    assert bool((c.mask.sum((1, 2, 3)) > 0).all())
    outside = c.alpha == 0
    assert torch.equal(c.marked.masked_select(outside), host.masked_select(outside))
    assert 0 <= float(c.marked.min()) <= float(c.marked.max()) <= 1


def test_opacity_stays_in_its_range() -> None:
    marker = Marker(dataclasses.replace(RANGES, alpha=(0.3, 0.4), logos=1.0))
    peak = marker.composite(hosts(8), rng()).alpha.amax((1, 2, 3))
    assert float(peak.min()) > 0.25
    assert float(peak.max()) <= 0.4


def test_gray_images_get_gray_marks_and_coloured_ones_coloured() -> None:
    marker = Marker(dataclasses.replace(RANGES, logos=1.0))
    gray = marker.composite(hosts(), rng()).watermark
    assert torch.equal(gray[:, :1].expand(-1, 3, -1, -1), gray)
    coloured = marker.composite(hosts(colour=True), rng()).watermark
    assert float((coloured[:, 0] - coloured[:, 2]).abs().max()) > 0.05


def test_the_seed_decides() -> None:
    first, again, other = (
        Marker().composite(hosts(), rng(seed)).marked for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_marks_never_exceed_the_frame() -> None:
    marker = Marker(dataclasses.replace(RANGES, sl=(1.0, 1.0)))
    generator = rng()
    for _ in range(12):
        patch = marker.patch(96, generator, grey=True)
        assert max(patch.shape[:2]) <= 96
        assert bool((patch[..., :3] <= patch[..., 3:]).all())


def test_random_logos_are_usable_and_differ() -> None:
    generator = rng()
    logos = [random_logo(generator) for _ in range(12)]
    assert all(min(logo.rgba.shape[:2]) >= 8 for logo in logos)
    assert all(logo.rgba[..., 3].any() for logo in logos)
    assert len({logo.rgba.tobytes() for logo in logos}) == 12


def test_blending_a_full_layer() -> None:
    layer = torch.tensor([0.2, 0.1, 0.0, 0.5]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    host = torch.full((1, 3, 2, 2), 0.8)
    c = blend_layer(host, layer, torch.full((1, 1, 1, 1), 0.5))
    assert c.marked[0, :, 0, 0].tolist() == pytest.approx([0.7, 0.65, 0.6])
    assert c.alpha[0, 0, 0, 0].item() == pytest.approx(0.25)
    assert c.watermark[0, :, 0, 0].tolist() == pytest.approx([0.4, 0.2, 0.0])
