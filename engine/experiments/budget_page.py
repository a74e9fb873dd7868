"""The page about strategies and stop rules at one budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from engine.experiments.document import Headline, Page
from engine.experiments.marked import DELTA_ONLY, ORIGINAL, MarkRecord
from engine.experiments.table import (
    NAMES,
    Line,
    about_delta,
    black_box,
    left_out,
    lines,
    with_delta,
)
from engine.experiments.text import (
    difference,
    known,
    mean,
    number,
    percent,
    rate,
    share,
    table,
)
from engine.metrics import Proportion, paired

if TYPE_CHECKING:
    from collections.abc import Sequence

PAPER: Final = ("he-sit", "ensemble")
"""Strategy and stop rule of the paper."""

CONTROL: Final = "random-sit"

LEAST_SSIM: Final = 0.88
"""A mark below it is no longer discreet: the target is stated at it."""

TARGET: Final = 0.30
"""Highest mean accuracy of the member left out that is aimed at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """All pairs of an image and a member left out, under one strategy and rule.

    Attributes
    ----------
    line
        Means over the pairs; ``line.seen`` is of the members searched on.
    unseen
        Accuracy of the member left out.
    changed
        The same after mild changes.
    by_member
        ``unseen`` for every member left out.
    """

    line: Line
    unseen: Proportion
    changed: float
    by_member: dict[str, Proportion]

    @property
    def key(self) -> tuple[str, str]:
        """Strategy and stop rule."""
        return self.line.strategy, self.line.stop

    @property
    def over_members(self) -> float:
        """Mean over the members left out of their accuracy."""
        return mean(one.value for one in self.by_member.values())

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        return {
            **self.line.as_dict(),
            "unseen": self.unseen.as_dict(),
            "unseen_changed": known(self.changed),
            "unseen_over_members": known(self.over_members),
            "unseen_by_member": {k: v.as_dict() for k, v in self.by_member.items()},
        }


def pools(records: Sequence[MarkRecord]) -> list[Pool]:
    """One per strategy and stop rule, in the order of the records."""
    grouped: dict[tuple[str, str], list[MarkRecord]] = {}
    for one in black_box(records):
        grouped.setdefault((one.strategy, one.stop), []).append(one)
    return [_pool(group) for group in grouped.values()]


def _pool(group: Sequence[MarkRecord]) -> Pool:
    (line,) = lines([replace(r, sources="left out") for r in group])
    members = [m for m in group[0].members if any(left_out(r) == m for r in group)]
    return Pool(
        line=line,
        unseen=share(r.right(left_out(r)) for r in group),
        changed=mean(float(c == r.label) for r in group for c in _changed(r)),
        by_member={
            m: share(r.right(m) for r in group if left_out(r) == m) for m in members
        },
    )


def _changed(record: MarkRecord) -> tuple[int, ...]:
    return record.changed.get(left_out(record), ())


def page(records: Sequence[MarkRecord], queries: int) -> Page:
    """Write the tables of the comparison.

    Parameters
    ----------
    records
        Of a `BudgetPlan`.
    queries
        Its budget.
    """
    pooled = pools(records)
    return Page(
        title=f"Equal budget: {queries} image queries",
        body=[
            *about_delta(records),
            *_main(pooled, records),
            *_by_member(pooled),
            *_by_class(records, pooled),
            *_compared(records, pooled),
            *_conclusion(pooled),
        ],
        headlines=_headlines(pooled),
        data={
            "pools": [one.as_dict() for one in pooled],
            "controls": [
                line.as_dict()
                for line in lines([r for r in records if r not in black_box(records)])
            ],
        },
    )


_COLUMNS: Final = (
    *("strategy", "stop rule", "searched members", "member left out"),
    *("left out, after changes", "SSIM", "PSNR dB", "mean α", "smaller logo"),
    *("no place", "first error at", "erred", "queries", "forwards", "backward"),
    "s/image",
)


def _main(pooled: Sequence[Pool], records: Sequence[MarkRecord]) -> list[str]:
    whole = with_delta(records)
    more = ("SSIM with δ", "PSNR dB with δ") if whole else ()
    rows = [
        [
            NAMES[one.line.strategy],
            one.line.stop,
            percent(one.line.seen),
            percent(one.unseen),
            rate(one.changed),
            number(one.line.mark_ssim, 3),
            number(one.line.mark_psnr),
            number(one.line.alpha, 2),
            rate(one.line.smaller.value),
            rate(one.line.unplaced.value),
            number(one.line.first_error),
            rate(one.line.erred.value),
            number(one.line.queries),
            number(one.line.model_forwards, 0),
            number(one.line.gradients, 1),
            number(one.line.seconds, 2),
            *([number(one.line.ssim, 3), number(one.line.psnr)] if whole else []),
        ]
        for one in pooled
    ]
    return [
        "## All strategies",
        "",
        "Searched on all members but one, judged by the one left out; lesion boxes",
        "come from the others only, and each image leaves out members in turn.",
        "“After changes”: mean over a mild random resize, a blur, JPEG of quality 75",
        "and a change of brightness, the same for all marks of an image. SSIM and PSNR",
        "are of the mark alone. “First error at”: queries up to the first candidate",
        "that misleads the searched members together, over the images with any.",
        "Queries are charged as the budget is: a candidate 1, its gradient 2 more;",
        "“backward” counts the latter. “N changes”: the best few are ranked again",
        "under N random changes of the same kinds, drawn anew, before one is taken.",
        "",
        *table((*_COLUMNS, *more), rows),
        *_controls(records),
    ]


