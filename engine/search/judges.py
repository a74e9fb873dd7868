"""Asks the members about pictures: in shared batches, halved where memory is short."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch

from engine.errors import ModelError
from engine.models.batches import Batches
from engine.precision import reduced_precision
from engine.search.objective import surrogate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.models.ensemble import Ensemble

_LOOKED_AT: Final = 256
"""Pictures per forward pass at most; fewer where memory runs out."""

_LOOKED_BACK: Final = 64
"""Pictures per backward pass, which keeps every activation."""


class Judges:
    """The members of an ensemble, asked about many pictures at a time.

    Parameters
    ----------
    ensemble
        In evaluation mode, without gradients of its parameters.
    precise
        Float32 everywhere, also where bfloat16 is faster.
    """

    def __init__(self, ensemble: Ensemble, *, precise: bool = False) -> None:
        self.ensemble = ensemble
        self._precise = precise
        self._forward = Batches(_LOOKED_AT)
        self._backward = Batches(_LOOKED_BACK)

    def look(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits of every member.

        Parameters
        ----------
        pictures
            ``(N, 3, G, G)`` float32 in [0, 1].

        Returns
        -------
        torch.Tensor
            ``(k, N, C)`` float64 on the CPU, by one transfer.

        Raises
        ------
        OutOfMemory
            Not even one picture fits into the memory of the device.
        ModelError
            A member answered with NaN or infinity.
        """
        with torch.inference_mode(), self._precision(pictures.device):
            logits = self._forward(self.ensemble.member_logits, pictures, dim=1)
        return self._finite(logits.cpu().double())

    def look_back(
        self, pictures: torch.Tensor, labels: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits as `look`, and the gradient of `surrogate` in each picture.

        Parameters
        ----------
        pictures
            ``(N, 3, G, G)`` float32 in [0, 1].
        labels
            The class each is to be talked out of.

        Returns
        -------
        logits, gradient
            ``(k, N, C)`` float64 on the CPU; ``(N, 3, G, G)`` float32 where the
            pictures are.

        Raises
        ------
        OutOfMemory
            Not even one picture fits into the memory of the device.
        ModelError
            A member answered with NaN or infinity.
        """
        wanted = torch.tensor(list(labels)).to(pictures.device, non_blocking=True)
        said: list[torch.Tensor] = []
        done = 0

        def back(part: torch.Tensor) -> torch.Tensor:
            nonlocal done
            seen = part.detach().requires_grad_()
            with self._precision(part.device):
                logits = self.ensemble.member_logits(seen)
            mine = wanted[done : done + len(part)]
            loss = surrogate(logits.float(), mine, self.ensemble.weights)
            # Pictures do not mix in evaluation mode: each gets its own gradient.
            (gradient,) = torch.autograd.grad(loss.sum(), seen)
            said.append(logits.detach())
            done += len(part)
            return gradient

        gradient = self._backward(back, pictures)
        return self._finite(torch.cat(said, dim=1).cpu().double()), gradient

    def _finite(self, logits: torch.Tensor) -> torch.Tensor:
        """Refuse what cannot be ranked."""
        lost = ~logits.isfinite().all(dim=2).all(dim=1)
        if lost.any():
            members = zip(self.ensemble.members, lost.tolist(), strict=True)
            names = ", ".join(m.name for m, is_lost in members if is_lost)
            raise ModelError(
                f"member {names} of ensemble {self.ensemble.name!r} answered with no "
                "finite numbers: its weights are damaged or do not suit the device's "
                "arithmetic; evaluate it, or leave it out"
            )
        return logits

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext() if self._precise else reduced_precision(device)
