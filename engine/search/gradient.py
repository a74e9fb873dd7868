"""Gradient-guided search: first-order scores of every place, then judged.

With B the picture of a judged candidate and g the gradient of the loss there,
the loss of another candidate c is, to first order, that of B plus
<g, picture(c) - B>. The pictures differ by marks only, and
<g, picture(c)> = <g, X> + α (<g, I_f> - <g X, I_m>) with the logo at its place:
so one cross-correlation of g and of g X with the transformed logo scores every
position, transform and opacity at once, without asking a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn.functional import avg_pool2d
from typing_extensions import override

from engine.search.candidate import Candidate
from engine.search.populate import scatter, transforms, with_alpha
from engine.search.strategy import GRADIENT_COST, Ask, Strategy
from engine.types import SIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.search.candidate import Judged
    from engine.search.show import Gallery
    from engine.search.space import Space

_COARSE: Final = 2
"""Grid pixels per pixel of the correlation: positions need not be finer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a budget is spent.

    Attributes
    ----------
    explored
        Share of the budget for random candidates at the start.
    bases
        Candidates whose gradient is taken per round.
    judged
        Candidates judged per base and round.
    draws
        Transforms scored per base and round; half are drawn anew, half are
        near the base's own.
    """

    explored: float = 0.25
    bases: int = 3
    judged: int = 5
    draws: int = 48
    spread: float = 0.25


class GradientGuided(Strategy):
    """Explore at random, then follow first-order scores from the best found.

    Parameters
    ----------
    space
        Candidates of the frame, with its gallery.
    budget
        Most image queries to be charged.
    generator
        Source of every draw.
    plan
        How the budget is spent.
    """

    def __init__(
        self,
        space: Space,
        budget: int,
        generator: np.random.Generator,
        plan: Plan | None = None,
    ) -> None:
        if space.gallery is None:
            raise ValueError("the gradient-guided search needs the gallery")
        self.space = space
        self.plan = plan or Plan()
        self._gallery: Gallery = space.gallery
        self._budget = budget
        self._generator = generator
        self._left = budget
        self._judged: list[Judged] = []
        self._based: set[Candidate] = set()
        self._round = 0
        count = max(1, round(budget * self.plan.explored))
        places = scatter(space, transforms(space, count, generator), generator)
        self._ask = Ask(with_alpha(places, space, generator))

    @property
    @override
    def generation(self) -> int:
        """0 while exploring, then the number of the round."""
        return self._round

    @property
    @override
    def bound(self) -> int:
        """The budget."""
        return self._budget

    @override
    def ask(self, count: int) -> Ask:
        """Candidates to judge, or bases whose gradient is wanted."""
        ask = self._ask
        return ask if ask.gradients else ask._replace(candidates=ask.candidates[:count])

    @override
    def tell(self, judged: Sequence[Judged], gradients: torch.Tensor | None) -> None:
        """Take note; at the end of a stage, plan the next one."""
        self._left -= sum(one.cost for one in judged)
        if gradients is None:
            self._judged.extend(judged)
            rest = self._ask.candidates[len(judged) :]
            self._ask = Ask(rest) if rest else self._bases()
        else:
            self._ask = Ask(self._proposals(judged, gradients))

    def _bases(self) -> Ask:
        """The best candidates whose gradient is not known yet."""
        if self._left < GRADIENT_COST + 1:
            return Ask(())
        self._round += 1
        ranked = sorted(self._judged, key=lambda one: one.rank)
        chosen: list[Candidate] = []
        for one in ranked:
            if one.candidate not in self._based:
                chosen.append(one.candidate)
            if len(chosen) == self.plan.bases:
                break
        affordable = self._left // (GRADIENT_COST + 1)
        self._based.update(chosen[:affordable])
        return Ask(tuple(chosen[:affordable]), gradients=bool(chosen))

    def _proposals(
        self, bases: Sequence[Judged], gradients: torch.Tensor
    ) -> tuple[Candidate, ...]:
        """What the first-order scores of every base recommend, best first."""
        known = {one.candidate for one in self._judged}
        proposed: dict[Candidate, None] = {}
        for base, gradient in zip(bases, gradients, strict=True):
            slope = Slope.of(gradient, self._gallery.host)
            scored = self._score(base.candidate, slope)
            fresh = [
                one
                for _, one in sorted(scored, key=lambda pair: pair[0])
                if one not in known
            ]
            for one in fresh[: self.plan.judged]:
                proposed[one] = None
        return tuple(proposed)[: self._left]

    def _score(self, base: Candidate, slope: Slope) -> list[tuple[float, Candidate]]:
        """Best place of each transform tried, with its first-order loss."""
        half = self.plan.draws // 2
        sits = [self.space.transform(self._generator) for _ in range(half)]
        sits += [self._near(base.sit) for _ in range(half)]
        found = []
        for sit in sits:
            best = self._best_place(base, sit, slope)
            if best:
                found.append(best)
        return found

    def _near(self, sit: SIT) -> SIT:
        """A transform a little away from another one, within the ranges."""
        ranges = self.space.params.sit
        values = {}
        for name in ("rotation", "hue", "saturation", "value"):
            low, high = getattr(ranges, name)
            step = self._generator.normal() * self.plan.spread * (high - low) / 2
            values[name] = float(np.clip(getattr(sit, name) + step, low, high))
        return SIT(**values)

    def _best_place(
        self, base: Candidate, sit: SIT, slope: Slope
    ) -> tuple[float, Candidate] | None:
        size = self.space.size(sit)
        free = self.space.region.free(size)
        if not free.any():
            return None
        probe = Candidate(x=0, y=0, alpha=255, sit=sit)
        scores = slope.scores(self._gallery, probe, free)
        row, column = np.unravel_index(int(np.argmin(scores)), scores.shape)
        value = float(scores[row, column])
        alpha = (
            self.space.params.alpha_max if value < 0 else self.space.params.alpha_min
        )
        one = Candidate(x=int(column), y=int(row), alpha=alpha, sit=sit)
        return value * alpha / 255, one


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """A gradient in the frequency domain, ready to be correlated with logos.

    ``spectrum`` is ``(4, S, S/2 + 1)`` complex: of g per channel, then of the sum
    of g X over the channels, negated, at the coarse size S.
    """

    spectrum: torch.Tensor = field(repr=False)
    side: int

    @classmethod
    def of(cls, gradient: torch.Tensor, host: torch.Tensor) -> Slope:
        """Transform the gradient ``(3, G, G)`` at a picture of a host."""
        planes = torch.cat([gradient, -(gradient * host).sum(0, keepdim=True)])
        coarse = avg_pool2d(planes[None], _COARSE)[0] * _COARSE**2
        return cls(spectrum=torch.fft.rfft2(coarse), side=coarse.shape[-1])

    def scores(
        self, gallery: Gallery, probe: Candidate, free: np.ndarray
    ) -> np.ndarray:
        """First-order loss per unit of α at each position, inf where not free."""
        patch = gallery.mark(probe).patch
        coarse = avg_pool2d(patch[None], _COARSE, ceil_mode=True)[0]
        logo = torch.fft.rfft2(coarse, s=(self.side, self.side))
        both = (self.spectrum * logo.conj()).sum(0)
        maps = torch.fft.irfft2(both, s=(self.side, self.side)).cpu().numpy()
        rows, columns = free.shape
        whole = np.kron(maps, np.ones((_COARSE, _COARSE), maps.dtype))
        return np.where(free, whole[:rows, :columns], np.inf)
