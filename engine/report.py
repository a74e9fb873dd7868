"""What protecting a frame did, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.types import SIT, Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What the ensemble said of one picture.

    ``label`` is the consensus label (largest ensemble probability), never a
    diagnosis; ``ensemble`` its probabilities per class; ``members`` maps each
    member to its own.
    """

    label: str
    ensemble: tuple[float, ...]
    members: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidOfWindow:
    """What it said under one of several windows, from `lo` to `hi` stored values."""

    lo: float
    hi: float
    before: Said
    after: Said


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameReport:
    """How one frame was protected and what that achieved.

    Attributes
    ----------
    objective
        ``diagnosis`` or ``label-free``.
    strategy
        Search strategy.
    ensemble, labels
        Name and classes of the ensemble.
    before, after
        What it said of the original and of the final stored values, each
        rendered; the mean over the windows.
    windows
        The same under each window, the first one first; empty where there is
        only one.
    displacement
        Mean over members of 1 - cos between features, final against original.
    success
        The consensus label changed on the final stored values. For the
        label-free objective: the ensemble's own prediction moved.
    verified
        From key and final values the original came back bit for bit, and no
        pixel inside a lesion box was covered by the mark (nor changed at all,
        with the lesion guard).
    alpha, x, y, width, height, sit, mark_share
        The mark at native size; the share is of its box in the frame.
    lesion_boxes, lesion_source
        Boxes at native size and where they come from (``cnn``,
        ``transformer``, ``central``).
    queries, first_error, evaluated
        Image queries up to the success, those charged when the ensemble first
        erred (None if it never did), and all candidates that were judged.
    gradients, confirmations, model_forwards
        Candidates whose gradient was taken, those tested at native size, and
        single-model forwards in all.
    delta_max, delta_rms
        Of δ on its grid, in display levels.
    ssim, psnr, rmse
        Rendered final against rendered original; PSNR in dB, RMSE in levels.
    seconds
        Wall time per stage.
    fallbacks
        Concessions made, in words; empty for the plain case.
    """

    objective: str
    strategy: str
    ensemble: str
    labels: tuple[str, ...]
    before: Said
    after: Said
    windows: tuple[SaidOfWindow, ...]
    displacement: float
    success: bool
    verified: bool
    alpha: int
    x: int
    y: int
    width: int
    height: int
    sit: SIT
    mark_share: float
    lesion_boxes: tuple[Box, ...]
    lesion_source: str
    queries: int
    first_error: int | None
    evaluated: int
    gradients: int
    confirmations: int
    model_forwards: int
    delta_max: int
    delta_rms: float
    ssim: float
    psnr: float
    rmse: float
    seconds: dict[str, float]
    fallbacks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        plain = asdict(self)
        # JSON has no infinity; equal pictures have no PSNR.
        plain["psnr"] = self.psnr if math.isfinite(self.psnr) else None
        return plain
