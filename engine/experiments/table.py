"""Sums records up into the tables of docs/results.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.experiments.measure import DELTA_ONLY, LEFT_OUT, STRATEGIES, WITHOUT_DELTA
from engine.metrics import Proportion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.experiments.measure import Record

_NAMES = {
    DELTA_ONLY: "δ only (control)",
    "random": "Random mark",
    "he": "HE",
    "he-sit": "HE-SIT",
    "random-sit": "Random search with SIT (control)",
    WITHOUT_DELTA: "HE-SIT without δ",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row of the main table.

    Attributes
    ----------
    row
        Name as in the records.
    accuracy
        Share of images on which the searched ensemble still is right: lower is
        better protection.
    members
        The same for each member.
    queries, queries_found
        Mean candidates judged, over all images and over those that succeeded.
    smaller, unplaced
        Images that needed a smaller logo, and those without any place.
    alpha, ssim, psnr, rmse, seconds
        Means over placed images.
    """

    row: str
    accuracy: Proportion
    members: dict[str, Proportion]
    queries: float
    queries_found: float | None
    smaller: Proportion
    unplaced: Proportion
    alpha: float
    ssim: float
    psnr: float | None
    rmse: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        for name in ("accuracy", "smaller", "unplaced"):
            plain[name] = plain[name].as_dict()
        plain["members"] = {k: v.as_dict() for k, v in self.members.items()}
        return plain


def lines(records: Sequence[Record]) -> list[Line]:
    """One line per row, in the order of the records' first appearance."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.row, []).append(record)
    return [_line(row, group) for row, group in grouped.items()]


def _line(row: str, group: Sequence[Record]) -> Line:
    placed = [r for r in group if r.placed]
    found = [r.queries for r in placed if r.ensemble != r.label]
    psnrs = [r.psnr for r in placed if r.psnr is not None]
    return Line(
        row=row,
        accuracy=_share(r.ensemble == r.label for r in group),
        members={
            name: _share(r.members[name] == r.label for r in group)
            for name in group[0].members
        },
        queries=_mean([r.queries for r in placed]),
        queries_found=_mean(found) if found else None,
        smaller=_share(any("shrink" in f for f in r.fallbacks) for r in group),
        unplaced=_share(not r.placed for r in group),
        alpha=_mean([r.alpha / 255 for r in placed]),
        ssim=_mean([r.ssim for r in placed]),
        psnr=_mean(psnrs) if psnrs else None,
        rmse=_mean([r.rmse for r in placed]),
        seconds=_mean([r.seconds for r in placed]),
    )


def _share(holds: Iterable[bool]) -> Proportion:
    answers = list(holds)
    return Proportion(successes=sum(answers), n=len(answers))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def strategy_table(table: Sequence[Line]) -> list[str]:
    """Markdown of ensemble accuracy, cost and quality per strategy."""
    columns = (
        "",
        "ensemble accuracy (95 %)",
        "mean queries",
        "of successes",
        "mean α",
        "smaller logo",
        "no place",
        "PSNR dB",
        "SSIM",
        "s/image",
    )
    out = _header(columns)
    out.append("| Original | 100 % (by selection) | | | | | | | | |")
    for line in table:
        if line.row.startswith(LEFT_OUT):
            continue
        marked = line.row != DELTA_ONLY
        cells = [
            _NAMES[line.row],
            percent(line.accuracy),
            f"{line.queries:.1f}" if marked else "",
            f"{line.queries_found:.1f}" if line.queries_found and marked else "",
            f"{line.alpha:.2f}" if marked else "",
            f"{line.smaller.value:.0%}" if marked else "",
            f"{line.unplaced.value:.0%}" if marked else "",
            "" if line.psnr is None else f"{line.psnr:.1f}",
            f"{line.ssim:.3f}",
            f"{line.seconds:.2f}",
        ]
        out.append(f"| {' | '.join(cells)} |")
    return out


def member_table(table: Sequence[Line]) -> list[str]:
    """Markdown of each member's own accuracy per strategy."""
    names = list(table[0].members)
    out = _header(("", *names))
    for line in table:
        if not line.row.startswith(LEFT_OUT):
            cells = " | ".join(percent(line.members[name]) for name in names)
            out.append(f"| {_NAMES[line.row]} | {cells} |")
    return out


def left_out_table(table: Sequence[Line]) -> list[str]:
    """Markdown of black-box accuracy: searched without a member, tested on it."""
    by_row = {line.row: line for line in table}
    columns = (
        "left out",
        "random mark on it",
        "searched ensemble",
        "left-out member",
        "mean queries",
    )
    out = _header(columns)
    for line in table:
        if line.row.startswith(LEFT_OUT):
            name = line.row.removeprefix(LEFT_OUT)
            control = by_row[STRATEGIES[0]].members[name]
            out.append(
                f"| {name} | {percent(control)} | {percent(line.accuracy)} "
                f"| {percent(line.members[name])} | {line.queries:.1f} |"
            )
    return out


def _header(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def percent(share: Proportion) -> str:
    """Write a share with its interval, in per cent."""
    low, high = share.interval
    return f"{share.value:.1%} ({low:.0%}-{high:.0%})"
