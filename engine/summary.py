"""Builds the report of a protected frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.metrics import quality
from engine.rendering import render
from engine.report import FrameReport, Said, SaidOfWindow
from engine.search.objective import averaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.lesion.boxes import Lesions
    from engine.models.ensemble import Ensemble
    from engine.search.native import NativeResult
    from engine.search.objective import Opinion
    from engine.search.run import Outcome
    from engine.types import Box, Frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a report is made from; fields as in `engine.protection`."""

    ensemble: Ensemble
    objective: str
    displacement: float
    strategy: str
    frame: Frame
    lesions: Lesions
    boxes: tuple[Box, ...]
    before: tuple[Opinion, ...]
    outcome: Outcome
    final: NativeResult
    delta: NDArray[np.int8]
    native_trials: int
    guarded: bool
    seconds: dict[str, float]
    fallbacks: tuple[str, ...]


def summarise(all_of_it: Summary) -> FrameReport:
    """Measure the final frame and put everything into a report."""
    s, final = all_of_it, all_of_it.final
    before = averaged(s.before)
    mark, outcome = final.mark, s.outcome
    height, width = mark.patch.shape[:2]
    shown = [render(x, s.frame.rendering) for x in (s.frame.stored, final.stored)]
    measured = quality(shown[0], shown[1])
    return FrameReport(
        objective=s.objective,
        strategy=s.strategy,
        ensemble=s.ensemble.name,
        labels=tuple(s.ensemble.labels),
        before=_said(s.ensemble, before),
        after=_said(s.ensemble, final.opinion),
        windows=_windows(s),
        displacement=s.displacement,
        success=final.opinion.label != before.label,
        verified=_untouched(s),
        alpha=mark.alpha,
        x=mark.x,
        y=mark.y,
        width=width,
        height=height,
        sit=mark.sit,
        mark_share=width * height / (s.frame.stored.shape[0] * s.frame.stored.shape[1]),
        lesion_boxes=s.boxes,
        lesion_source=s.lesions.source,
        queries=outcome.queries,
        first_error=outcome.first_error,
        evaluated=len(outcome.judged),
        gradients=outcome.gradients,
        confirmations=outcome.confirmations,
        model_forwards=_forwards(s),
        delta_max=int(np.abs(s.delta.astype(np.int16)).max()),
        delta_rms=float(np.sqrt(np.mean(s.delta.astype(np.float64) ** 2))),
        ssim=measured.ssim,
        psnr=measured.psnr,
        rmse=measured.rmse,
        seconds=s.seconds,
        fallbacks=_fallbacks(s),
    )


def _windows(s: Summary) -> tuple[SaidOfWindow, ...]:
    """Tell what was said under each window, where there are several."""
    renderings = s.frame.renderings
    if len(renderings) == 1:
        return ()
    return tuple(
        SaidOfWindow(
            lo=window.lo,
            hi=window.hi,
            before=_said(s.ensemble, before),
            after=_said(s.ensemble, after),
        )
        for window, before, after in zip(
            renderings, s.before, s.final.windows, strict=True
        )
    )


def _said(ensemble: Ensemble, said: Opinion) -> Said:
    names = (member.name for member in ensemble.members)
    return Said(
        label=ensemble.labels[said.label],
        ensemble=said.probabilities,
        members=dict(zip(names, said.members, strict=True)),
    )


def _untouched(s: Summary) -> bool:
    """Whether no mark covers a lesion box and the guard kept δ out of them."""
    same = _same_in_boxes(s) if s.guarded else True
    mark = s.final.mark
    h, w = mark.patch.shape[:2]
    covered = any(
        b.x0 < mark.x + w and mark.x < b.x1 and b.y0 < mark.y + h and mark.y < b.y1
        for b in s.boxes
    )
    return same and not covered


def _same_in_boxes(s: Summary) -> bool:
    return all(
        np.array_equal(
            s.frame.stored[b.y0 : b.y1, b.x0 : b.x1],
            s.final.stored[b.y0 : b.y1, b.x0 : b.x1],
        )
        for b in s.boxes
    )


def _forwards(s: Summary) -> int:
    """Count single-model forwards.

    Four looks at the original and one at the final picture come on top of the
    candidates; those whose features are compared are not counted again.
    """
    pictures = 5 + len(s.outcome.judged) + s.native_trials
    return len(s.ensemble.members) * len(s.frame.renderings) * pictures


def _fallbacks(s: Summary) -> tuple[str, ...]:
    source = s.lesions.source
    ladder = () if source == "cnn" else (f"lesion boxes: {source}",)
    return (*ladder, *s.fallbacks)
