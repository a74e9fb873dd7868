"""Projected gradient steps for δ against removal networks (Eqs. 1, 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from engine.errors import InvalidParameter, ModelError
from engine.models.batches import OutOfMemory, is_out_of_memory
from engine.perturb.host import Host, as_planes, quantise, stack_hosts
from engine.perturb.objective import TINY, slope
from engine.types import LEVELS
from engine.watermark.working import GRID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engine.params import DeltaParams
    from engine.perturb.host import Batch, Composite
    from engine.perturb.objective import Slope
    from engine.removal.remover import Remover

__all__ = ["Host", "craft_delta", "craft_deltas"]

BATCH: Final = 8
"""Images of the model grid's size that move together at first."""

_CHECK: Final = 5
"""Steps between two looks at values on the device: each waits for it."""


def craft_delta(
    host: Host,
    removers: Sequence[Remover],
    params: DeltaParams,
    composites: Sequence[Composite],
    *,
    tick: Callable[[], None] = lambda: None,
) -> NDArray[np.int8]:
    """Make δ for one image; see `craft_deltas`.

    Parameters
    ----------
    host
        The image.
    removers
        Networks to mislead.
    params
        What to make.
    composites
        Random marks, in place of the host's own.
    tick
        Called after every step.

    Returns
    -------
    NDArray[np.int8]
        ``(rows, columns)`` or, for colour, ``(rows, columns, 3)``, in display
        levels.
    """
    alone = replace(host, composites=tuple(composites))
    (delta,) = craft_deltas([alone], removers, params, tick=lambda _: tick())
    return delta


def craft_deltas(
    hosts: Sequence[Host],
    removers: Sequence[Remover],
    params: DeltaParams,
    *,
    batch: int = BATCH,
    tick: Callable[[int], None] = lambda _: None,
) -> list[NDArray[np.int8]]:
    """Make δ for many images; those of one shape share forward passes.

    Starting from zero, or from the δ of a neighbouring slice, every step moves δ
    along the sign of the gradient (Eq. 1; against it for Eq. 4), then projects it
    onto the ε-ball, onto pictures in [0, 1] and off the frozen region. Rounded
    and projected once more at the end, so that nothing moves afterwards.

    What becomes of an image does not depend on the others, but for the rounding
    of shared batches. Where it turns the sign of a gradient next to zero, a
    whole step follows: entries drift apart over many steps, the effect does not.

    Parameters
    ----------
    hosts
        The images, of any shapes.
    removers
        Networks to mislead, in evaluation mode; they count alike, whatever their
        losses. None means no δ, but noise needs none.
    params
        What to make.
    batch
        Most images of 224x224 at once, of larger ones fewer by area; halved
        where the device's memory does not hold them.
    tick
        Called after every step with the number of images it moved; steps lost
        to memory are told again.

    Returns
    -------
    list of NDArray[np.int8]
        In order; ``(rows, columns)`` or, for colour, ``(rows, columns, 3)``, in
        display levels.

    Raises
    ------
    InvalidParameter
        If the parameters want something the hosts do not have.
    ModelError
        If a remover returns another shape, or NaN.
    OutOfMemory
        If memory does not hold a single image.
    """
    if batch < 1:
        raise InvalidParameter(f"batch={batch}: must be at least 1")
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, host in enumerate(hosts):
        _check_order(host, params)
        alike.setdefault(host.likeness, []).append(i)
    done: dict[int, NDArray[np.int8]] = {}
    for places in alike.values():
        made = _in_halves(
            [hosts[i] for i in places],
            _fitting(hosts[places[0]], batch),
            lambda part: _craft(part, removers, params, tick),
        )
        done.update(zip(places, made, strict=True))
    return [done[i] for i in range(len(hosts))]


