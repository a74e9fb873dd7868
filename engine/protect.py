"""Protects one frame: mask, δ, search on I+δ, blend, verify."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch

from engine.errors import NoFeasiblePlacement, RecoveryFailed
from engine.lesion.boxes import fill
from engine.lesion.localise import localise
from engine.models.fast import for_search
from engine.perturb.composites import random_composites
from engine.perturb.pgd import Host, craft_delta
from engine.recover import recover
from engine.rendering import render
from engine.search.judges import Judges
from engine.search.native import NativeTrial
from engine.search.objective import objective_for, opinion
from engine.search.region import region
from engine.search.run import Task, run_searches
from engine.search.show import Gallery
from engine.search.start import start_search
from engine.search.trace import trace_of
from engine.summary import Summary, summarise
from engine.watermark.maker import PatchMaker
from engine.watermark.stored import apply_delta, make_key
from engine.watermark.working import Geometry, levels_to_tensor, working_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from engine.lesion.boxes import Lesions
    from engine.models.ensemble import Ensemble
    from engine.params import DeltaParams, ProtectParams, SearchParams
    from engine.removal.remover import Remover
    from engine.report import FrameReport
    from engine.search.candidate import Candidate, Judgement
    from engine.search.native import NativeResult
    from engine.search.objective import Opinion
    from engine.search.run import Outcome
    from engine.search.start import Start
    from engine.search.trace import Trace
    from engine.types import Box, Frame, FrameKey
    from engine.watermark.logo import Logo

    Progress = Callable[[str, int, int], None]
    """Called with the stage (``mask``, ``delta``, ``search``), the steps done in
    it and an upper bound of its steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtectedFrame:
    """A protected frame: what is sent, what gives the original back, and how.

    ``stored`` is int32 in the range and shape of the original; ``trace`` tells
    every candidate of the search.
    """

    stored: NDArray[np.int32] = field(repr=False)
    key: FrameKey
    report: FrameReport
    trace: Trace = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A frame with lesions found and δ made, before any mark.

    Attributes
    ----------
    frame
        The original.
    image
        I on the model grid, ``(3, G, G)``.
    lesions, boxes
        Lesion boxes on the grid and at native size.
    delta
        δ as stored in the key.
    host
        X in stored values.
    shown
        What the models see of X, ``(3, G, G)``.
    seconds
        Wall time of the stages so far.
    """

    frame: Frame
    image: torch.Tensor = field(repr=False)
    lesions: Lesions = field(repr=False)
    boxes: tuple[Box, ...]
    delta: NDArray[np.int8] = field(repr=False)
    host: NDArray[np.int32] = field(repr=False)
    shown: torch.Tensor = field(repr=False)
    seconds: dict[str, float]


def _quiet(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


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

    @property
    def _judges(self) -> Judges:
        """The search's own, faster copy of the ensemble; made once."""
        if self.ensemble not in self._copies:
            self._copies[self.ensemble] = Judges(for_search(self.ensemble))
        return self._copies[self.ensemble]

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
        self, frame: Frame, *, seed: bytes, progress: Progress = _quiet
    ) -> ProtectedFrame:
        """Protect a frame.

        Parameters
        ----------
        frame
            The original.
        seed
            What tells this frame from others, e.g. a digest of its identifier.
        progress
            Told of every step.

        Raises
        ------
        NoFeasiblePlacement
            The lesion boxes leave the logo no place.
        RecoveryFailed
            The original did not come back from the key: nothing may be sent.
        """
        prepared = self.prepare(frame, seed=seed, progress=progress)
        return self.finish(prepared, seed=seed, progress=progress)

    def prepare(
        self,
        frame: Frame,
        *,
        seed: bytes,
        lesions: Lesions | None = None,
        delta: NDArray[np.int8] | None = None,
        progress: Progress = _quiet,
    ) -> Prepared:
        """Find lesions and make δ: all that does not depend on the search.

        Parameters
        ----------
        frame
            The original.
        seed
            As in `protect`.
        lesions
            On the model grid, where they are known already.
        delta
            δ in the shape of a key's, where it is known already; the lesion
            guard is applied to it.
        progress
            Told of every step.
        """
        clock = time.perf_counter()
        geometry = _geometry(frame)
        image = working_image(frame.stored, frame.rendering, self.device)
        if lesions is None:
            label = opinion(self.ensemble, image).label
            lesions = localise(self.ensemble, image, label, self.params.lesion)
        boxes = tuple(geometry.native_box(box) for box in lesions.boxes)
        progress("mask", 1, 1)
        masked = time.perf_counter()
        frozen = self._guarded(geometry, boxes)
        if delta is None:
            generator = self._generator("delta", seed)
            delta = self._delta(frame, frozen, generator, progress)
        else:
            guard = frozen if delta.ndim == frozen.ndim else frozen[..., None]
            delta = np.where(guard, np.int8(0), delta)
        host = apply_delta(frame, delta)
        shown = working_image(host, frame.rendering, self.device)
        return Prepared(
            frame=frame,
            image=image,
            lesions=lesions,
            boxes=boxes,
            delta=delta,
            host=host,
            shown=shown,
            seconds={"mask": masked - clock, "delta": time.perf_counter() - masked},
        )

    def finish(
        self, prepared: Prepared, *, seed: bytes, progress: Progress = _quiet
    ) -> ProtectedFrame:
        """Search a place for the mark, blend it and verify the result."""
        (done,) = self.finish_many([prepared], seeds=[seed], progress=progress)
        if isinstance(done, NoFeasiblePlacement):
            raise done
        return done

    def finish_many(
        self,
        prepared: Sequence[Prepared],
        *,
        seeds: Sequence[bytes],
        progress: Progress = _quiet,
    ) -> list[ProtectedFrame | NoFeasiblePlacement]:
        """Search for many frames at once: they share forward passes.

        What becomes of a frame does not depend on the others, but for the
        rounding of shared batches where the search runs in bfloat16.

        Parameters
        ----------
        prepared
            From `prepare`.
        seeds
            One per frame, as in `protect`.
        progress
            Told of every step of every frame.

        Returns
        -------
        list of ProtectedFrame or NoFeasiblePlacement
            In order; the error of a frame whose logo has no place.

        Raises
        ------
        RecoveryFailed
            An original did not come back from its key: nothing may be sent.
        """
        clock = time.perf_counter()
        searches = [
            self._search(one, seed, progress)
            for one, seed in zip(prepared, seeds, strict=True)
        ]
        ready = [one for one in searches if isinstance(one, _Search)]
        outcomes = run_searches([one.task for one in ready], self._judges)
        shared = (time.perf_counter() - clock) / max(1, len(ready))
        found = iter(outcomes)
        return [
            self._done(one, next(found), shared) if isinstance(one, _Search) else one
            for one in searches
        ]

    def _search(
        self, prepared: Prepared, seed: bytes, progress: Progress
    ) -> _Search | NoFeasiblePlacement:
        """Set up the search of a frame."""
        drawn_from = self._seed("search", seed)
        try:
            start = self._start(prepared, np.random.default_rng(drawn_from))
        except NoFeasiblePlacement as error:
            return error
        before = opinion(self.ensemble, prepared.image)
        params = self.params.search
        objective = objective_for(
            self.ensemble,
            prepared.image,
            before.label,
            params.stop_rule,
            label_free=self.objective == "label-free",
        )
        trial = _Trial(
            NativeTrial(
                frame=prepared.frame,
                host=prepared.host,
                boxes=prepared.boxes,
                maker=start.space.maker,
                objective=objective,
                device=self.device,
            )
        )
        bound = start.strategy.bound
        task = Task(
            strategy=start.strategy,
            objective=objective,
            gallery=Gallery(start.space.maker, prepared.shown),
            confirm=trial.confirm,
            budget=params.budget,
            tick=_counter("search", min(bound, params.budget or bound), progress),
        )
        return _Search(
            prepared=prepared,
            start=start,
            seed=drawn_from,
            before=before,
            trial=trial,
            task=task,
        )

    def _done(
        self, search: _Search, outcome: Outcome, seconds: float
    ) -> ProtectedFrame | NoFeasiblePlacement:
        """Blend what was found, make and check the key, and report."""
        clock = time.perf_counter()
        prepared, trial = search.prepared, search.trial
        try:
            final = trial.final(outcome)
        except NoFeasiblePlacement as error:
            return error
        key = self._key(prepared, final)
        report = summarise(
            Summary(
                ensemble=self.ensemble,
                objective=self.objective,
                displacement=search.task.objective.displacement(final.shown[None])[0],
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
                fallbacks=search.start.fallbacks,
            )
        )
        trace = trace_of(
            outcome,
            search.start,
            search.task.objective,
            boxes=prepared.lesions.boxes,
            seed=search.seed,
            sent=trial.sent,
        )
        return ProtectedFrame(stored=final.stored, key=key, report=report, trace=trace)

    def _guarded(self, geometry: Geometry, boxes: Sequence[Box]) -> NDArray[np.bool_]:
        """Where δ must stay zero, shape of δ."""
        guard = self.params.delta.lesion_guard
        kept = [geometry.delta_box(box) for box in boxes if guard]
        return fill(kept, geometry.delta_shape())

    def _delta(
        self,
        frame: Frame,
        frozen: NDArray[np.bool_],
        generator: np.random.Generator,
        progress: Progress,
    ) -> NDArray[np.int8]:
        params = self.params
        levels = render(frame.stored, frame.rendering)
        host = Host(
            image=levels_to_tensor(levels, frozen.shape, self.device),
            frozen=torch.from_numpy(frozen).to(self.device),
        )
        composites = random_composites(
            self._maker(frame), params.search, generator, self.device
        )
        tick = _counter("delta", params.delta.iterations, progress)
        return craft_delta(
            host, self.removers, params.delta, composites, tick=lambda: tick(1)
        )

    def _maker(self, frame: Frame) -> PatchMaker:
        return PatchMaker(
            logo=self.logo,
            geometry=_geometry(frame),
            sl=self.params.search.sl,
            grey=not frame.colour,
            matte=self.params.search.matte,
        )

    def _start(self, prepared: Prepared, generator: np.random.Generator) -> Start:
        free = region(prepared.lesions.forbidden)
        maker = self._maker(prepared.frame)
        return start_search(maker, free, self.params.search, generator, prepared.shown)

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

    def _generator(self, purpose: str, seed: bytes) -> np.random.Generator:
        return np.random.default_rng(self._seed(purpose, seed))

    def _seed(self, purpose: str, seed: bytes) -> int:
        """Seed of draws that depend on parameters and frame only, not on order."""
        text = f"{self.params.seed}/{purpose}/".encode() + seed
        return int.from_bytes(hashlib.sha256(text).digest(), "big")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """The search of one frame, with all that is needed to finish the frame."""

    prepared: Prepared
    start: Start
    seed: int
    before: Opinion
    trial: _Trial
    task: Task


