"""The gradient-guided search: its first-order scores are true, its budget kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.lesion.boxes import fill
from engine.params import SearchParams
from engine.search.candidate import Candidate, Judged, Judgement
from engine.search.gradient import GradientGuided, Plan, Slope
from engine.search.judges import Judges
from engine.search.objective import objective_for, surrogate
from engine.search.region import region
from engine.search.run import Outcome, Task, run_searches
from engine.search.show import Gallery
from engine.search.space import Space
from engine.search.start import start_search
from engine.search.strategy import GRADIENT_COST
from engine.types import SIT, Box
from engine.watermark.blend import GridMark
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.planted import planted_ensemble

SIDE = 224
OPEN = region(np.zeros((SIDE, SIDE), dtype=np.bool_))
PLANTED = (120, 70, 170, 100)


def _host() -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    wave = 0.35 + 0.1 * torch.sin(xx / 17) + 0.1 * torch.cos(yy / 23)
    return wave.expand(3, -1, -1).contiguous()


def _maker() -> PatchMaker:
    return PatchMaker(
        logo=load_logo(), geometry=Geometry(columns=SIDE, rows=SIDE), sl=2, grey=True
    )


def _space(free: object = OPEN, **changes: object) -> Space:
    params = SearchParams(strategy="gradient", **changes)  # type: ignore[arg-type]
    return Space(
        region=free,  # type: ignore[arg-type]
        maker=_maker(),
        params=params,
        gallery=Gallery(_maker(), _host()),
    )


@pytest.mark.parametrize("sit", [SIT(), SIT(rotation=20.0, value=0.8)])
def test_scores_are_what_a_linear_loss_gives(sit: SIT) -> None:
    space, host = _space(), _host()
    generator = torch.Generator().manual_seed(1)
    # Smooth, so that the coarse positions lose little.
    rough = torch.rand(3, 28, 28, generator=generator) - 0.5
    gradient = torch.nn.functional.interpolate(rough[None], SIDE, mode="bilinear")[0]
    assert space.gallery is not None
    corner = space.gallery.mark(Candidate(x=0, y=0, alpha=255, sit=sit))
    scores = Slope.of(gradient, host).scores([corner])[0]
    places = [(0, 0), (40, 20), (90, 60), (10, 120)]
    ones = [Candidate(x=x, y=y, alpha=120, sit=sit) for x, y in places]
    true = ((space.gallery.pictures(ones) - host) * gradient).sum((1, 2, 3))
    found = [scores[y // 2, x // 2] * 120 / 255 for x, y in places]
    assert found == pytest.approx(true.tolist(), abs=0.03 * float(true.abs().max()))


def test_gradients_at_several_marks_add_up() -> None:
    host = _host()
    one, two = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mark = GridMark(x=0, y=0, alpha=255, patch=torch.rand(4, 30, 40))
    mixed = Slope.of(one, host).mixed(Slope.of(two, host)).scores([mark])
    whole = Slope.of(one + two, host).scores([mark])
    np.testing.assert_allclose(mixed, whole, atol=2e-2)


def _judgement(one: Candidate) -> Judgement:
    far = abs(one.x - 80) + abs(one.y - 90) + abs(one.alpha - 150)
    return Judgement(
        fitness=float(far), tie=0.0, wrong=0, deceived=False, success=False
    )


def _run_out(strategy: GradientGuided, size: int) -> list[Judged]:
    told: list[Judged] = []
    while True:
        asked = strategy.ask(size)
        if not asked.candidates:
            return told
        assert strategy.ask(size) == asked
        cost = GRADIENT_COST if asked.gradients else 1
        judged = [Judged(one, _judgement(one), 0, cost) for one in asked.candidates]
        gradients = None
        if asked.gradients:
            noise = torch.Generator().manual_seed(len(told))
            shape = (len(judged), 3, SIDE, SIDE)
            gradients = torch.randn(shape, generator=noise)
        strategy.tell(judged, gradients)
        told.extend(judged)


@pytest.mark.parametrize("budget", [1, 3, 20, 64])
def test_the_budget_is_kept_and_nearly_spent(budget: int) -> None:
    strategy = GradientGuided(_space(), budget, np.random.default_rng(3))
    told = _run_out(strategy, 5)
    spent = sum(one.cost for one in told)
    assert budget - GRADIENT_COST <= spent <= budget == strategy.bound
    plain = [one.candidate for one in told if one.cost == 1]
    assert len(plain) == len(set(plain))
    bases = [one.candidate for one in told if one.cost > 1]
    assert len(bases) == len(set(bases))
    assert set(bases) <= set(plain)


def test_the_same_seed_asks_the_same_whatever_the_batches() -> None:
    alone = _run_out(GradientGuided(_space(), 40, np.random.default_rng(3)), 1)
    together = _run_out(GradientGuided(_space(), 40, np.random.default_rng(3)), 16)
    assert alone == together
    other = _run_out(GradientGuided(_space(), 40, np.random.default_rng(4)), 16)
    assert other != together


def test_proposals_keep_clear_of_lesions_and_within_bounds() -> None:
    boxes = [Box(x0=90, y0=80, x1=130, y1=120)]
    forbidden = fill(boxes, (SIDE, SIDE))
    space = _space(region(forbidden), alpha_min=60, alpha_max=180)
    for one in _run_out(GradientGuided(space, 60, np.random.default_rng(1)), 16):
        assert space.feasible(one.candidate)
        x, y, alpha, _ = one.candidate
        w, h = space.size(one.candidate.sit)
        assert not forbidden[y : y + h, x : x + w].any()
        assert 60 <= alpha <= 180


def test_it_needs_the_pictures() -> None:
    space = Space(region=OPEN, maker=_maker(), params=SearchParams())
    with pytest.raises(ValueError, match="gallery"):
        GradientGuided(space, 10, np.random.default_rng(0), Plan())


def _search(budget: int, **changes: object) -> Outcome:
    ensemble = planted_ensemble(_host(), PLANTED, PLANTED, threshold=0.06)
    params = SearchParams(strategy="gradient", budget=budget, **changes)  # type: ignore[arg-type]
    start = start_search(_maker(), OPEN, params, np.random.default_rng(0), _host())
    objective = objective_for(ensemble, _host(), 0, params.stop_rule)
    gallery = Gallery(start.space.maker, _host())

    def confirm(one: Candidate) -> Judgement:
        logits = ensemble.member_logits(gallery.pictures([one])).detach().double()
        return objective.judge(logits)[0]

    task = Task(
        strategy=start.strategy,
        objective=objective,
        gallery=gallery,
        confirm=confirm,
        budget=budget,
    )
    (outcome,) = run_searches([task], Judges(ensemble, precise=True))
    return outcome


def test_a_planted_weakness_is_found_and_deepened() -> None:
    outcome = _search(60, stop="never")
    assert outcome.success
    assert outcome.queries <= 60
    assert outcome.gradients >= 2
    explored = [one for one in outcome.judged if one.generation == 0]
    assert outcome.best.rank < min(one.rank for one in explored)


def test_the_first_success_ends_it_under_the_papers_rule() -> None:
    outcome = _search(128, stop="ensemble")
    assert outcome.success
    assert outcome.queries == outcome.first_error


def test_the_surrogate_pulls_most_at_members_that_hold() -> None:
    logits = torch.tensor([[[4.0, 0.0]], [[-4.0, 0.0]]], requires_grad=True)
    weights = torch.full((2,), 0.5)
    loss = surrogate(logits, torch.tensor([0]), weights)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.shape == (1,)
    assert slope[0, 0, 0] > 10 * slope[1, 0, 0] > 0
    assert torch.allclose(slope.sum(-1), torch.zeros(2, 1))
