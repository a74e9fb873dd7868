"""What the engine says of the frames of an object, as a row of the index keeps it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.stages.draft import Report

MOST: Final = 256
"""Frames that are reported one by one, and stretches of those that were missed."""


def frames_json(reports: Sequence[Report]) -> dict[str, Any]:
    """Report every frame; of many, evenly spaced ones and a summary.

    Parameters
    ----------
    reports
        Of all frames, in order.

    Returns
    -------
    dict
        ``frames``: reports. Of more than 256 frames every so manieth, which says its
        number (``frame``, from 1); then ``count`` frames are meant, and in those of
        ``not_fooled`` (first and last of each stretch, 256 stretches at most) the
        models' opinion stayed; ``not_fooled_count`` says how many these are.
    """
    count = len(reports)
    if count <= MOST:
        return {"frames": [report.as_dict() for report in reports]}
    sampled = range(0, count, -(-count // MOST))
    missed = [n for n, report in enumerate(reports, 1) if not report.success]
    return {
        "frames": [{"frame": n + 1, **reports[n].as_dict()} for n in sampled],
        "count": count,
        "not_fooled": _stretches(missed)[:MOST],
        "not_fooled_count": len(missed),
    }


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of every stretch of numbers that follow each other."""
    if not numbers:
        return []
    breaks = [n for n, (a, b) in enumerate(pairwise(numbers), 1) if b > a + 1]
    return [
        (numbers[start], numbers[end - 1])
        for start, end in pairwise([0, *breaks, len(numbers)])
    ]