def _controls(records: Sequence[MarkRecord]) -> list[str]:
    """Say what the changes do to images without a mark, and δ alone."""
    sentences = []
    for line in lines([r for r in records if r.strategy in {ORIGINAL, DELTA_ONLY}]):
        after = rate(mean(line.changed.values()))
        right = rate(mean(p.value for p in line.members.values()))
        sentences.append(
            f"{NAMES[line.strategy]}, without a mark: members are right on {right}, "
            f"after the same changes on {after}."
            + (
                f" SSIM {number(line.ssim, 3)}, PSNR {number(line.psnr)} dB."
                if line.strategy == DELTA_ONLY
                else ""
            )
        )
    return [*sentences, ""]


def _by_member(pooled: Sequence[Pool]) -> list[str]:
    names = list(pooled[0].by_member) if pooled else []
    rows = [
        [
            f"{NAMES[one.line.strategy]}, {one.line.stop}",
            *(percent(one.by_member[name]) for name in names),
            rate(one.over_members),
        ]
        for one in pooled
    ]
    counts = [str(pooled[0].by_member[name].n) for name in names] if pooled else []
    return [
        "## By member left out",
        "",
        *table(("", *names, "mean"), [*rows, ["pairs", *counts, ""]]),
    ]


def _by_class(records: Sequence[MarkRecord], pooled: Sequence[Pool]) -> list[str]:
    """Show which true classes can be misled: marks may look like one of them."""
    outside = black_box(records)
    classes = sorted({_class(r) for r in outside})
    rows = [
        [
            f"{NAMES[one.line.strategy]}, {one.line.stop}",
            *(
                percent(
                    share(
                        r.right(left_out(r))
                        for r in outside
                        if (r.strategy, r.stop) == one.key and _class(r) == name
                    )
                )
                for name in classes
            ),
        ]
        for one in pooled
    ]
    return [
        "## By true class",
        "",
        "Accuracy of the member left out. A class that keeps its name under every",
        "mark is one that marked images of the others are taken for.",
        "",
        *table(("", *classes), rows),
    ]


def _class(record: MarkRecord) -> str:
    return record.image.partition("/")[0]


def _answers(records: Sequence[MarkRecord], key: tuple[str, str]) -> list[bool]:
    chosen = (r for r in black_box(records) if (r.strategy, r.stop) == key)
    return [r.right(left_out(r)) for r in chosen]


def _compared(records: Sequence[MarkRecord], pooled: Sequence[Pool]) -> list[str]:
    rows = []
    for one in pooled:
        against = (CONTROL, one.line.stop)
        cells = [f"{NAMES[one.line.strategy]}, {one.line.stop}"]
        for other in (against, PAPER):
            sides = _answers(records, one.key), _answers(records, other)
            same = one.key == other or len(sides[0]) != len(sides[1])
            cells.append("" if same else difference(paired(*sides)))
        rows.append(cells)
    columns = ("", "less random search with SIT, same rule", "less the paper's choice")
    return [
        "## Against random search and against the paper",
        "",
        "Difference of the accuracy of the member left out on the same pairs, in",
        "points, with its 95 % interval, the exact p of McNemar's test, and on how",
        "many pairs only the first, only the second left the member right. Negative:",
        "the strategy of the row protects better. Many comparisons stand side by side:",
        "a p near 0.05 says little.",
        "",
        *table(columns, rows),
    ]


def best(pooled: Sequence[Pool]) -> Pool | None:
    """Lowest accuracy of the member left out among marks of `LEAST_SSIM`."""
    discreet = [
        one
        for one in pooled
        if one.line.mark_ssim >= LEAST_SSIM and one.line.strategy != "random"
    ]
    return min(discreet, key=lambda one: (one.unseen.value, one.changed), default=None)


def _conclusion(pooled: Sequence[Pool]) -> list[str]:
    winner = best(pooled)
    if winner is None:
        return [f"No strategy keeps the mark at SSIM {LEAST_SSIM} on average.", ""]
    met = "met" if winner.unseen.value <= TARGET else "not met"
    return [
        (
            f"Aimed at: {TARGET:.0%} or less at SSIM {LEAST_SSIM} or more, {met} by "
            f"the best, {NAMES[winner.line.strategy]} with stop rule "
            f"`{winner.line.stop}`: {percent(winner.unseen)} at SSIM "
            f"{number(winner.line.mark_ssim, 3)}."
        ),
        "The best of many is chosen on the very images it is stated for: it looks a",
        "little better here than it will on others.",
        "",
    ]


def _headlines(pooled: Sequence[Pool]) -> list[Headline]:
    winner = best(pooled)
    chosen = [one for one in pooled if one.key in {PAPER, (CONTROL, PAPER[1])}]
    shown = [*chosen, *([winner] if winner and winner not in chosen else [])]
    return [
        Headline(
            what=(
                f"Accuracy of the model left out: {NAMES[one.line.strategy]}, stop "
                f"rule `{one.line.stop}`{' (best)' if one is winner else ''}"
            ),
            here=(
                f"{percent(one.unseen)} at SSIM {number(one.line.mark_ssim, 3)}; "
                f"{rate(one.changed)} after changes"
            ),
        )
        for one in shown
    ]
