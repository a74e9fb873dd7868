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
from engine.search.populate import anywhere, with_alpha
from engine.search.strategy import GRADIENT_COST, Ask, Strategy
from engine.types import LEVELS, SIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.search.candidate import Judged
    from engine.search.show import Gallery
    from engine.search.space import Space
    from engine.watermark.blend import GridMark

_COARSE: Final = 2
"""Grid pixels per pixel of the correlation: positions need not be finer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a budget is spent; found on training images, see docs/engine.md.

    Attributes
    ----------
    explored
        Share of the budget for random candidates at the start.
    bases
        Candidates whose gradient is taken per round.
    wide, near
        Candidates judged per base and round: the best anywhere by the mean of
        all gradients, and the best near the base by its own.
    draws
        Transforms scored for each of the two.
    spread
        Standard deviation of what is near, as a share of each range; it falls
        to a third of that towards the end.
    """

    explored: float = 0.4
    bases: int = 2
    wide: int = 2
    near: int = 4
    draws: int = 24
    spread: float = 0.3


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
    hints
        Candidates judged before the random ones, in place of as many of them.
    """

    def __init__(
        self,
        space: Space,
        budget: int,
        generator: np.random.Generator,
        plan: Plan | None = None,
        hints: Sequence[Candidate] = (),
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
        self._mean: Slope | None = None
        count = max(1, round(budget * self.plan.explored) - len(hints))
        places = anywhere(space, count, generator)
        first = (*hints, *with_alpha(places, space, generator))
        self._ask = Ask(tuple(dict.fromkeys(first)))

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
        """Choose the best candidates whose gradient is not known yet."""
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
        """Propose what first-order scores recommend: anywhere, and near each base."""
        plan, host = self.plan, self._gallery.host
        slopes = [Slope.of(gradient, host) for gradient in gradients]
        self._mean = slopes[0] if self._mean is None else self._mean
        for slope in slopes:
            self._mean = self._mean.mixed(slope)
        known = {one.candidate for one in self._judged}
        proposed: dict[Candidate, None] = {}
        for base, slope in zip(bases, slopes, strict=True):
            wide = self._scored(self._anywhere(), self._mean)
            near = self._scored(self._around(base.candidate), slope)
            for found, count in ((near, plan.near), (wide, plan.wide)):
                fresh = [one for one in found if one not in known]
                proposed.update(dict.fromkeys(fresh[:count]))
        return tuple(proposed)[: self._left]

    def _anywhere(self) -> list[_Try]:
        sits = [self.space.transform(self._generator) for _ in range(self.plan.draws)]
        return [_Try(sit=sit, at=None, alpha=None) for sit in sits]

    def _around(self, base: Candidate) -> list[_Try]:
        done = 1 - self._left / self._budget
        spread = self.plan.spread * (1 - 0.67 * done)
        reach = spread * self.space.region.side / 4
        tries = []
        for _ in range(self.plan.draws):
            alpha = base.alpha + self._generator.normal() * spread * 100
            tries.append(
                _Try(
                    sit=self._near(base.sit, spread),
                    at=(base.x, base.y, max(1.0, reach)),
                    alpha=self.space.alpha(alpha),
                )
            )
        return tries

    def _near(self, sit: SIT, spread: float) -> SIT:
        """Draw a transform a little away from another one, within the ranges."""
        ranges = self.space.params.sit
        values = {}
        for name in ("rotation", "hue", "saturation", "value"):
            low, high = getattr(ranges, name)
            step = self._generator.normal() * spread * (high - low) / 2
            values[name] = float(np.clip(getattr(sit, name) + step, low, high))
        return SIT(**values)

    def _scored(self, tries: Sequence[_Try], slope: Slope) -> list[Candidate]:
        """Place each try where its first-order loss is least; the best first."""
        corner = [Candidate(x=0, y=0, alpha=LEVELS, sit=one.sit) for one in tries]
        scores = slope.scores([self._gallery.mark(one) for one in corner])
        found = [
            self._best_place(one, its) for one, its in zip(tries, scores, strict=True)
        ]
        ordered = sorted((f for f in found if f), key=lambda pair: pair[0])
        return [candidate for _, candidate in ordered]

    def _best_place(
        self, one: _Try, scores: NDArray[np.float32]
    ) -> tuple[float, Candidate] | None:
        """Best feasible place of a try by its scores per unit of α, with its loss."""
        free = self.space.region.free(self.space.size(one.sit))[::_COARSE, ::_COARSE]
        if one.at is not None and free.size:
            x, y, reach = one.at
            rows, columns = np.ogrid[: free.shape[0], : free.shape[1]]
            away = np.hypot(columns * _COARSE - x, rows * _COARSE - y)
            free = free & (away <= max(reach, _COARSE))
        if not free.any():
            return None
        masked = np.where(free, scores[: free.shape[0], : free.shape[1]], np.inf)
        row, column = np.unravel_index(int(np.argmin(masked)), masked.shape)
        value = float(masked[row, column])
        params = self.space.params
        alpha = one.alpha or (params.alpha_max if value < 0 else params.alpha_min)
        place = Candidate(
            x=int(column) * _COARSE, y=int(row) * _COARSE, alpha=alpha, sit=one.sit
        )
        return value * alpha / LEVELS, place


@dataclass(frozen=True, kw_only=True, slots=True)
class _Try:
    """A transform to be placed.

    ``at`` is a point (x, y) and how far from it the place may be, None for
    anywhere; ``alpha`` the opacity, None for what the score recommends.
    """

    sit: SIT
    at: tuple[float, float, float] | None
    alpha: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """A gradient in the frequency domain, ready to be correlated with logos.

    ``spectrum`` is ``(4, S, S/2 + 1)`` complex: of g per channel and of the sum of
    g X over the channels, negated, at the coarse side S.
    """

    spectrum: torch.Tensor = field(repr=False)
    side: int

    @classmethod
    def of(cls, gradient: torch.Tensor, host: torch.Tensor) -> Slope:
        """Transform the gradient ``(3, G, G)`` at a picture of a host."""
        planes = torch.cat([gradient, -(gradient * host).sum(0, keepdim=True)])
        coarse = avg_pool2d(planes[None], _COARSE)[0] * _COARSE**2
        return cls(spectrum=torch.fft.rfft2(coarse), side=coarse.shape[-1])

    def mixed(self, other: Slope) -> Slope:
        """Add another one: gradients at several marks, smoothed."""
        return Slope(spectrum=self.spectrum + other.spectrum, side=self.side)

    def scores(self, marks: Sequence[GridMark]) -> NDArray[np.float32]:
        """First-order loss per unit of α at every coarse position.

        Parameters
        ----------
        marks
            N logos painted at the upper-left corner of the grid.

        Returns
        -------
        NDArray[np.float32]
            ``(N, S, S)``; where a logo would leave the grid it wraps around, so
            only feasible positions mean anything.
        """
        canvas = torch.zeros(len(marks), 4, self.side * _COARSE, self.side * _COARSE)
        for sheet, mark in zip(canvas, marks, strict=True):
            h, w = mark.patch.shape[1:]
            sheet[:, mark.y : mark.y + h, mark.x : mark.x + w] = mark.patch
        coarse = avg_pool2d(canvas, _COARSE).to(self.spectrum.device)
        product = (self.spectrum * torch.fft.rfft2(coarse).conj()).sum(1)
        maps = torch.fft.irfft2(product, s=(self.side, self.side))
        found: NDArray[np.float32] = maps.cpu().numpy()
        return found
