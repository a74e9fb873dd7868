"""The engine's search against Algorithm 3 as printed, one candidate at a time."""

from __future__ import annotations

import pytest

from benchmarks import search as printed
from engine.params import SearchParams
from engine.search.judges import Judges
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.planted import planted_ensemble
from tests.engine.searching import LOGO, host_picture

HOST = host_picture()
WIDE = (10, 15, 190, 200), (40, 0, 224, 150)


def _case(seed: int, size: tuple[int, int]) -> printed.Case:
    geometry = Geometry(columns=size[0], rows=size[1])
    maker = PatchMaker(logo=LOGO, geometry=geometry, sl=2.0, grey=True)
    return printed.Case(seed=seed, host=HOST, maker=maker, label=0)


@pytest.mark.parametrize("strategy", ["he", "he-sit"])
@pytest.mark.parametrize(
    ("stop", "budget", "threshold", "least", "most"),
    [
        ("ensemble", 0, 0.3, 39, 60),  # in vain: all generations
        ("ensemble", 0, 0.05, 2, 59),
        ("never", 0, 0.3, 39, 60),
        ("never", 30, 0.3, 30, 30),
    ],
)
def test_batches_judge_what_the_paper_judges_one_by_one(
    strategy: str, stop: str, budget: int, threshold: float, least: int, most: int
) -> None:
    ensemble = planted_ensemble(HOST, *WIDE, threshold=threshold)
    params = SearchParams(
        strategy=strategy,  # type: ignore[arg-type]
        stop=stop,
        budget=budget,
        r_p=0.001,
        n_p=3,
    )
    cases = [_case(0, (224, 224)), _case(1, (300, 410))]
    ours = printed.engine_search(cases, Judges(ensemble, precise=True), params)
    for case, one in zip(cases, ours, strict=True):
        alone = printed.literal(case, ensemble.members, params)
        assert one.judged == alone.judged
        assert one.best == alone.best
        assert least <= len(one.judged) <= most
