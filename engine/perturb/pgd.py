"""Projected gradient steps for δ_D against removal networks (Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from engine.precision import reduced_precision
from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from engine.params import DeltaParams
    from engine.removal.remover import Remover

    Composite = tuple[torch.Tensor, torch.Tensor]
    """A mark as ``host * keep + add``, each ``(3, rows, columns)``."""

_TINY: Final = 1e-8
_MOMENTUM: Final = 1.0
"""Weight of past gradients with the mixed host, whose marks change every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What δ is made for.

    Attributes
    ----------
    image
        I, ``(C, rows, columns)`` float32 in [0, 1]; C is 1 for grey images,
        which ties δ across the channels a remover sees.
    frozen
        ``(rows, columns)`` bool: where δ stays zero.
    """

    image: torch.Tensor
    frozen: torch.Tensor


def craft_delta(
    host: Host,
    removers: Sequence[Remover],
    params: DeltaParams,
    composites: Sequence[Composite],
    *,
    tick: Callable[[], None] = lambda: None,
) -> NDArray[np.int8]:
    """Make δ that ruins what removers return: δ_D of Eq. 3.

    Starting from zero, every step moves δ along the sign of the gradient of
    MSE(I, I_w'), then projects it onto the ε-ball, onto pictures in [0, 1] and
    off the frozen region. Rounded and projected once more at the end, so that
    nothing moves afterwards.

    Parameters
    ----------
    host
        The image.
    removers
        Networks to mislead; their losses count alike, whatever their size.
    params
        ε, step, number of iterations and host.
    composites
        Random marks; step t uses the one at t modulo their number.
    tick
        Called after every step.

    Returns
    -------
    NDArray[np.int8]
        ``(rows, columns)`` or, for colour, ``(rows, columns, 3)``, in display
        levels.
    """
    delta = torch.zeros_like(host.image)
    velocity = torch.zeros_like(host.image)
    momentum = _MOMENTUM if params.host == "mix" else 0.0
    steps = params.iterations if removers and params.epsilon else 0
    for step in range(steps):
        pick = [composites[step % len(composites)]] if composites else []
        gradient = _gradient(host.image, delta, removers, params.host, pick)
        velocity = momentum * velocity + gradient / (gradient.abs().mean() + _TINY)
        moved = delta + params.step / LEVELS * velocity.sign()
        delta = _project(moved, host, params.epsilon)
        tick()
    return _quantise(delta, host, params.epsilon)


def _gradient(
    image: torch.Tensor,
    delta: torch.Tensor,
    removers: Sequence[Remover],
    kind: str,
    composites: Sequence[Composite],
) -> torch.Tensor:
    """Gradient with respect to δ of the summed, normalised removal errors."""
    variable = delta.detach().clone()
    variable.requires_grad = True
    shown = (image + variable).expand(3, -1, -1)
    marked = [shown * keep + add for keep, add in composites]
    hosts = {"clean": [shown], "rand": marked, "mix": [shown, *marked]}[kind]
    batch = torch.stack(hosts or [shown])
    target = image.expand_as(batch)
    loss = torch.zeros((), device=image.device)
    for remover in removers:
        with reduced_precision(image.device):
            removed = remover(batch).image
        error = (removed.float() - target).square().mean()
        loss = loss + error / (error.detach() + _TINY)
    (gradient,) = torch.autograd.grad(loss, variable)
    return gradient


def _project(delta: torch.Tensor, host: Host, epsilon: int) -> torch.Tensor:
    bound = epsilon / LEVELS
    kept = delta.clamp(-bound, bound)
    kept = (host.image + kept).clamp(0.0, 1.0) - host.image
    return kept.masked_fill(host.frozen, 0.0)


def _quantise(delta: torch.Tensor, host: Host, epsilon: int) -> NDArray[np.int8]:
    image = (host.image * LEVELS).round()
    levels = (delta * LEVELS).round().clamp(-epsilon, epsilon)
    levels = (image + levels).clamp(0, LEVELS) - image
    planes = levels.masked_fill(host.frozen, 0.0).to(torch.int8).cpu().numpy()
    if planes.shape[0] == 1:
        return np.ascontiguousarray(planes[0])
    return np.ascontiguousarray(planes.transpose(1, 2, 0))
