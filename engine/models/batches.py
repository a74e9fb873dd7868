"""Run a function over a batch in parts, smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from engine.errors import EngineError

_CPU_ALLOCATOR: Final = ("not enough memory", "can't allocate memory")
"""What torch's allocator for main memory says, as a plain RuntimeError."""


class OutOfMemory(EngineError):
    """Even one image at a time does not fit into the device's memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device or main memory is full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(s in text for s in _CPU_ALLOCATOR)


class Batches:
    """Applies functions to large batches, a part at a time.

    Where memory runs out, the part is halved and the work goes on; the smaller
    size is kept for all later calls, so that a long search meets the limit once.

    Parameters
    ----------
    size
        Images per part at first, at least 1.

    Attributes
    ----------
    size
        Images per part now.

    Raises
    ------
    EngineError
        If `size` is below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise EngineError(f"batch size {size}: must be at least 1")
        self.size = size

    def __call__(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        x: torch.Tensor,
        *,
        dim: int = 0,
    ) -> torch.Tensor:
        """Compute ``function(x)`` from parts of `x`.

        Parameters
        ----------
        function
            Treats every row of its argument on its own.
        x
            ``(N, ...)``, N at least 1.
        dim
            Dimension of the result that counts the rows of `x`, e.g. 1 for
            `Ensemble.member_logits`.

        Returns
        -------
        torch.Tensor
            The results of the parts, joined along `dim`.

        Raises
        ------
        OutOfMemory
            If not even one row fits.
        """
        results: list[torch.Tensor] = []
        done = 0
        while done < len(x) or not results:
            part = x[done : done + self.size]
            result = self._attempt(function, part)
            if result is None:
                self._halve(part)
                continue
            results.append(result)
            done += self.size
        return results[0] if len(results) == 1 else torch.cat(results, dim)

    def _attempt(
        self, function: Callable[[torch.Tensor], torch.Tensor], part: torch.Tensor
    ) -> torch.Tensor | None:
        # The error holds the frames, and they the tensors, that filled the
        # memory: it must be gone before the next attempt.
        try:
            return function(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) <= 1:
                raise OutOfMemory(
                    f"one image of shape {tuple(part.shape[1:])} does not fit into the "
                    f"memory of {part.device}; use smaller or fewer models, another "
                    "device, or free its memory"
                ) from error
        return None

    def _halve(self, part: torch.Tensor) -> None:
        self.size = max(1, len(part) // 2)
        if part.device.type == "cuda":
            torch.cuda.empty_cache()


def in_batches(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    size: int,
    *,
    dim: int = 0,
) -> torch.Tensor:
    """Compute ``function(x)`` in parts of `size` rows, fewer where memory runs out.

    Use a `Batches` where many calls should share the size that was found.

    Parameters
    ----------
    function, x, dim
        As in `Batches.__call__`.
    size
        Rows per part at first.

    Returns
    -------
    torch.Tensor
        As ``function(x)``.

    Raises
    ------
    OutOfMemory
        If not even one row fits.
    """
    return Batches(size)(function, x, dim=dim)
