"""What protection is given and what it gives, one frame each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from engine.lesion.boxes import Lesions
    from engine.lesion.regions import ExternalRegions
    from engine.report import FrameReport
    from engine.search.trace import Trace
    from engine.types import Box, Frame, FrameKey

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the stage (``mask``, ``delta``, ``search``), the steps done in it
and an upper bound of its steps, over all frames protected together."""


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What is known of a frame before it is protected; all of it optional.

    Attributes
    ----------
    lesions
        On the model grid; no model is asked for them then.
    regions
        Lesions marked by someone else, kept free beside or instead of those the
        models find.
    delta
        δ in the shape of a key's; the lesion guard is applied to it.
    start
        δ of a neighbouring slice to start from.
    """

    lesions: Lesions | None = field(default=None, repr=False)
    regions: ExternalRegions | None = field(default=None, repr=False)
    delta: NDArray[np.int8] | None = field(default=None, repr=False)
    start: NDArray[np.int8] | None = field(default=None, repr=False)


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
        Wall time of the stages so far, shared evenly by frames done together.
    """

    frame: Frame
    image: torch.Tensor = field(repr=False)
    lesions: Lesions = field(repr=False)
    boxes: tuple[Box, ...]
    delta: NDArray[np.int8] = field(repr=False)
    host: NDArray[np.int32] = field(repr=False)
    shown: torch.Tensor = field(repr=False)
    seconds: dict[str, float]


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
