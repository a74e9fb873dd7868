"""The engine's one door: protects frames, one by one or together."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch

from engine.errors import InvalidParameter, NoFeasiblePlacement, RecoveryFailed
from engine.models.fast import for_search
from engine.protection.frame_search import FrameSearch, Setting, set_up
from engine.protection.preparation import Preparation
from engine.protection.seeds import seed_of
from engine.protection.values import Given, Neighbour, ProtectedFrame, quiet
from engine.recover import recover
from engine.search.hint import Hint
from engine.search.judges import Judges
from engine.search.run import run_searches
from engine.search.trace import trace_of
from engine.summary import Summary, summarise
from engine.watermark.stored import make_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.models.ensemble import Ensemble
    from engine.params import DeltaParams, ProtectParams, SearchParams
    from engine.protection.values import Prepared, Progress
    from engine.removal.remover import Remover
    from engine.search.native import NativeResult
    from engine.search.run import Outcome
    from engine.types import Frame, FrameKey
    from engine.watermark.logo import Logo


class Protector:
    """Protects frames with one ensemble, one logo and one set of parameters.

    Parameters
    ----------
    ensemble
        Judges of the diagnosis objective; feature extractors of the label-free.
    objective
        ``diagnosis`` where the ensemble is made for such images, otherwise
        ``label-free``.
    removers
        Networks δ is made against; none means no δ.
    logo
        The logo.
    params
        All parameters; ``params.seed`` and the seed of a frame determine every
        draw, whatever the order of frames.
    device
        Where ensemble and removers lie.
    """

    def __init__(
        self,
        *,
        ensemble: Ensemble,
        objective: Literal["diagnosis", "label-free"],
        removers: Sequence[Remover],
        logo: Logo,
        params: ProtectParams,
        device: str | torch.device = "cpu",
    ) -> None:
        self.ensemble = ensemble
        self.objective = objective
        self.removers = tuple(removers)
        self.logo = logo
        self.params = params
        self.device = torch.device(device)
        self._copies: WeakKeyDictionary[Ensemble, Judges] = WeakKeyDictionary()
        self._preparation = Preparation(
            ensemble=ensemble,
            removers=self.removers,
            logo=logo,
            params=params,
            device=self.device,
        )

    def variant(
        self,
        *,
        ensemble: Ensemble | None = None,
        removers: Sequence[Remover] | None = None,
        search: SearchParams | None = None,
        delta: DeltaParams | None = None,
    ) -> Protector:
        """Make a protector that differs in models or parameters."""
        other = Protector(
            ensemble=ensemble or self.ensemble,
            objective=self.objective,
            removers=self.removers if removers is None else removers,
            logo=self.logo,
            params=replace(
                self.params,
                search=search or self.params.search,
                delta=delta or self.params.delta,
            ),
            device=self.device,
        )
        other._copies = self._copies
        return other

    def protect(
        self,
        frame: Frame,
        *,
        seed: bytes,
        given: Given | None = None,
        progress: Progress = quiet,
    ) -> ProtectedFrame:
        """Protect a frame.

        Parameters
        ----------
        frame
            The original.
        seed
            What tells this frame from others, e.g. a digest of its identifier.
        given
            What is known of it already, e.g. lesions marked by a person.
        progress
            Told of every step.

        Raises
        ------
        NoFeasiblePlacement
            The lesion boxes leave the logo no place.
        NoLesionFound
            No lesion was found and the parameters refuse such a frame.
        RecoveryFailed
            The original did not come back from the key: nothing may be sent.
        OutOfMemory
            Not even one picture at a time fits into the device's memory.
        """
        (done,) = self.protect_many(
            [frame], seeds=[seed], given=[given or Given()], progress=progress
        )
        return _placed(done)

    def protect_many(
        self,
        frames: Sequence[Frame],
        *,
        seeds: Sequence[bytes],
        given: Sequence[Given] | None = None,
        progress: Progress = quiet,
    ) -> list[ProtectedFrame | NoFeasiblePlacement]:
        """Protect frames together: they share forward and backward passes.

        What becomes of a frame does not depend on the others, but for the
        rounding of shared batches where bfloat16 is used.

        Parameters
        ----------
        frames, seeds, given
            One of each per frame, as in `protect`; of any sizes.
        progress
            Told of every step.

        Returns
        -------
        list of ProtectedFrame or NoFeasiblePlacement
            In order; the error of a frame whose logo has no place.

        Raises
        ------
        InvalidParameter
            There are not as many seeds as frames, or as much given.
        NoLesionFound, RecoveryFailed, OutOfMemory
            As in `protect`, of any frame.
        """
        prepared = self.prepare_many(
            frames, seeds=seeds, given=given, progress=progress
        )
        return self.finish_many(prepared, seeds=seeds, progress=progress)

    def prepare(
        self,
        frame: Frame,
        *,
        seed: bytes,
        given: Given | None = None,
        progress: Progress = quiet,
    ) -> Prepared:
        """Find lesions and make δ: all that does not depend on the search."""
        (prepared,) = self.prepare_many(
            [frame], seeds=[seed], given=[given or Given()], progress=progress
        )
        return prepared

    def prepare_many(
        self,
        frames: Sequence[Frame],
        *,
        seeds: Sequence[bytes],
        given: Sequence[Given] | None = None,
        progress: Progress = quiet,
    ) -> list[Prepared]:
        """Prepare frames together; parameters as in `protect_many`."""
        known = [Given()] * len(frames) if given is None else given
        if not len(frames) == len(seeds) == len(known):
            raise InvalidParameter(
                f"{len(seeds)} seeds and {len(known)} entries of what is given for "
                f"{len(frames)} frames: give one of each per frame"
            )
        if not frames:
            return []
        return self._preparation.prepare(frames, seeds, known, progress)

    def finish(
        self, prepared: Prepared, *, seed: bytes, progress: Progress = quiet
    ) -> ProtectedFrame:
        """Search a place for the mark, blend it and verify the result."""
        (done,) = self.finish_many([prepared], seeds=[seed], progress=progress)
        return _placed(done)

    def finish_many(
        self,
        prepared: Sequence[Prepared],
        *,
        seeds: Sequence[bytes],
        progress: Progress = quiet,
    ) -> list[ProtectedFrame | NoFeasiblePlacement]:
        """Search for prepared frames together; the rest as in `protect_many`."""
        clock = time.perf_counter()
        counter = _Counter("search", progress)
        searches = [
            self._search(one, seed, counter)
            for one, seed in zip(prepared, seeds, strict=True)
        ]
        ready = [one for one in searches if isinstance(one, FrameSearch)]
        outcomes = iter(run_searches([one.task for one in ready], self._judges))
        shared = (time.perf_counter() - clock) / max(1, len(ready))
        return [
            self._done(one, next(outcomes), shared)
            if isinstance(one, FrameSearch)
            else one
            for one in searches
        ]

    @property
    def _judges(self) -> Judges:
        """The search's own, faster copy of the ensemble; made once."""
        if self.ensemble not in self._copies:
            self._copies[self.ensemble] = Judges(for_search(self.ensemble))
        return self._copies[self.ensemble]

    def _search(
        self, prepared: Prepared, seed: bytes, counter: _Counter
    ) -> FrameSearch | NoFeasiblePlacement:
        params = self.params
        setting = Setting(
            ensemble=self.ensemble,
            judges=self._judges,
            params=params,
            label_free=self.objective == "label-free",
            device=self.device,
        )
        maker = self._preparation.maker(prepared.frame)
        drawn_from = seed_of(params.seed, "search", seed)
        try:
            search = set_up(setting, prepared, maker, drawn_from, counter.count)
        except NoFeasiblePlacement as error:
            return error
        bound = search.start.strategy.bound
        counter.expect(min(bound, params.search.limit or bound))
        return search

    def _done(
        self, search: FrameSearch, outcome: Outcome, seconds: float
    ) -> ProtectedFrame | NoFeasiblePlacement:
        """Blend what was found, make and check the key, and report."""
        clock = time.perf_counter()
        prepared, trial = search.prepared, search.trial
        try:
            final = trial.final(outcome)
        except NoFeasiblePlacement as error:
            return error
        key = self._key(prepared, final)
        objective = search.task.objective
        report = summarise(
            Summary(
                ensemble=self.ensemble,
                objective=self.objective,
                displacement=objective.displacement(final.shown)[0],
                strategy=self.params.search.strategy,
                frame=prepared.frame,
                lesions=prepared.lesions,
                boxes=prepared.boxes,
                before=search.before,
                outcome=outcome,
                final=final,
                delta=prepared.delta,
                native_trials=trial.count,
                guarded=self.params.delta.lesion_guard,
                seconds=prepared.seconds
                | {"search": seconds, "verify": time.perf_counter() - clock},
                fallbacks=search.fallbacks,
            )
        )
        trace = trace_of(
            outcome,
            search.start,
            objective,
            boxes=prepared.lesions.boxes,
            seed=search.seed,
            sent=trial.sent,
        )
        return ProtectedFrame(
            stored=final.stored,
            key=key,
            report=report,
            trace=trace,
            neighbour=_neighbour(search, outcome),
        )

    def _key(self, prepared: Prepared, final: NativeResult) -> FrameKey:
        """Make the key and prove that it works before anything is sent."""
        key = make_key(
            prepared.frame,
            final.stored,
            final.mark,
            delta=prepared.delta,
            logo_sha256=self.logo.sha256,
        )
        if not np.array_equal(recover(final.stored, key), prepared.frame.stored):
            raise RecoveryFailed("the key does not give the original frame back")
        return key


class _Counter:
    """Adds up the steps of a stage over frames done together."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self._stage, self._progress = stage, progress
        self._done = self._total = 0

    def expect(self, steps: int) -> None:
        """Expect so many steps more."""
        self._total += steps

    def count(self, steps: int) -> None:
        """Tell of so many steps done."""
        self._done += steps
        self._progress(self._stage, self._done, self._total)


def _neighbour(search: FrameSearch, outcome: Outcome) -> Neighbour:
    """Return what the next frames of a series learn from this one."""
    prepared, hint = search.prepared, search.prepared.hint
    rows, columns = prepared.frame.stored.shape[:2]
    taken_over = search.task.taken_over and hint is not None
    found = outcome.best.judgement.fitness
    return Neighbour(
        columns=columns,
        rows=rows,
        colour=prepared.frame.colour,
        delta=prepared.delta,
        boxes=prepared.lesions.boxes,
        hint=Hint(
            candidate=search.trial.sent,
            size=search.start.space.maker.size,
            anchor=hint.anchor if hint and taken_over else found,
        ),
    )


def _placed(done: ProtectedFrame | NoFeasiblePlacement) -> ProtectedFrame:
    if isinstance(done, NoFeasiblePlacement):
        raise done
    return done
