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
    from engine.search.hint import Hint
    from engine.search.trace import Trace
    from engine.types import Box, Frame, FrameKey

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the stage (``mask``, ``delta``, ``search``), the steps done in it
and an upper bound of its steps, over all frames protected together."""


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """What a protected frame teaches of the next ones of its series.

    Attributes
    ----------
    columns, rows, colour
        Native size and kind of the frame; frames of another learn nothing.
    delta
        Its δ, as in its key.
    boxes
        Its lesion boxes on the model grid.
    hint
        Its mark.
    """

    columns: int
    rows: int
    colour: bool
    delta: NDArray[np.int8] = field(repr=False)
    boxes: tuple[Box, ...]
    hint: Hint

    def near(self, frame: Frame) -> bool:
        """Whether a frame can learn from it."""
        like = (self.rows, self.columns), self.colour
        return like == (frame.stored.shape[:2], frame.colour)


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
    neighbour
        A protected frame beside it in its series: where size and kind agree, δ
        starts from that frame's, lesion boxes are held to its boxes, and its
        mark is tried first.
    """

    lesions: Lesions | None = field(default=None, repr=False)
    regions: ExternalRegions | None = field(default=None, repr=False)
    delta: NDArray[np.int8] | None = field(default=None, repr=False)
    neighbour: Neighbour | None = field(default=None, repr=False)

    def beside(self, frame: Frame) -> Neighbour | None:
        """Return the neighbour where the frame can learn from it."""
        one = self.neighbour
        return one if one is not None and one.near(frame) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A frame with lesions found and δ made, before any mark.

    Attributes
    ----------
    frame
        The original.
    views
        I on the model grid under every window, ``(W, 3, G, G)``.
    lesions, boxes
        Lesion boxes on the grid and at native size.
    delta
        δ as stored in the key.
    host
        X in stored values.
    shown
        What the models see of X, ``(3, G, G)``, in the first window.
    seconds
        Wall time of the stages so far, shared evenly by frames done together.
    hint
        The mark of a neighbouring frame.
    """

    frame: Frame
    views: torch.Tensor = field(repr=False)
    lesions: Lesions = field(repr=False)
    boxes: tuple[Box, ...]
    delta: NDArray[np.int8] = field(repr=False)
    host: NDArray[np.int32] = field(repr=False)
    shown: torch.Tensor = field(repr=False)
    seconds: dict[str, float]
    hint: Hint | None = None

    @property
    def image(self) -> torch.Tensor:
        """I in the first window, ``(3, G, G)``."""
        return self.views[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtectedFrame:
    """A protected frame: what is sent, what gives the original back, and how.

    ``stored`` is int32 in the range and shape of the original; ``trace`` tells
    every candidate of the search; ``neighbour`` is what the next frames of a
    series learn from it.
    """

    stored: NDArray[np.int32] = field(repr=False)
    key: FrameKey
    report: FrameReport
    trace: Trace = field(repr=False)
    neighbour: Neighbour = field(repr=False)
