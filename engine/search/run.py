"""Runs searches of many frames side by side: shared batches, stop, confirmation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from engine.search.candidate import Judged
from engine.search.strategy import GRADIENT_COST
from engine.watermark.blend import blend_many

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.search.candidate import Candidate, Judgement
    from engine.search.judges import Judges
    from engine.search.objective import Objective
    from engine.search.show import Gallery
    from engine.search.strategy import Ask, Strategy

MAX_CONFIRMATIONS: Final = 8
"""Candidates confirmed at native size before a search gives up on it."""

_COMPARED: Final = 16
"""Successes of lowest f_t whose features are compared, label-free."""

_BATCHES: Final = (4, 8, 16)
"""Candidates of one frame in its first batches; the last size repeats. A first
success often comes early, and a small batch is hardly slower per image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a search found.

    Attributes
    ----------
    best
        The confirmed candidate; else the one of lowest rank that deceives the
        ensemble at native size; else the one of lowest rank.
    success
        Whether `best` was confirmed to meet the stop rule.
    queries
        Image queries charged up to and including `best` where the first success
        ends the search, otherwise all.
    first_error
        Image queries charged when the ensemble first erred; None if it never did.
    judged
        All candidates judged, in order, those after the success included.
    confirmations
        How many candidates were put to the test at native size.
    """

    best: Judged
    success: bool
    queries: int
    first_error: int | None
    judged: tuple[Judged, ...]
    confirmations: int

    @property
    def gradients(self) -> int:
        """Candidates whose gradient was taken."""
        return sum(one.cost > 1 for one in self.judged)


@dataclass(kw_only=True, slots=True)
class Task:
    """The search of one frame under way.

    Attributes
    ----------
    strategy
        What proposes candidates.
    objective
        What is wanted of them.
    gallery
        What shows them.
    confirm
        Judges a candidate blended at native size, in full precision; None where
        it has no place there.
    budget
        Most image queries charged; 0 for what the strategy itself comes to.
    steady
        Orders pictures of finalists by their worth under random changes, where
        that is wanted.
    tick
        Called with the charge of every batch.
    hints
        How many of the first candidates come from a neighbouring frame: they
        are judged alone.
    holds
        Whether what was said of one of them spares the search.
    judged, tested, outcome
        The trace, the indices put to the test, and the result once there is one.
    taken_over
        Whether the result is one of the hints, without a search.
    """

    strategy: Strategy
    objective: Objective
    gallery: Gallery
    confirm: Callable[[Candidate], Judgement | None]
    budget: int = 0
    steady: Callable[[torch.Tensor], list[int]] | None = None
    tick: Callable[[int], None] = lambda _: None
    hints: int = 0
    holds: Callable[[Judgement], bool] = lambda _: False
    judged: list[Judged] = field(default_factory=list)
    tested: set[int] = field(default_factory=set)
    outcome: Outcome | None = None
    spent: int = 0
    taken_over: bool = False

    def ask(self) -> Ask:
        """Ask for the next candidates, as many as the rest of the budget allows."""
        led = self.hints > 0 and not self.judged
        size = self.hints if led else _batch_size(len(self.judged), self.objective)
        # Every candidate is one picture per window: as many pictures as without.
        asked = self.strategy.ask(size if led else max(1, size // self.gallery.windows))
        cost = GRADIENT_COST if asked.gradients else 1
        left = (self.budget - self.spent) // cost if self.budget else None
        return asked._replace(candidates=asked.candidates[:left])

    def tell(
        self, asked: Ask, logits: torch.Tensor, gradients: torch.Tensor | None
    ) -> None:
        """Judge what was asked, pass it on, and end the search if it is over."""
        cost, generation = (
            GRADIENT_COST if asked.gradients else 1,
            self.strategy.generation,
        )
        fresh = [
            Judged(candidate, judgement, generation, cost)
            for candidate, judgement in zip(
                asked.candidates, self.objective.judge(logits), strict=True
            )
        ]
        self.judged.extend(fresh)
        self.spent += cost * len(fresh)
        self.strategy.tell(fresh, gradients)
        self.tick(cost * len(fresh))
        if len(self.judged) <= self.hints:
            self._take_over()
            if self.outcome is not None:
                return
        over = not self.ask().candidates
        claims = self._claims(len(fresh), generation, over=over)
        self._test(claims)
        if self.outcome is None and (over or len(self.tested) == MAX_CONFIRMATIONS):
            self._give_up()

    def _take_over(self) -> None:
        """End with the first hint that holds, also at native size."""
        for i, one in enumerate(self.judged):
            if not self.holds(one.judgement):
                continue
            held = self.confirm(one.candidate)
            if held is not None and self.holds(held):
                self.tested.add(i)
                self.taken_over = True
                self._end(i, success=True, queries=self.spent)
                return

    def _claims(self, fresh: int, generation: int, *, over: bool) -> Sequence[int]:
        """Candidates to confirm now, as indices in order of preference."""
        everyone = range(len(self.judged))
        if self.objective.first_success:
            newest = everyone[len(everyone) - fresh :]
            return [i for i in newest if self.judged[i].judgement.success]
        if not self.objective.label_free:
            found = [i for i in everyone if self.judged[i].judgement.success]
            return self._ranked(found) if over else []
        patient = self.objective.stop.kind == "never"
        if not over and (patient or self.strategy.generation == generation):
            return []
        return self._most_moved(
            [i for i in everyone if self.judged[i].judgement.success]
        )

    def _ranked(self, found: list[int]) -> list[int]:
        """Order successes by rank, the first few by their worth under changes."""
        ranked = sorted(found, key=lambda i: self.judged[i].rank)
        finalists = ranked[:MAX_CONFIRMATIONS]
        if self.steady is None or not finalists:
            return ranked
        pictures = self.gallery.pictures([self.judged[i].candidate for i in finalists])
        order = [finalists[k] for k in self.steady(pictures)]
        return [*order, *ranked[MAX_CONFIRMATIONS:]]

    def _most_moved(self, found: list[int]) -> list[int]:
        """Order the strongest successes by how far they move the features."""
        strongest = sorted(found, key=lambda i: self.judged[i].rank)[:_COMPARED]
        if not strongest:
            return []
        pictures = self.gallery.pictures([self.judged[i].candidate for i in strongest])
        moved = self.objective.displacement(pictures)
        order = sorted(range(len(moved)), key=lambda k: -moved[k])
        return [strongest[k] for k in order]

    def _test(self, claims: Sequence[int]) -> None:
        for claim in claims:
            if claim in self.tested or len(self.tested) == MAX_CONFIRMATIONS:
                continue
            self.tested.add(claim)
            held = self.confirm(self.judged[claim].candidate)
            if held is not None and held.success:
                upto = self.judged[: claim + 1]
                whole = upto if self.objective.first_success else self.judged
                self._end(claim, success=True, queries=sum(one.cost for one in whole))
                return

    def _give_up(self) -> None:
        """Take the best that at least deceives the ensemble natively, or the best."""
        ranked = sorted(range(len(self.judged)), key=lambda i: self.judged[i].rank)
        best = ranked[0]
        for one in [i for i in ranked if self.judged[i].judgement.deceived]:
            if len(self.tested) >= 2 * MAX_CONFIRMATIONS:
                break
            if one in self.tested and self.objective.stop.kind in {"ensemble", "never"}:
                continue
            self.tested.add(one)
            held = self.confirm(self.judged[one].candidate)
            if held is not None and held.deceived:
                best = one
                break
        self._end(best, success=False, queries=self.spent)

    def _end(self, index: int, *, success: bool, queries: int) -> None:
        self.outcome = Outcome(
            best=self.judged[index],
            success=success,
            queries=queries,
            first_error=_first_error(self.judged),
            judged=tuple(self.judged),
            confirmations=len(self.tested),
        )


def run_searches(tasks: Sequence[Task], judges: Judges) -> list[Outcome]:
    """Search all frames together until each is content or its budget is spent.

    Candidates of all frames still searching share forward passes; what the
    members said comes back in one transfer per batch. A frame that is done
    leaves the batch.

    Parameters
    ----------
    tasks
        One per frame, all for the same members.
    judges
        The members.

    Returns
    -------
    list of Outcome
        In the order of `tasks`.
    """
    active = list(tasks)
    while active:
        asked = [(task, task.ask()) for task in active]
        plain = [pair for pair in asked if not pair[1].gradients]
        steep = [pair for pair in asked if pair[1].gradients]
        if plain:
            _tell(plain, judges.look(_pictures(plain)))
        if steep:
            pictures = _pictures(steep)
            logits, gradients = judges.look_back(pictures, _labels(steep))
            _tell(steep, logits, (pictures, gradients))
        active = [task for task in active if task.outcome is None]
    return [task.outcome for task in tasks if task.outcome is not None]


_Asked = list[tuple[Task, "Ask"]]


def _pictures(asked: _Asked) -> torch.Tensor:
    """All candidates on their hosts, ``(N, 3, G, G)``; each under its windows."""
    if any(task.gallery.windows > 1 for task, _ in asked):
        return torch.cat([task.gallery.pictures(ask.candidates) for task, ask in asked])
    hosts = torch.stack([task.gallery.host for task, _ in asked])
    marks = [task.gallery.mark(one) for task, ask in asked for one in ask.candidates]
    index = [i for i, (_, ask) in enumerate(asked) for _ in ask.candidates]
    return blend_many(hosts, index, marks)


def _shown(task: Task, ask: Ask) -> int:
    """How many pictures an ask comes to."""
    return task.gallery.windows * len(ask.candidates)


def _labels(asked: _Asked) -> list[int]:
    return [
        label
        for task, ask in asked
        for label in [task.objective.label] * _shown(task, ask)
    ]


def _tell(
    asked: _Asked,
    logits: torch.Tensor,
    steep: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Tell each task its part; `steep` are pictures and their gradients."""
    done = 0
    for task, ask in asked:
        mine = slice(done, done + _shown(task, ask))
        done = mine.stop
        slopes = steep and task.gallery.pulled(steep[0][mine], steep[1][mine])
        task.tell(ask, logits[:, mine], slopes)


def _batch_size(judged: int, objective: Objective) -> int:
    if not objective.first_success:
        return _BATCHES[-1]
    for i, size in enumerate(_BATCHES):
        if judged < sum(_BATCHES[: i + 1]):
            return size
    return _BATCHES[-1]


def _first_error(judged: Sequence[Judged]) -> int | None:
    spent = 0
    for one in judged:
        spent += one.cost
        if one.judgement.deceived:
            return spent
    return None
