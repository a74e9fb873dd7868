"""Runs a search: batches, early stop, confirmation of what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from engine.search.evolve import ask, tell
from engine.watermark.blend import blend, patch_tensor
from engine.watermark.working import grid_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from engine.search.evolve import Judged, SearchState
    from engine.search.objective import Objective
    from engine.search.populate import Start
    from engine.search.space import Individual
    from engine.watermark.blend import GridMark

MAX_CONFIRMATIONS: Final = 8
"""Candidates confirmed at native size before the search gives up on it."""

_COMPARED: Final = 16
"""Successes of lowest f_t whose features are compared, label-free."""

_BATCHES: Final = (4, 8, 16)
"""Sizes of the first batches; the last one repeats. A first success often
comes early, and on a CPU a small batch is hardly slower per image."""


_PATCHES: Final = 32
"""Drawn patches kept: offspring use those of their ancestors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a search found.

    Attributes
    ----------
    best
        The confirmed candidate, or the one of lowest f_t.
    success
        Whether `best` was confirmed.
    queries
        Candidates judged up to and including `best` where the first success
        ends the search, otherwise all.
    judged
        All candidates judged, in order, those after the success included.
    confirmations
        How many candidates were put to the test at native size.
    """

    best: Judged
    success: bool
    queries: int
    judged: tuple[Judged, ...]
    confirmations: int


def run_search(
    start: Start,
    objective: Objective,
    host: torch.Tensor,
    confirm: Callable[[Individual], bool],
    generator: np.random.Generator,
    *,
    tick: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Search until a candidate is confirmed or the budget is spent.

    Parameters
    ----------
    start
        From `engine.search.populate.start_search`.
    objective
        Judges pictures on the model grid.
    host
        X = I + δ on the grid, ``(3, G, G)`` float32 in [0, 1].
    confirm
        Whether a candidate holds when it is blended at native size.
    generator
        Source of the choice of mutations.
    tick
        Called with the number of candidates of every batch.
    """
    show = _shower(start, host.device)

    def picture(individuals: Sequence[Individual]) -> torch.Tensor:
        return blend(host, [show(one) for one in individuals])

    state = start.state
    tested: set[int] = set()
    while not state.done and len(tested) < MAX_CONFIRMATIONS:
        batch = ask(state, _batch_size(state, objective))
        before, judgements = state, objective.judge(picture(batch))
        state = tell(state, start.problem, judgements, generator)
        tick(len(batch))
        for claim in _claims(before, state, objective, picture):
            if claim in tested or len(tested) == MAX_CONFIRMATIONS:
                continue
            tested.add(claim)
            if confirm(state.judged[claim].individual):
                return _found(state, claim, len(tested), objective)
    return _exhausted(state, len(tested))


def _found(
    state: SearchState, claim: int, tested: int, objective: Objective
) -> Outcome:
    return Outcome(
        best=state.judged[claim],
        success=True,
        queries=claim + 1 if objective.first_success else len(state.judged),
        judged=state.judged,
        confirmations=tested,
    )


def _exhausted(state: SearchState, tested: int) -> Outcome:
    lowest = min(range(len(state.judged)), key=lambda i: state.judged[i].rank)
    return Outcome(
        best=state.judged[lowest],
        success=False,
        queries=len(state.judged),
        judged=state.judged,
        confirmations=tested,
    )


def _batch_size(state: SearchState, objective: Objective) -> int:
    if not objective.first_success:
        return _BATCHES[-1]
    judged = len(state.judged)
    for i, size in enumerate(_BATCHES):
        if judged < sum(_BATCHES[: i + 1]):
            return size
    return _BATCHES[-1]


def _claims(
    before: SearchState,
    after: SearchState,
    objective: Objective,
    picture: Callable[[Sequence[Individual]], torch.Tensor],
) -> Sequence[int]:
    """Find the candidates to confirm now; indices in order of preference."""
    judged = after.judged
    if objective.first_success:
        fresh = range(len(before.judged), len(judged))
        return [i for i in fresh if judged[i].judgement.success]
    if not (after.done or after.generation > before.generation):
        return []
    found = [i for i, one in enumerate(judged) if one.judgement.success]
    strongest = sorted(found, key=lambda i: judged[i].rank)[:_COMPARED]
    if not strongest:
        return []
    moved = objective.displacement(picture([judged[i].individual for i in strongest]))
    order = sorted(range(len(moved)), key=lambda k: -moved[k])
    return [strongest[k] for k in order]


def _shower(start: Start, device: torch.device) -> Callable[[Individual], GridMark]:
    """Return what shows a candidate on the grid as its native mark would look."""
    view = grid_view(start.maker.geometry, device)
    geometry, variants = view.geometry, start.problem.variants
    make = start.maker.preview()

    @lru_cache(maxsize=_PATCHES)
    def patch(variant: int) -> NDArray[np.uint8]:
        return make(variants[variant].sit)

    def show(one: Individual) -> GridMark:
        drawn = patch(one.variant)
        h, w = drawn.shape[:2]
        native = round(w / geometry.reduction), round(h / geometry.reduction)
        place = geometry.native_position(one.x, one.y, native)
        return view.mark(place, one.alpha, patch_tensor(drawn, device))

    return show
