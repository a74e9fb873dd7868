"""CMA-ES: what its genes mean, what it may propose, and that it gets somewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import NoFeasiblePlacement
from engine.lesion.boxes import fill
from engine.params import SearchParams, SITRanges
from engine.search.candidate import Candidate, Judged, Judgement
from engine.search.cma import RANDOM_SHARE, covariance_search, genome
from engine.search.judges import Judges
from engine.search.objective import objective_for
from engine.search.region import region
from engine.search.run import Task, run_searches
from engine.search.show import Gallery
from engine.search.space import Space
from engine.search.start import start_search
from engine.search.strategy import Strategy
from engine.types import SIT, Box
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.planted import planted_ensemble

LOGO = load_logo()
LESION = Box(x0=80, y0=80, x1=140, y1=130)
UPRIGHT = SITRanges(
    rotation=(0.0, 0.0), hue=(0.0, 0.0), saturation=(1.0, 1.0), value=(1.0, 1.0)
)


def _space(*boxes: Box, grey: bool = False, **changes: object) -> Space:
    params = SearchParams(strategy="cma-es", **changes)  # type: ignore[arg-type]
    maker = PatchMaker(
        logo=LOGO,
        geometry=Geometry(columns=224, rows=224),
        sl=params.sl,
        grey=grey,
    )
    free = region(fill(boxes, (224, 224)))
    return Space(region=free, maker=maker, params=params)


def _worth(one: Candidate) -> float:
    """A bowl whose bottom touches a lesion box and the highest α."""
    hue = (one.sit.hue + 170 + 180) % 360 - 180
    return (
        ((one.x - 60) / 50) ** 2
        + ((one.y - 140) / 50) ** 2
        + ((one.alpha - 230) / 50) ** 2
        + ((one.sit.rotation - 20) / 30) ** 2
        + (hue / 60) ** 2
    )


def _judged(one: Candidate, generation: int, fitness: float) -> Judged:
    said = Judgement(fitness=fitness, tie=0, wrong=0, deceived=False, success=False)
    return Judged(one, said, generation)


def _run_out(
    strategy: Strategy | None, size: int = 16, power: float = 1
) -> list[Judged]:
    assert strategy is not None
    found: list[Judged] = []
    while asked := strategy.ask(size).candidates:
        assert strategy.ask(size).candidates == asked
        told = [
            _judged(one, strategy.generation, _worth(one) ** power) for one in asked
        ]
        found += told
        strategy.tell(told, None)
    return found


def _search(space: Space, seed: int = 0) -> Strategy | None:
    return covariance_search(space, np.random.default_rng(seed))


def test_genes_that_cannot_vary_are_left_out() -> None:
    def names(space: Space) -> set[str]:
        return {gene.name for gene in genome(space).genes}

    every = {"x", "y", "alpha", "rotation", "hue", "saturation", "value"}
    assert names(_space()) == every
    assert names(_space(grey=True)) == every - {"hue", "saturation"}
    assert names(_space(sit=UPRIGHT)) == {"x", "y", "alpha"}
    assert names(_space(sit=UPRIGHT, alpha_min=150, alpha_max=150)) == {"x", "y"}


def test_only_a_full_circle_goes_round() -> None:
    space = _space(sit=SITRanges(rotation=(-90.0, 90.0)))
    cyclic = {gene.name for gene in genome(space).genes if gene.cyclic}
    assert cyclic == {"hue"}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-3, 4), min_size=7, max_size=7))
def test_all_genes_mean_something_feasible(values: list[float]) -> None:
    space = _space(LESION, Box(x0=0, y0=0, x1=224, y1=40))
    near = Candidate(x=10, y=150, alpha=150, sit=SIT())
    genes = genome(space)
    one = genes.decode(np.array(values), near)
    assert space.feasible(one)
    assert -45 <= one.sit.rotation <= 45
    # A feasible candidate is found again from its own genes.
    again = genes.decode(genes.encode(one), near)
    assert again[:3] == one[:3]
    assert again.sit.rotation == pytest.approx(one.sit.rotation)
    assert np.abs(genes.moved(genes.encode(one), one)).max() < 1e-9


def test_the_way_to_the_nearest_place_is_measured() -> None:
    space = _space(LESION)
    genes = genome(space)
    near = Candidate(x=10, y=150, alpha=150, sit=SIT())
    wanted = genes.encode(near._replace(x=60, y=80))
    one = genes.decode(wanted, near)
    assert (one.x, one.y) != (60, 80)
    moved = dict(
        zip([g.name for g in genes.genes], genes.moved(wanted, one), strict=True)
    )
    assert abs(moved["x"]) + abs(moved["y"]) > 0.05
    assert moved["alpha"] == moved["rotation"] == 0
    # Once round is no way at all.
    turned = wanted + np.array([g.name == "hue" for g in genes.genes])
    hue = [g.name for g in genes.genes].index("hue")
    assert genes.moved(turned, one)[hue] == pytest.approx(0)


def test_a_transform_without_any_place_is_turned_back() -> None:
    band = Box(x0=0, y0=70, x1=224, y1=224)
    space = _space(band)
    near = Candidate(x=10, y=2, alpha=150, sit=SIT())
    genes = genome(space)
    wanted = genes.encode(near._replace(sit=SIT(rotation=45.0)))
    one = genes.decode(wanted, near)
    assert space.feasible(one)
    assert 0 <= one.sit.rotation < 45


def test_batches_do_not_change_a_search() -> None:
    space = _space(LESION, budget=60)
    assert _run_out(_search(space), 1) == _run_out(_search(space), 50)
    assert _run_out(_search(space), 7) != _run_out(_search(space, seed=1), 7)


def test_only_ranks_count() -> None:
    space = _space(LESION, budget=60)
    plain, steep = (_run_out(_search(space), power=p) for p in (1, 3))
    assert [one.candidate for one in plain] == [one.candidate for one in steep]


def test_the_budget_is_spent_and_kept() -> None:
    space = _space(LESION, budget=80)
    found = _run_out(_search(space))
    assert len(found) == len({one.candidate for one in found}) == 80
    first = sum(one.generation == 0 for one in found)
    assert 0.75 * 80 * RANDOM_SHARE <= first <= 80 * RANDOM_SHARE
    assert all(space.feasible(one.candidate) for one in found)


def test_without_a_budget_it_has_128_queries() -> None:
    search = _search(_space())
    assert search is not None
    assert search.bound == 128


def test_a_space_of_few_candidates_ends_the_search() -> None:
    boxes = (Box(x0=0, y0=66, x1=224, y1=224), Box(x0=118, y0=0, x1=224, y1=224))
    space = _space(*boxes, budget=200, sit=UPRIGHT, alpha_min=150, alpha_max=151)
    found = _run_out(_search(space))
    assert 1 <= len(found) < 200
    assert all(space.feasible(one.candidate) for one in found)


def test_it_beats_random_search() -> None:
    def best(strategy: str, seed: int) -> float:
        space = _space(LESION, budget=120)
        params = SearchParams(strategy=strategy, budget=120)  # type: ignore[arg-type]
        start = start_search(
            space.maker, space.region, params, np.random.default_rng(seed)
        )
        return min(_worth(one.candidate) for one in _run_out(start.strategy)[:120])

    ours, theirs = (
        sorted(best(name, seed) for seed in range(5))
        for name in ("cma-es", "random-sit")
    )
    assert ours[2] < 0.6 * theirs[2]


def test_no_room_is_said() -> None:
    space = _space(Box(x0=0, y0=0, x1=224, y1=224))
    assert _search(space) is None
    with pytest.raises(NoFeasiblePlacement, match="lesion boxes"):
        start_search(space.maker, space.region, space.params, np.random.default_rng(0))


def test_a_planted_weakness_is_found() -> None:
    yy, xx = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    wave = 0.35 + 0.1 * torch.sin(xx / 17) + 0.1 * torch.cos(yy / 23)
    host = wave.expand(3, -1, -1).contiguous()
    window = (120, 150, 190, 190)
    ensemble = planted_ensemble(host, window, window, threshold=0.06)
    space = _space(LESION, grey=True, budget=60, stop="all")
    start = start_search(
        space.maker, space.region, space.params, np.random.default_rng(0)
    )
    objective = objective_for(ensemble, host, 0, space.params.stop_rule)
    gallery = Gallery(start.space.maker, host)

    def confirm(one: Candidate) -> Judgement:
        logits = ensemble.member_logits(gallery.pictures([one]))
        return objective.judge(logits.detach().double())[0]

    (outcome,) = run_searches(
        [
            Task(
                strategy=start.strategy,
                objective=objective,
                gallery=gallery,
                confirm=confirm,
                budget=60,
            )
        ],
        Judges(ensemble),
    )
    assert outcome.success
    assert outcome.best.judgement.wrong == 2
