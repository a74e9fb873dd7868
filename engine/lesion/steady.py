"""Lesion boxes that do not jump from frame to frame of a series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.lesion.boxes import overlaps
from engine.types import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

GROWTH: Final = 2.0
"""Most a box may grow over what was found, in area."""


def steadied(found: Sequence[Box], before: Sequence[Box]) -> tuple[Box, ...]:
    """Boxes of a frame, held to those of its neighbour where they overlap.

    A box that the neighbour's holds becomes the neighbour's; one that overlaps
    it becomes the hull of both. Neither where that would be more than `GROWTH`
    times what was found: so a series cannot drive its boxes ever larger, and
    nothing that was found is ever left out.

    Parameters
    ----------
    found
        Boxes of this frame.
    before
        Boxes of the neighbour, on the same grid, themselves steadied.

    Returns
    -------
    tuple of Box
        As many as were found, or fewer where two became one.
    """
    return tuple(dict.fromkeys(_held(box, before) for box in found))


def _held(box: Box, before: Sequence[Box]) -> Box:
    """Take the smallest hull with a neighbouring box that is not too large."""
    hulls = [_hull(box, other) for other in before if overlaps(box, other)]
    allowed = [hull for hull in hulls if _area(hull) <= GROWTH * _area(box)]
    return min(allowed, key=_area, default=box)


def _hull(a: Box, b: Box) -> Box:
    return Box(
        x0=min(a.x0, b.x0), y0=min(a.y0, b.y0), x1=max(a.x1, b.x1), y1=max(a.y1, b.y1)
    )


def _area(box: Box) -> int:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
