"""Measures one image under every strategy: the rows of the table."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import NoFeasiblePlacement
from engine.metrics import quality
from engine.params import Strategy
from engine.rendering import render
from engine.search.objective import opinion
from engine.watermark.working import working_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.experiments.images import Sample
    from engine.models.ensemble import Ensemble
    from engine.protect import Prepared, Protector
    from engine.search.objective import Opinion
    from engine.types import Frame

DELTA_ONLY: Final = "delta-only"
"""Row of images with δ and without a mark."""

STRATEGIES: Final = ("random", "he", "he-sit", "random-sit")

WITHOUT_DELTA: Final = "he-sit-no-delta"

_SEARCHES: Final[dict[str, Strategy]] = {
    "random": "random",
    "he": "he",
    "he-sit": "he-sit",
    "random-sit": "random-sit",
    WITHOUT_DELTA: "he-sit",
}

LEFT_OUT: Final = "left-out:"
"""Prefix of rows searched without the member whose name follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image under one row of the table.

    Attributes
    ----------
    image, label
        CLASS/FILE and the index of its true class.
    row
        Strategy, `DELTA_ONLY`, `WITHOUT_DELTA` or `LEFT_OUT` plus a member.
    placed
        Whether the mark had a place; without one the image stays as it is.
    ensemble
        What the searched ensemble says of the final picture, a class index.
    members
        What every member says of it, the one left out included.
    queries, model_forwards, alpha, ssim, psnr, rmse, fallbacks
        As in `engine.report.FrameReport`.
    seconds
        Wall time of this row; lesions and δ are shared and counted once, in
        the row `DELTA_ONLY`.
    """

    image: str
    label: int
    row: str
    placed: bool
    ensemble: int
    members: dict[str, int]
    queries: int = 0
    model_forwards: int = 0
    alpha: int = 0
    ssim: float = 1.0
    psnr: float | None = None
    rmse: float = 0.0
    fallbacks: tuple[str, ...] = ()
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        return asdict(self)


def record_from(plain: dict[str, Any]) -> Record:
    """Read back what `Record.as_dict` gave."""
    return Record(**(plain | {"fallbacks": tuple(plain["fallbacks"])}))


def rows(ensemble: Ensemble) -> tuple[str, ...]:
    """Names of all rows for an ensemble."""
    alone = len(ensemble.members) < 2
    left_out = () if alone else tuple(LEFT_OUT + m.name for m in ensemble.members)
    return (DELTA_ONLY, *STRATEGIES, WITHOUT_DELTA, *left_out)


def measure_image(protector: Protector, sample: Sample) -> list[Record]:
    """Measure every row on one image; lesions and δ are made once.

    Parameters
    ----------
    protector
        With the diagnosis objective and the parameters of the product.
    sample
        The image.
    """
    seed = sample.name.encode()
    prepared = protector.prepare(sample.frame, seed=seed)
    bare = _without_delta(prepared)
    measured = [_delta_only(protector, sample, prepared)]
    for row in rows(protector.ensemble)[1:]:
        host = bare if row == WITHOUT_DELTA else prepared
        measured.append(_searched(protector, sample, host, row))
    return measured


def _delta_only(protector: Protector, sample: Sample, prepared: Prepared) -> Record:
    """Judge the image with δ alone: the control of every row with a mark."""
    said = opinion(protector.ensemble, prepared.shown)
    seen = quality(*_shown(sample.frame, prepared.host))
    return Record(
        image=sample.name,
        label=sample.label,
        row=DELTA_ONLY,
        placed=True,
        ensemble=said.label,
        members=_classes(protector.ensemble, said),
        ssim=seen.ssim,
        psnr=_finite(seen.psnr),
        rmse=seen.rmse,
        seconds=sum(prepared.seconds.values()),
    )


def _searched(
    protector: Protector, sample: Sample, prepared: Prepared, row: str
) -> Record:
    """Search, blend and verify as the product does, then ask every member."""
    searching = _searcher(protector, row)
    clock = time.perf_counter()
    try:
        result = searching.finish(prepared, seed=sample.name.encode())
    except NoFeasiblePlacement:
        return _unplaced(protector, sample, row)
    report = result.report
    shown = working_image(
        result.stored, sample.frame.rendering, protector.ensemble.weights.device
    )
    said = opinion(protector.ensemble, shown)
    return Record(
        image=sample.name,
        label=sample.label,
        row=row,
        placed=True,
        ensemble=report.labels.index(report.after.label),
        members=_classes(protector.ensemble, said),
        queries=report.queries,
        model_forwards=report.model_forwards,
        alpha=report.alpha,
        ssim=report.ssim,
        psnr=_finite(report.psnr),
        rmse=report.rmse,
        fallbacks=report.fallbacks,
        seconds=time.perf_counter() - clock,
    )


def _searcher(protector: Protector, row: str) -> Protector:
    """Make the protector of a row: its strategy, without the member left out."""
    search = protector.params.search
    if row.startswith(LEFT_OUT):
        rest = protector.ensemble.without(row.removeprefix(LEFT_OUT))
        return protector.variant(
            ensemble=rest, search=replace(search, strategy="he-sit")
        )
    return protector.variant(search=replace(search, strategy=_SEARCHES[row]))


def _unplaced(protector: Protector, sample: Sample, row: str) -> Record:
    """Record an image without a place: nothing is sent, so nothing misleads."""
    names = (member.name for member in protector.ensemble.members)
    return Record(
        image=sample.name,
        label=sample.label,
        row=row,
        placed=False,
        ensemble=sample.label,
        members=dict.fromkeys(names, sample.label),
    )


def _without_delta(prepared: Prepared) -> Prepared:
    return replace(
        prepared,
        delta=np.zeros_like(prepared.delta),
        host=prepared.frame.stored,
        shown=prepared.image,
    )


def _classes(ensemble: Ensemble, said: Opinion) -> dict[str, int]:
    names = (member.name for member in ensemble.members)
    return {
        name: int(np.argmax(row)) for name, row in zip(names, said.members, strict=True)
    }


def _shown(
    frame: Frame, stored: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return render(frame.stored, frame.rendering), render(stored, frame.rendering)


def _finite(psnr: float) -> float | None:
    """JSON has no infinity; equal pictures have no PSNR."""
    return psnr if math.isfinite(psnr) else None
