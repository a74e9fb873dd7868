"""What a neighbouring frame's mark tells a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.search.candidate import Candidate
from engine.search.populate import transforming
from engine.types import SIT

if TYPE_CHECKING:
    from engine.search.candidate import Judgement
    from engine.search.space import Space

KEPT: Final = 0.75
"""Share of the anchor that a mark taken over must still be worth. On a
real head a mark kept 0.9 of its margin on the next slice and 0.7 three slices
on; on interpolated, thinner slices nearly all over eight."""

_STEP: Final = 2
"""How far the place is varied, in grid pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """The mark of a neighbouring frame of the same size.

    Attributes
    ----------
    candidate
        Its place, opacity and transform on the grid.
    size
        Native width and height of its logo before rotation.
    anchor
        Fitness of the last mark of the series that a whole search found: what
        is taken over is measured against it, so that it does not get worse
        from frame to frame.
    """

    candidate: Candidate
    size: tuple[int, int]
    anchor: float

    def proposals(self, space: Space) -> tuple[Candidate, ...]:
        """Candidates to judge first: this mark, then small variations of it.

        None where the logo has another size here, the transform is not allowed
        or has no place. The first is the nearest feasible one, mostly the same;
        opacity is varied before place, so that the mark stays where it was.
        """
        x, y, alpha, sit = self.candidate
        if space.maker.size != self.size or not _allowed(sit, space):
            return ()
        place = space.nearest(x, y, sit)
        if place is None:
            return ()
        (x, y), step = place, space.params.s_alpha
        tried = [
            Candidate(x, y, space.alpha(alpha + by), sit) for by in (0, step, -step)
        ]
        tried += [
            Candidate(x + dx, y + dy, tried[0].alpha, sit)
            for dx, dy in ((-_STEP, 0), (_STEP, 0), (0, -_STEP), (0, _STEP))
        ]
        return tuple(one for one in dict.fromkeys(tried) if space.feasible(one))

    def holds(self, said: Judgement) -> bool:
        """Whether a mark taken over is good enough to spare the search.

        It must meet the stop rule and be worth a fair share of what a whole
        search found last. That all members err is not asked: where a search
        does not get there either, it would be run on every frame.

        Parameters
        ----------
        said
            Of the mark on this frame.
        """
        return said.success and said.fitness <= max(self.anchor, KEPT * self.anchor)


def _allowed(sit: SIT, space: Space) -> bool:
    if not transforming(space.params):
        return sit == SIT()
    ranges = space.params.sit
    names = ("rotation", "hue", "saturation", "value")
    return all(
        getattr(ranges, name)[0] <= getattr(sit, name) <= getattr(ranges, name)[1]
        for name in names
    )
