"""Sums records of marked images up, one line per case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.experiments.bench import ALL, ONLY, WITHOUT
from engine.experiments.marked import DELTA_ONLY, ORIGINAL
from engine.experiments.text import known, mean, share
from engine.metrics import Proportion, micro_roc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.experiments.marked import MarkRecord
    from engine.metrics import Roc

NAMES: Final = {
    ORIGINAL: "Original",
    DELTA_ONLY: "δ only (control)",
    "random": "Random mark",
    "he": "HE",
    "he-sit": "HE-SIT",
    "random-sit": "Random search with SIT (control)",
    "gradient": "Gradient-guided",
    "cma-es": "CMA-ES",
}
"""How strategies are called in the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """All images of one case.

    Attributes
    ----------
    strategy, sources, stop
        As in `engine.experiments.marked.Case`.
    seen
        Share of images on which the sources together still are right: lower is
        better protection.
    auc
        Micro-average one-vs-rest area of the sources together.
    members, member_auc
        The same for every member.
    changed
        Share of right answers of every member over all mild changes; no interval,
        since changes of one image are not independent.
    queries, queries_found, first_error
        Mean image queries: over all images, over those on which the sources err
        in the end, and up to the first error where there was one.
    erred
        Images on which the sources erred at least once during the search.
    model_forwards, gradients, seconds, alpha
        Means over placed images.
    ssim, psnr, rmse, mark_ssim, mark_psnr
        Means over placed images, as in `engine.experiments.marked.MarkRecord`.
    smaller, unplaced
        Images that needed a smaller logo, and those without any place.
    """

    strategy: str
    sources: str
    stop: str
    seen: Proportion
    auc: float
    members: dict[str, Proportion]
    member_auc: dict[str, float]
    changed: dict[str, float] = field(default_factory=dict)
    queries: float
    queries_found: float
    first_error: float
    erred: Proportion
    model_forwards: float
    gradients: float
    alpha: float
    ssim: float
    psnr: float
    rmse: float
    mark_ssim: float
    mark_psnr: float
    smaller: Proportion
    unplaced: Proportion
    seconds: float

    @property
    def own(self) -> Proportion:
        """Accuracy of the model under attack: of the member left out, if one is."""
        if self.sources.startswith(WITHOUT):
            return self.members[self.sources.removeprefix(WITHOUT)]
        return self.seen

    @property
    def own_auc(self) -> float:
        """Area of the model under attack."""
        if self.sources.startswith(WITHOUT):
            return self.member_auc[self.sources.removeprefix(WITHOUT)]
        return self.auc

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, float):
        return known(value)
    return value.as_dict() if isinstance(value, Proportion) else value


def lines(records: Sequence[MarkRecord]) -> list[Line]:
    """One line per case, in the order of the records' first appearance."""
    grouped: dict[tuple[str, str, str], list[MarkRecord]] = {}
    for one in records:
        grouped.setdefault((one.strategy, one.sources, one.stop), []).append(one)
    return [_summed(group) for group in grouped.values()]


def _summed(group: Sequence[MarkRecord]) -> Line:
    first = group[0]
    placed = [r for r in group if r.placed]

    def over(get: Callable[[MarkRecord], float | None]) -> float:
        return mean(get(r) for r in placed)

    return Line(
        strategy=first.strategy,
        sources=first.sources,
        stop=first.stop,
        seen=share(r.seen_right for r in group),
        auc=area(group),
        members={m: share(r.right(m) for r in group) for m in first.members},
        member_auc={m: area(group, m) for m in first.members},
        changed={m: after_changes(group, m) for m in first.changed},
        queries=over(lambda r: r.queries),
        queries_found=mean(r.queries for r in placed if not r.seen_right),
        first_error=over(lambda r: r.first_error),
        erred=share(r.first_error is not None for r in group),
        model_forwards=over(lambda r: r.model_forwards),
        gradients=over(lambda r: r.gradients),
        alpha=over(lambda r: r.alpha / 255),
        ssim=over(lambda r: r.ssim),
        psnr=over(lambda r: r.psnr),
        rmse=over(lambda r: r.rmse),
        mark_ssim=over(lambda r: r.mark_ssim),
        mark_psnr=over(lambda r: r.mark_psnr),
        smaller=share(any("shrink" in f for f in r.fallbacks) for r in group),
        unplaced=share(not r.placed for r in group),
        seconds=over(lambda r: r.seconds),
    )


def curve(group: Sequence[MarkRecord], member: str | None = None) -> Roc:
    """Micro-average one-vs-rest ROC of a member, or of the sources together."""
    rows = [r.members[member] if member else r.seen for r in group]
    return micro_roc([r.label for r in group], np.asarray(rows))


def area(group: Sequence[MarkRecord], member: str | None = None) -> float:
    """Area under `curve`."""
    return curve(group, member).area


def after_changes(group: Sequence[MarkRecord], member: str) -> float:
    """Share of right answers of a member over images and changes."""
    return mean(float(c == r.label) for r in group for c in r.changed[member])


def with_delta(records: Sequence[MarkRecord]) -> bool:
    """Whether δ lies under the marks."""
    return any(r.strategy == DELTA_ONLY for r in records)


def about_delta(records: Sequence[MarkRecord]) -> list[str]:
    """Say whether δ lies under the marks."""
    if with_delta(records):
        return ["The product's δ, made once per image, lies under all marks.", ""]
    return ["No δ: these figures are of the mark alone.", ""]


def left_out(record: MarkRecord) -> str:
    """Name of the member a record leaves out."""
    return record.sources.removeprefix(WITHOUT)


def black_box(records: Sequence[MarkRecord]) -> list[MarkRecord]:
    """Keep the records searched without a member."""
    return [r for r in records if r.sources.startswith(WITHOUT)]


def of_sources(table: Sequence[Line], kind: str) -> list[Line]:
    """Lines searched on the whole ensemble, one member, or all but one.

    Parameters
    ----------
    table
        The lines.
    kind
        `ALL`, `ONLY` or `WITHOUT`.
    """
    if kind == ALL:
        return [line for line in table if line.sources == ALL]
    if kind not in {ONLY, WITHOUT}:
        raise ValueError(f"{kind!r} is none of {ALL!r}, {ONLY!r} and {WITHOUT!r}")
    return [line for line in table if line.sources.startswith(kind)]


def named(table: Sequence[Line], strategy: str) -> list[Line]:
    """Lines of one strategy."""
    return [line for line in table if line.strategy == strategy]
