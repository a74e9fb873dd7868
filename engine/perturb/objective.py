"""The losses of δ (Eqs. 3 and 4) and their gradient over several removers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch.nn import functional

from engine.errors import ModelError
from engine.precision import reduced_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.params import DeltaParams
    from engine.perturb.host import Batch
    from engine.removal.network import Removal
    from engine.removal.remover import Remover

TINY: Final = 1e-8
"""Keeps a division by a loss or a gradient that has vanished finite."""


class Slope(NamedTuple):
    """Loss and gradient at δ for R removers and B hosts.

    Attributes
    ----------
    gradient
        ``(B, C, rows, columns)``, the removers balanced.
    losses
        ``(R, B)`` float32.
    finite
        ``(R, B)`` bool: whether loss and gradient are numbers.
    """

    gradient: torch.Tensor
    losses: torch.Tensor
    finite: torch.Tensor


def removal_loss(
    removal: Removal, target: torch.Tensor, params: DeltaParams
) -> torch.Tensor:
    """L of Eq. 3 or Eq. 4 for every host.

    Eq. 3 is MSE(I_ori, I_w'), Eq. 4 is ½(γ·MSE(I_ori, I_w') + MSE(M_w', 0)).
    Means, not norms: with two terms the choice changes the balance.

    Parameters
    ----------
    removal
        What a remover makes of ``B * V`` pictures, the V views of a host side by
        side.
    target
        I_ori, ``(B, C, rows, columns)``.
    params
        Kind and γ.

    Returns
    -------
    torch.Tensor
        ``(B,)`` float32, the mean over the views.
    """
    hosts = len(target)
    removed = removal.image.float()
    removed = removed.reshape(hosts, -1, *removed.shape[1:])
    loss = functional.mse_loss(
        removed, target[:, None].expand_as(removed), reduction="none"
    ).mean(dim=(1, 2, 3, 4))
    if params.kind == "delta_i":
        mask = removal.mask.float().square().reshape(hosts, -1).mean(1)
        loss = (params.gamma * loss + mask) / 2
    return loss


def slope(
    batch: Batch,
    delta: torch.Tensor,
    removers: Sequence[Remover],
    params: DeltaParams,
    step: int,
) -> Slope:
    """Gradient of the loss with respect to δ; the removers count alike.

    Parameters
    ----------
    batch
        The hosts.
    delta
        δ, ``(B, C, rows, columns)``.
    removers
        R networks; one at a time, so that memory holds the pass of only one.
    params
        Loss, balance and precision.
    step
        Number of the step, from 0.

    Raises
    ------
    ModelError
        If a remover returns pictures or masks of another shape.
    """
    variable = delta.detach().requires_grad_()
    views = batch.show(variable, step).flatten(0, 1)
    pictures = views.detach().contiguous(memory_format=torch.channels_last)
    total = torch.zeros_like(delta)
    losses, finite = [], []
    for remover in removers:
        loss, seen = _one(remover, pictures.detach(), batch.target, params)
        # Only the graph of the views is kept, for the next remover.
        (gradient,) = torch.autograd.grad(views, variable, seen, retain_graph=True)
        size = gradient.abs().mean(dim=(1, 2, 3))
        weight = loss if params.combine == "loss" else size
        total += gradient / (weight[:, None, None, None] + TINY)
        losses.append(loss)
        finite.append(torch.isfinite(loss) & torch.isfinite(size))
    return Slope(total, torch.stack(losses), torch.stack(finite))


def _one(
    remover: Remover,
    pictures: torch.Tensor,
    target: torch.Tensor,
    params: DeltaParams,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of one remover, ``(B,)``, and its gradient, shape of `pictures`."""
    pictures.requires_grad_()
    exact = params.precision == "float32"
    with nullcontext() if exact else reduced_precision(pictures.device):
        removal = remover(pictures)
    mask = (len(pictures), 1, *pictures.shape[2:])
    if removal.image.shape != pictures.shape or tuple(removal.mask.shape) != mask:
        raise ModelError(
            f"remover {remover.name!r} makes pictures {tuple(removal.image.shape)} and "
            f"masks {tuple(removal.mask.shape)} of {tuple(pictures.shape)}; it must "
            "keep the size"
        )
    loss = removal_loss(removal, target, params)
    (gradient,) = torch.autograd.grad(loss.sum(), pictures)
    return loss.detach(), gradient