def _fitting(host: Host, batch: int) -> int:
    """How many of such images take the memory of `batch` of the grid's size."""
    rows, columns = host.image.shape[1:]
    return max(1, min(batch, batch * GRID**2 // (rows * columns)))


def _check_order(host: Host, params: DeltaParams) -> None:
    if params.order == "after" and params.kind != "none" and host.target is None:
        raise InvalidParameter(
            "order='after' makes δ for a marked picture: give the original as target"
        )


def _in_halves(
    hosts: Sequence[Host],
    size: int,
    craft: Callable[[Sequence[Host]], list[NDArray[np.int8]]],
) -> list[NDArray[np.int8]]:
    """Craft at most `size` at once, half as many whenever memory runs out."""
    made: list[NDArray[np.int8]] = []
    while len(made) < len(hosts):
        part = hosts[len(made) : len(made) + size]
        done = _attempt(part, craft)
        if done is None:
            size = len(part) // 2
            if part[0].image.device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            made.extend(done)
    return made


def _attempt(
    part: Sequence[Host],
    craft: Callable[[Sequence[Host]], list[NDArray[np.int8]]],
) -> list[NDArray[np.int8]] | None:
    # The error holds the frames, and they the tensors, that filled the memory:
    # it must be gone before the next attempt.
    try:
        return craft(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(part) == 1:
            image = part[0].image
            raise OutOfMemory(
                f"memory of {image.device} does not hold δ for one image of shape "
                f"{tuple(image.shape)}; use fewer or smaller removers, another "
                "device, or free its memory"
            ) from error
    return None


def _craft(
    hosts: Sequence[Host],
    removers: Sequence[Remover],
    params: DeltaParams,
    tick: Callable[[int], None],
) -> list[NDArray[np.int8]]:
    """Make δ for hosts that are alike."""
    if params.kind == "noise":
        return [_noise(host, params) for host in hosts]
    image = torch.stack([host.image for host in hosts])
    if params.kind == "none" or not removers or not params.epsilon:
        return quantise(torch.zeros_like(image), image, params.epsilon)
    state = State.of(hosts, len(removers), params)
    warm = hosts[0].start is not None
    delta = _descend(
        state,
        removers,
        params,
        steps=params.warm_steps if warm else params.iterations,
        tick=tick,
    )
    return quantise(delta, image, params.epsilon)


def _noise(host: Host, params: DeltaParams) -> NDArray[np.int8]:
    """Uniform noise in ±ε, bounded and rounded like δ: the control."""
    if host.generator is None:
        raise InvalidParameter("kind='noise' needs the host's generator")
    bounds = stack_hosts([host], replace(params, host="clean"))
    drawn = host.generator.uniform(-params.epsilon, params.epsilon, host.image.shape)
    levels = torch.from_numpy(drawn).to(host.image)[None] / LEVELS
    return quantise(bounds.project(levels), bounds.image, params.epsilon)[0]


@dataclass(kw_only=True, slots=True, eq=False)
class State:
    """The images still moving, all on their device.

    Attributes
    ----------
    places
        ``(B,)`` index of each among all hosts.
    batch, delta, velocity
        The hosts, δ, and the gradients summed with momentum.
    best, waited
        ``(B,)``: largest objective so far, and steps since it last improved.
    finite
        ``(R, B)``: whether every remover has returned only numbers.
    """

    places: torch.Tensor
    batch: Batch
    delta: torch.Tensor
    velocity: torch.Tensor
    best: torch.Tensor
    waited: torch.Tensor
    finite: torch.Tensor

    @classmethod
    def of(cls, hosts: Sequence[Host], removers: int, params: DeltaParams) -> State:
        """Start at zero, or at the hosts' δ."""
        batch = stack_hosts(hosts, params)
        delta = torch.zeros_like(batch.image)
        starts = [host.start for host in hosts if host.start is not None]
        if starts:
            delta = torch.stack([as_planes(start) for start in starts]).to(delta)
        count = torch.zeros(len(hosts), device=delta.device)
        return cls(
            places=torch.arange(len(hosts), device=delta.device),
            batch=batch,
            delta=batch.project(delta),
            velocity=torch.zeros_like(delta),
            best=torch.full_like(count, -torch.inf),
            waited=count,
            finite=torch.ones(
                (removers, len(hosts)), dtype=torch.bool, device=delta.device
            ),
        )

    def move(self, here: Slope, params: DeltaParams) -> None:
        """One step of Eq. 1, and its book-keeping; reads nothing back."""
        size = here.gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        self.velocity.mul_(params.inertia).add_(here.gradient / (size + TINY))
        stride = params.sign * params.step / LEVELS
        self.delta = self.batch.project(self.delta + stride * self.velocity.sign())
        # A share of any loss is a difference of logarithms, whatever its scale.
        value = params.sign * torch.log(here.losses + TINY).mean(0)
        gain = torch.log1p(torch.full_like(value, params.min_gain))
        better = value > self.best + gain
        self.best = torch.where(better, value, self.best)
        self.waited = torch.where(better, 0.0, self.waited + 1)
        self.finite &= here.finite

    def select(self, rows: torch.Tensor) -> None:
        """Keep only the images with the indices `rows`."""
        self.places, self.batch = self.places[rows], self.batch.select(rows)
        self.delta, self.velocity = self.delta[rows], self.velocity[rows]
        self.best, self.waited = self.best[rows], self.waited[rows]
        self.finite = self.finite[:, rows]


def _descend(
    state: State,
    removers: Sequence[Remover],
    params: DeltaParams,
    *,
    steps: int,
    tick: Callable[[int], None],
) -> torch.Tensor:
    """All steps; δ of every host, ``(B, C, rows, columns)``."""
    result = state.delta.clone()
    for step in range(steps):
        here = slope(state.batch, state.delta, removers, params, step)
        state.move(here, params)
        tick(len(state.places))
        if (step + 1) % _CHECK == 0 or step + 1 == steps:
            _check_finite(state.finite, removers)
            if params.patience:
                result[state.places] = state.delta
                moving = state.waited < max(params.patience, state.batch.marks)
                state.select(torch.nonzero(moving)[:, 0])
                if not len(state.places):
                    break
    result[state.places] = state.delta
    return result


def _check_finite(finite: torch.Tensor, removers: Sequence[Remover]) -> None:
    wrong = [
        remover.name
        for remover, fine in zip(removers, finite.all(dim=1).tolist(), strict=True)
        if not fine
    ]
    if wrong:
        raise ModelError(
            f"remover {', '.join(map(repr, wrong))} returns NaN or infinite values, "
            "or has such gradients: check its weights"
        )