class _Trial:
    """Native results of one search; the last is kept, it is often the final one."""

    def __init__(self, native: NativeTrial) -> None:
        self._native = native
        self._last: tuple[Candidate, NativeResult | None] | None = None
        self.count = 0

    @property
    def sent(self) -> Candidate:
        """The candidate `final` gave the result of."""
        assert self._last is not None
        return self._last[0]

    def confirm(self, one: Candidate) -> Judgement | None:
        """Judge the final stored values of a candidate."""
        result = self._result(one)
        return None if result is None else result.judgement

    def final(self, outcome: Outcome) -> NativeResult:
        """Give the confirmed result, or the best one that can be placed."""
        ranked = sorted(outcome.judged, key=lambda judged: judged.rank)
        for judged in (outcome.best, *ranked):
            result = self._result(judged.candidate)
            if result is not None:
                return result
        raise NoFeasiblePlacement(
            "no candidate has a place at native size outside the lesion boxes"
        )

    def _result(self, one: Candidate) -> NativeResult | None:
        if self._last is None or self._last[0] != one:
            self._last = one, self._native.result(one)
            self.count += 1
        return self._last[1]


def _geometry(frame: Frame) -> Geometry:
    rows, columns = frame.stored.shape[:2]
    return Geometry(columns=columns, rows=rows)


def _counter(stage: str, total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def count(steps: int) -> None:
        nonlocal done
        done += steps
        progress(stage, done, total)

    return count
