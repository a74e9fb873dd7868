"""Who becomes a parent: dominance (Alg. 3, lines 13, 16, 26 and 30)."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.params import SearchParams
    from engine.search.candidate import Candidate, Judged


def dominants(judged: Sequence[Judged], params: SearchParams) -> tuple[Candidate, ...]:
    """Choose the parents of the next generation, best first.

    Parameters
    ----------
    judged
        All judged so far, in order, the last generation complete.
    params
        N_p and the rule, `SearchParams.selection`.
    """
    if params.selection == "strict":
        return tuple(one.candidate for one in strict(judged, params.n_p))
    return tuple(one.candidate for one in plus(judged, params.n_p))


def plus(judged: Iterable[Judged], n_p: int) -> list[Judged]:
    """Pick the N_p of lowest f_t, parents and offspring alike: (μ+λ).

    This is also line 13 for the initial population: those that lower f_t come
    first in this order, and where they are fewer than N_p, the next lowest
    fill up.
    """
    return sorted(judged, key=lambda one: one.rank)[:n_p]


def strict(judged: Sequence[Judged], n_p: int) -> list[Judged]:
    """Pick offspring that beat the criterion, as the pseudocode reads.

    The criterion is the lowest f_t of the generation before (lines 16 and 30).
    Of the offspring below it, the N_p lowest become parents, also where they
    are fewer (line 26). Where none is, line 26 is never reached, and the parents
    stay.
    """
    first, *later = (
        list(members) for _, members in groupby(judged, key=lambda one: one.generation)
    )
    parents, criterion = plus(first, n_p), min(one.rank for one in first)
    for generation in later:
        better = [one for one in generation if one.rank < criterion]
        parents = plus(better, n_p) or parents
        criterion = min(one.rank for one in generation)
    return parents
