"""The search of one frame, from the strategy to what is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import NoFeasiblePlacement
from engine.lesion.localise import relaxed
from engine.search.native import NativeTrial
from engine.search.objective import Objective, averaged, objective_for, opinions
from engine.search.region import region
from engine.search.robust import rerank
from engine.search.run import Task
from engine.search.show import Gallery
from engine.search.start import start_search
from engine.watermark.presets import PresetView

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from engine.models.ensemble import Ensemble
    from engine.params import ProtectParams, SearchParams
    from engine.protection.values import Prepared
    from engine.search.candidate import Candidate, Judgement
    from engine.search.judges import Judges
    from engine.search.native import NativeResult
    from engine.search.objective import Opinion
    from engine.search.run import Outcome
    from engine.search.start import Start
    from engine.watermark.maker import PatchMaker


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the searches of all frames have in common.

    ``judges`` ask the search's own copy of the ensemble; ``ensemble`` itself
    judges what is sent.
    """

    ensemble: Ensemble
    judges: Judges
    params: ProtectParams
    label_free: bool
    device: torch.device


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameSearch:
    """The search of one frame, with all that is needed to finish the frame.

    Attributes
    ----------
    prepared
        The frame; with relaxed boxes where that was needed and allowed.
    start
        Strategy and space.
    seed
        Of the search's generator.
    before
        What the ensemble says of the original under every window.
    trial
        Native results.
    task
        What runs.
    """

    prepared: Prepared
    start: Start
    seed: int
    before: tuple[Opinion, ...]
    trial: Trial
    task: Task

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Concessions made to find a place."""
        return self.start.fallbacks


def set_up(
    setting: Setting,
    prepared: Prepared,
    maker: PatchMaker,
    seed: int,
    tick: Callable[[int], None],
) -> FrameSearch:
    """Set up the search of a frame.

    Parameters
    ----------
    setting
        What all frames have in common.
    prepared
        The frame.
    maker
        Patches of the logo for it.
    seed
        Of every draw.
    tick
        Called with the charge of every batch.

    Raises
    ------
    NoFeasiblePlacement
        The lesion boxes leave the logo no place.
    """
    search = setting.params.search
    prepared, start = _with_room(setting, prepared, maker, np.random.default_rng(seed))
    before = tuple(opinions(setting.ensemble, prepared.views))
    objective = objective_for(
        setting.ensemble,
        prepared.views,
        averaged(before).label,
        search.stop_rule,
        label_free=setting.label_free,
    )
    trial = Trial(
        NativeTrial(
            frame=prepared.frame,
            host=prepared.host,
            boxes=prepared.boxes,
            maker=start.space.maker,
            objective=objective,
            device=setting.device,
        )
    )
    task = Task(
        strategy=start.strategy,
        objective=objective,
        gallery=Gallery(start.space.maker, prepared.shown, _presets(setting, prepared)),
        confirm=trial.confirm,
        budget=search.limit,
        steady=_steady(setting.judges, objective, search, seed),
        tick=tick,
        hints=start.hints,
        holds=prepared.hint.holds if prepared.hint else _never,
    )
    return FrameSearch(
        prepared=prepared,
        start=start,
        seed=seed,
        before=before,
        trial=trial,
        task=task,
    )


def _never(_said: Judgement) -> bool:
    return False


def _presets(setting: Setting, prepared: Prepared) -> PresetView | None:
    """Return what shows marks under the frame's further windows, if it has any."""
    frame = prepared.frame
    if not frame.presets:
        return None
    return PresetView(frame, prepared.host, setting.device)


def _with_room(
    setting: Setting,
    prepared: Prepared,
    maker: PatchMaker,
    generator: np.random.Generator,
) -> tuple[Prepared, Start]:
    """Find the strategy room; with a higher threshold where that is allowed."""
    params = setting.params

    def start(one: Prepared) -> Start:
        free = region(one.lesions.forbidden)
        return start_search(maker, free, params.search, generator, one.shown, one.hint)

    try:
        return prepared, start(prepared)
    except NoFeasiblePlacement:
        # Boxes of models that were not made for such images are attention at
        # best: they are no reason to keep an image back.
        if not (params.lesion.relax or setting.label_free):
            raise
    lesions = relaxed(prepared.lesions, params.lesion)
    boxes = tuple(maker.geometry.native_box(box) for box in lesions.boxes)
    smaller = replace(prepared, lesions=lesions, boxes=boxes)
    found = start(smaller)
    return smaller, replace(found, fallbacks=(*found.fallbacks, "threshold raised"))


def _steady(
    judges: Judges, objective: Objective, search: SearchParams, seed: int
) -> Callable[[torch.Tensor], list[int]] | None:
    """Return what orders finalists by their worth under random changes."""
    if not search.robust_changes:
        return None
    generator = np.random.default_rng([seed % 2**64, 1])
    return lambda pictures: rerank(
        pictures,
        judges.look,
        objective,
        count=search.robust_changes,
        generator=generator,
    )


class Trial:
    """Native results of one search; the last is kept, it is often the final one."""

    def __init__(self, native: NativeTrial) -> None:
        self._native = native
        self._last: tuple[Candidate, NativeResult | None] | None = None
        self.count = 0

    @property
    def sent(self) -> Candidate:
        """The candidate `final` gave the result of."""
        assert self._last is not None
        return self._last[0]

    def confirm(self, one: Candidate) -> Judgement | None:
        """Judge the final stored values of a candidate."""
        result = self._result(one)
        return None if result is None else result.judgement

    def final(self, outcome: Outcome) -> NativeResult:
        """Give the confirmed result, or the best one that can be placed."""
        ranked = sorted(outcome.judged, key=lambda judged: judged.rank)
        for judged in (outcome.best, *ranked):
            result = self._result(judged.candidate)
            if result is not None:
                return result
        raise NoFeasiblePlacement(
            "no candidate has a place at native size outside the lesion boxes"
        )

    def _result(self, one: Candidate) -> NativeResult | None:
        if self._last is None or self._last[0] != one:
            self._last = one, self._native.result(one)
            self.count += 1
        return self._last[1]
