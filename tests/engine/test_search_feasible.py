"""No mark ever on a lesion: every strategy, every reading, every native size."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import NoFeasiblePlacement
from engine.lesion.boxes import fill, overlaps
from engine.params import SearchParams, StopRule
from engine.search.native import NativeTrial
from engine.search.objective import objective_for
from engine.search.region import region
from engine.search.start import start_search
from engine.types import Box, Frame, Rendering
from tests.engine.planted import planted_ensemble
from tests.engine.searching import host_picture, judged, maker

if TYPE_CHECKING:
    from engine.search.candidate import Candidate
    from engine.search.start import Start

HOST = host_picture()
ENSEMBLE = planted_ensemble(HOST, (0, 0, 9, 9))
SIDE = 224

lengths = st.integers(1, 90)
corners = st.integers(0, SIDE - 1)
boxes = st.builds(
    lambda x, y, w, h: Box(x0=x, y0=y, x1=min(SIDE, x + w), y1=min(SIDE, y + h)),
    corners,
    corners,
    lengths,
    lengths,
)
readings = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(
            ["random", "he", "he-sit", "he-sit", "random-sit", "gradient", "cma-es"]
        ),
        "grid": st.sampled_from(["eq9", "linspace"]),
        "step": st.sampled_from(["pitch", "spacing"]),
        "alpha_init": st.sampled_from(["stratified", "shared"]),
        "crossover": st.sampled_from(["product", "swap"]),
        "selection": st.sampled_from(["plus", "strict"]),
        "sit_scope": st.sampled_from(["individual", "image", "genes"]),
        "matte": st.sampled_from(["soft", "binary"]),
        "sl": st.sampled_from([1.0, 2.0, 2.7, 4.0]),
        "n_p": st.integers(1, 4),
        "budget": st.just(45),
        "r_p": st.just(0.001),
    }
)
sizes = st.tuples(st.integers(32, 700), st.integers(32, 700))


def _whim(one: Candidate) -> float:
    """A fitness without rhyme or reason, but always the same."""
    return sha256(repr(one).encode()).digest()[0] / 255


def _proposed(begun: Start, budget: int, seed: int) -> list[Candidate]:
    """What a strategy proposes until the budget is spent."""
    whims = torch.Generator().manual_seed(seed)
    found: list[Candidate] = []
    while len(found) < budget:
        asked = begun.strategy.ask(16)
        if not asked.candidates:
            break
        found += asked.candidates
        cost = 3 if asked.gradients else 1
        told = [judged(one, _whim(one), cost=cost) for one in asked.candidates]
        shape = len(told), *HOST.shape
        slopes = torch.randn(shape, generator=whims) if asked.gradients else None
        begun.strategy.tell(told, slopes)
    return found


def _native(begun: Start, lesions: list[Box], size: tuple[int, int]) -> NativeTrial:
    stored = np.zeros(size[::-1], dtype=np.int32)
    frame = Frame(
        stored=stored, rendering=Rendering(lo=0, hi=255), minimum=0, maximum=255
    )
    native = begun.space.maker.geometry.native_box
    return NativeTrial(
        frame=frame,
        host=stored,
        boxes=[native(box) for box in lesions],
        maker=begun.space.maker,
        objective=objective_for(ENSEMBLE, HOST, 0, StopRule()),
        device=torch.device("cpu"),
    )


def _check_native(one: Candidate, trial: NativeTrial, size: tuple[int, int]) -> None:
    mark = trial.mark(one)
    if mark is None:
        # Rounding may only take the place where a native pixel is a large one.
        assert min(size) < SIDE
        return
    h, w = mark.patch.shape[:2]
    footprint = Box(x0=mark.x, y0=mark.y, x1=mark.x + w, y1=mark.y + h)
    assert not any(overlaps(footprint, box) for box in trial.boxes)
    assert 0 <= mark.x <= size[0] - w
    assert 0 <= mark.y <= size[1] - h


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(readings, st.lists(boxes, max_size=4), sizes, st.integers(0, 2**32))
def test_no_footprint_pixel_lies_in_a_lesion_box(
    reading: dict[str, object], lesions: list[Box], size: tuple[int, int], seed: int
) -> None:
    params = SearchParams(**reading)  # type: ignore[arg-type]
    forbidden = fill(lesions, (SIDE, SIDE))
    generator = np.random.default_rng(seed)
    try:
        begun = start_search(
            maker(params.sl, size=size), region(forbidden), params, generator, HOST
        )
    except NoFeasiblePlacement:
        assert lesions
        return
    found = _proposed(begun, params.budget, seed)
    assert found
    for one in found:
        w, h = begun.space.size(one.sit)
        assert 0 <= one.x <= SIDE - w
        assert 0 <= one.y <= SIDE - h
        assert not forbidden[one.y : one.y + h, one.x : one.x + w].any()
        assert params.alpha_min <= one.alpha <= params.alpha_max
    trial = _native(begun, lesions, size)
    for one in found[:2] + found[-4:]:
        _check_native(one, trial, size)
