"""What every search strategy answers to: ask and tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from engine.search.candidate import Candidate, Judged

GRADIENT_COST = 3
"""Image queries a candidate is charged whose gradient is taken: the backward
pass costs about two forward passes."""


class Ask(NamedTuple):
    """What a strategy wants judged next.

    ``gradients`` asks for the gradient of the mean margin with respect to each
    candidate's picture as well.
    """

    candidates: tuple[Candidate, ...]
    gradients: bool = False


class Strategy(Protocol):
    """Proposes candidates of one frame and learns from what is said of them.

    A strategy draws from its own generator only, and what it proposes depends on
    what it was told, never on how many were asked for at a time: so a search
    does not depend on batches or on other images. Asking again before telling
    gives the same answer.
    """

    @property
    def generation(self) -> int:
        """Which generation `ask` hands out now, 0 for the first."""

    @property
    def bound(self) -> int:
        """Upper bound of what the whole search is charged, in image queries."""

    def ask(self, count: int) -> Ask:
        """Up to `count` candidates, at least one; none when the budget is spent."""

    def tell(self, judged: Sequence[Judged], gradients: torch.Tensor | None) -> None:
        """Learn what was said of the candidates of the last `ask`.

        Parameters
        ----------
        judged
            One per candidate, in order.
        gradients
            ``(N, 3, G, G)`` float32, where they were asked for.
        """
