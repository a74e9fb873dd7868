"""Marks images by one search after another and asks every member about them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from engine.errors import NoFeasiblePlacement
from engine.experiments.bench import Scene, predicted
from engine.experiments.changes import changed
from engine.metrics import quality
from engine.rendering import render
from engine.types import LEVELS
from engine.watermark.working import levels_to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.experiments.bench import Bench, Said
    from engine.experiments.images import Sample
    from engine.params import Strategy
    from engine.protection.values import Prepared, ProtectedFrame

ORIGINAL: Final = "original"
"""Strategy of records of the image as it is."""

DELTA_ONLY: Final = "delta"
"""Strategy of records of the image with δ and without a mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One search: how, on which models, until when.

    ``sources`` as in `engine.experiments.bench.Bench.sources`; ``strategy``,
    ``stop``, ``budget`` and ``robust_changes`` as in `engine.params.SearchParams`.
    """

    strategy: Strategy
    sources: str
    stop: str = "ensemble"
    budget: int = 0
    robust_changes: int = 0

    @property
    def rule(self) -> str:
        """The stop rule, and under how many changes finalists are ranked again."""
        if not self.robust_changes:
            return self.stop
        return f"{self.stop}, {self.robust_changes} changes"


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkRecord:
    """One image under one case.

    Attributes
    ----------
    image, label
        CLASS/FILE and the index of its true class.
    strategy, sources, stop, budget
        As in `Case`, ``stop`` its rule; the strategy may also be `ORIGINAL` or
        `DELTA_ONLY`.
    placed
        Whether the mark had a place; without one the image stays as it is.
    seen
        Class probabilities of the sources together (Eq. 12), 6 digits.
    members
        Those of every member, the sources or not.
    changed
        The class every member sees after each of `changes.CHANGES`; empty where
        that was not asked.
    queries, first_error
        Image queries charged, and those up to the sources' first error.
    model_forwards, gradients
        Forward passes of single models, and candidates with a backward pass.
    alpha
        Opacity byte.
    ssim, psnr, rmse
        Against the original, δ included.
    mark_ssim, mark_psnr
        Against the image with δ and without the mark: of the mark alone.
    fallbacks
        As in `engine.report.FrameReport`.
    seconds
        Wall time of search, blending and check; lesions and δ are shared.
    """

    image: str
    label: int
    strategy: str
    sources: str
    stop: str = ""
    budget: int = 0
    placed: bool = True
    seen: tuple[float, ...]
    members: dict[str, tuple[float, ...]]
    changed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    queries: int = 0
    first_error: int | None = None
    model_forwards: int = 0
    gradients: int = 0
    alpha: int = 0
    ssim: float = 1.0
    psnr: float | None = None
    rmse: float = 0.0
    mark_ssim: float = 1.0
    mark_psnr: float | None = None
    fallbacks: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def seen_right(self) -> bool:
        """Whether the sources together still name the true class."""
        return predicted(self.seen) == self.label

    def right(self, member: str) -> bool:
        """Whether a member still names the true class."""
        return predicted(self.members[member]) == self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """A record to be, and its picture, not yet judged."""

    record: MarkRecord
    picture: torch.Tensor


def measure_cases(
    bench: Bench,
    sample: Sample,
    cases: Sequence[Case],
    *,
    delta: bool,
    changes: bool = False,
) -> list[MarkRecord]:
    """Search every case on one image and ask all members about the results.

    Parameters
    ----------
    bench, sample
        Models and image.
    cases
        The searches.
    delta
        Whether the product's δ is under the mark.
    changes
        Whether members are also asked after mild changes.

    Returns
    -------
    list of MarkRecord
        The original, δ alone if there is any, then the cases in order.
    """
    scene = Scene(bench, sample)
    made = [_original(scene)]
    if delta:
        made.append(_delta_only(scene))
    for case in cases:
        host = scene.product(case.sources) if delta else scene.plain(case.sources)
        made.append(_searched(scene, host, case))
    return _judged(scene, made, changes=changes)


def _original(scene: Scene) -> _Made:
    frame = scene.sample.frame
    return _Made(
        record=_record(scene, ORIGINAL),
        picture=scene.bench.shown(scene.sample, frame.stored),
    )


def _delta_only(scene: Scene) -> _Made:
    """δ without a mark: the control of every row with a mark."""
    prepared = scene.product()
    seen = quality(*_rendered(scene, scene.sample.frame.stored, prepared.host))
    record = replace(
        _record(scene, DELTA_ONLY),
        ssim=seen.ssim,
        psnr=finite(seen.psnr),
        rmse=seen.rmse,
        seconds=sum(prepared.seconds.values()),
    )
    return _Made(record=record, picture=prepared.shown)


def _searched(scene: Scene, prepared: Prepared, case: Case) -> _Made:
    """Search, blend and verify as the product does."""
    search = replace(
        scene.bench.params.search,
        strategy=case.strategy,
        stop=case.stop,
        budget=case.budget,
        robust_changes=case.robust_changes,
    )
    protector = scene.bench.protector(case.sources, search=search)
    record = replace(
        _record(scene, case.strategy),
        sources=case.sources,
        stop=case.rule,
        budget=case.budget,
    )
    clock = time.perf_counter()
    try:
        result = protector.finish(prepared, seed=scene.seed)
    except NoFeasiblePlacement:
        # Nothing is sent, so nothing misleads: the original counts.
        stays = replace(record, placed=False)
        return _Made(record=stays, picture=_original(scene).picture)
    seconds = time.perf_counter() - clock
    return _Made(
        record=replace(_reported(record, scene, prepared, result), seconds=seconds),
        picture=scene.bench.shown(scene.sample, result.stored),
    )


def _reported(
    record: MarkRecord, scene: Scene, prepared: Prepared, result: ProtectedFrame
) -> MarkRecord:
    report = result.report
    mark = quality(*_rendered(scene, prepared.host, result.stored))
    return replace(
        record,
        queries=report.queries,
        first_error=report.first_error,
        model_forwards=report.model_forwards,
        gradients=report.gradients,
        alpha=report.alpha,
        ssim=report.ssim,
        psnr=finite(report.psnr),
        rmse=report.rmse,
        mark_ssim=mark.ssim,
        mark_psnr=finite(mark.psnr),
        fallbacks=report.fallbacks,
    )


def _record(scene: Scene, strategy: str) -> MarkRecord:
    return MarkRecord(
        image=scene.sample.name,
        label=scene.sample.label,
        strategy=strategy,
        sources="all",
        seen=(),
        members={},
    )


def _judged(scene: Scene, made: Sequence[_Made], *, changes: bool) -> list[MarkRecord]:
    """Ask all members about all pictures in shared batches."""
    bench = scene.bench
    said = bench.judge([one.picture for one in made])
    after = _after_changes(scene, made) if changes else [{} for _ in made]
    return [
        replace(
            one.record,
            members=members,
            seen=bench.mixed(members, one.record.sources),
            changed=classes,
        )
        for one, members, classes in zip(made, said, after, strict=True)
    ]


def _after_changes(
    scene: Scene, made: Sequence[_Made]
) -> list[dict[str, tuple[int, ...]]]:
    """Classes by member after every change, the same changes for all pictures."""
    answers = []
    for one in made:
        variants = changed(as_levels(one.picture), scene.generator("changes"))
        size = (one.picture.shape[1], one.picture.shape[2])
        device = scene.bench.device
        said = scene.bench.judge([levels_to_tensor(v, size, device) for v in variants])
        answers.append(_classes(said))
    return answers


def _classes(said: Sequence[Said]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(predicted(one[name]) for one in said) for name in said[0]}


def as_levels(picture: torch.Tensor) -> NDArray[np.uint8]:
    """``(rows, columns, 3)`` uint8 of a picture ``(3, rows, columns)`` in [0, 1]."""
    levels = (picture.detach().clamp(0, 1) * LEVELS).round().to(torch.uint8)
    return np.ascontiguousarray(levels.cpu().numpy().transpose(1, 2, 0))


def _rendered(
    scene: Scene, *stored: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    one, other = (render(s, scene.sample.frame.rendering) for s in stored)
    return one, other


def finite(psnr: float) -> float | None:
    """JSON has no infinity; equal pictures have no PSNR."""
    return psnr if math.isfinite(psnr) else None
