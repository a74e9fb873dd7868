"""Finds lesions and makes δ: all that does not depend on the search."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.lesion.boxes import fill
from engine.lesion.localise import localise_many
from engine.lesion.steady import steadied
from engine.perturb.composites import random_composites
from engine.perturb.host import Host
from engine.perturb.pgd import craft_deltas
from engine.protection.seeds import generator
from engine.protection.values import Prepared
from engine.rendering import render
from engine.search.objective import averaged, opinions
from engine.watermark.maker import PatchMaker
from engine.watermark.stored import apply_delta
from engine.watermark.working import (
    Geometry,
    levels_to_tensor,
    working_image,
    working_images,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.lesion.boxes import Lesions
    from engine.models.ensemble import Ensemble
    from engine.params import ProtectParams
    from engine.protection.values import Given, Neighbour, Progress
    from engine.removal.remover import Remover
    from engine.types import Box, Frame
    from engine.watermark.logo import Logo


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """Prepares frames; fields as in `engine.protection.protector.Protector`."""

    ensemble: Ensemble
    removers: tuple[Remover, ...]
    logo: Logo
    params: ProtectParams
    device: torch.device

    def prepare(
        self,
        frames: Sequence[Frame],
        seeds: Sequence[bytes],
        given: Sequence[Given],
        progress: Progress,
    ) -> list[Prepared]:
        """Prepare frames together: they share forward and backward passes."""
        clock = time.perf_counter()
        views = [working_images(f.stored, f.renderings, self.device) for f in frames]
        beside = [g.beside(f) for f, g in zip(frames, given, strict=True)]
        lesions = [
            found if one is None or known.lesions else _steady(found, one)
            for found, one, known in zip(
                self._lesions(views, given), beside, given, strict=True
            )
        ]
        progress("mask", len(frames), len(frames))
        masked = time.perf_counter()
        boxes = [
            tuple(map(self._geometry(f).native_box, found.boxes))
            for f, found in zip(frames, lesions, strict=True)
        ]
        deltas = self._deltas(
            [
                _Asked(frame=f, boxes=b, seed=s, given=g)
                for f, b, s, g in zip(frames, boxes, seeds, given, strict=True)
            ],
            progress,
        )
        hosts = [apply_delta(f, d) for f, d in zip(frames, deltas, strict=True)]
        n = max(1, len(frames))
        seconds = {
            "mask": (masked - clock) / n,
            "delta": (time.perf_counter() - masked) / n,
        }
        return [
            Prepared(
                frame=frames[i],
                views=views[i],
                lesions=lesions[i],
                boxes=boxes[i],
                delta=deltas[i],
                host=hosts[i],
                shown=working_image(hosts[i], frames[i].rendering, self.device),
                seconds=seconds,
                hint=near.hint if (near := beside[i]) else None,
            )
            for i in range(len(frames))
        ]

    def maker(self, frame: Frame) -> PatchMaker:
        """Patches of the logo for a frame."""
        search = self.params.search
        return PatchMaker(
            logo=self.logo,
            geometry=self._geometry(frame),
            sl=search.sl,
            grey=not frame.colour,
            matte=search.matte,
        )

    def _geometry(self, frame: Frame) -> Geometry:
        """How a frame lies on the model grid, and how fine its δ is."""
        rows, columns = frame.stored.shape[:2]
        return Geometry(columns=columns, rows=rows, finest=self.params.delta.finest)

    def _lesions(
        self, views: Sequence[torch.Tensor], given: Sequence[Given]
    ) -> list[Lesions]:
        """Lesions of every image, as seen in its first window.

        Models are asked about unknown ones only.
        """
        known = {i: one.lesions for i, one in enumerate(given) if one.lesions}
        unknown = [i for i in range(len(views)) if i not in known]
        if unknown:
            found = localise_many(
                self.ensemble,
                torch.stack([views[i][0] for i in unknown]),
                self._labels([views[i] for i in unknown]),
                self.params.lesion,
                regions=[given[i].regions for i in unknown],
            )
            known.update(zip(unknown, found, strict=True))
        return [known[i] for i in range(len(views))]

    def _labels(self, views: Sequence[torch.Tensor]) -> list[int]:
        """Consensus label of every frame over its windows."""
        said = iter(opinions(self.ensemble, torch.cat(list(views))))
        return [averaged(list(islice(said, len(one)))).label for one in views]

    def _deltas(
        self, asked: Sequence[_Asked], progress: Progress
    ) -> list[NDArray[np.int8]]:
        """δ of every frame, zero where it is guarded."""
        open_ = [one for one in asked if one.given.delta is None]
        hosts = [self._host(one) for one in open_]
        params = self.params.delta
        steps = [params.warm_steps, params.iterations]
        total, done = sum(steps[one.start is None] for one in hosts), 0

        def tick(images: int) -> None:
            nonlocal done
            done += images
            progress("delta", min(done, total), total)

        made = iter(craft_deltas(hosts, self.removers, params, tick=tick))
        return [
            next(made)
            if one.given.delta is None
            else _guarded(one.given.delta, self._frozen(one))
            for one in asked
        ]

    def _host(self, one: _Asked) -> Host:
        frozen, frame = self._frozen(one), one.frame
        draws = generator(self.params.seed, "delta", one.seed)
        levels = render(frame.stored, frame.rendering)
        composites = random_composites(
            self.maker(frame), self.params.search, draws, self.device
        )
        return Host(
            image=levels_to_tensor(levels, frozen.shape, self.device),
            frozen=torch.from_numpy(frozen).to(self.device),
            composites=tuple(composites),
            start=_start(one, frozen.shape),
            generator=draws,
        )

    def _frozen(self, one: _Asked) -> NDArray[np.bool_]:
        """Where δ must stay zero, rows and columns of δ."""
        geometry = self._geometry(one.frame)
        guard = self.params.delta.lesion_guard
        kept = [geometry.delta_box(box) for box in one.boxes if guard]
        return fill(kept, geometry.delta_shape())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A frame δ is wanted for."""

    frame: Frame = field(repr=False)
    boxes: tuple[Box, ...]
    seed: bytes
    given: Given


def _steady(found: Lesions, neighbour: Neighbour) -> Lesions:
    """Hold what models found to the neighbour's boxes; never what a person gave."""
    if found.source == "external":
        return found
    return replace(found, boxes=steadied(found.boxes, neighbour.boxes))


def _start(one: _Asked, shape: tuple[int, ...]) -> NDArray[np.int8] | None:
    """δ of the neighbour to start from, where it has the wanted shape."""
    neighbour = one.given.beside(one.frame)
    if neighbour is None or neighbour.delta.shape[:2] != shape:
        return None
    return neighbour.delta


def _guarded(delta: NDArray[np.int8], frozen: NDArray[np.bool_]) -> NDArray[np.int8]:
    guard = frozen if delta.ndim == frozen.ndim else frozen[..., None]
    return np.where(guard, np.int8(0), delta)
