"""Markdown and the small statistics that all tables share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.metrics import Proportion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.metrics import Paired


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown table with a blank line after it."""
    lines = [_line(columns), "|---" * len(columns) + "|"]
    lines.extend(_line(row) for row in rows)
    return [*lines, ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def share(holds: Iterable[bool]) -> Proportion:
    """Share of what holds, with its n."""
    answers = list(holds)
    return Proportion(successes=sum(answers), n=len(answers))


def mean(values: Iterable[float | None]) -> float:
    """Mean of the values there are; not a number without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """Give the standard deviation of a population; not a number without any."""
    centre = mean(values)
    return math.sqrt(mean((value - centre) ** 2 for value in values))


def percent(part: Proportion) -> str:
    """Write a share with its interval, in per cent."""
    if not part.n:
        return "-"
    low, high = part.interval
    return f"{part.value:.1%} ({low:.0%}-{high:.0%})"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number, and a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}"


def rate(value: float | None) -> str:
    """Write a share without interval, in per cent."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1%}"


def difference(compared: Paired) -> str:
    """Write a paired difference: points, interval, p, and who won how often."""
    low, high = compared.interval
    return (
        f"{100 * compared.difference:+.1f} ({100 * low:+.0f} to {100 * high:+.0f}), "
        f"p = {compared.p_value:.2g} "
        f"[{compared.first_only}:{compared.second_only} of {compared.n}]"
    )


def known(value: float | None) -> float | None:
    """Turn what is no number into None, which JSON can hold."""
    return value if value is not None and math.isfinite(value) else None
