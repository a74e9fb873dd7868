"""Candidates at native size: blended into stored values and judged as shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from engine.lesion.boxes import overlaps
from engine.search.objective import averaged, spoken
from engine.types import Box
from engine.watermark.stored import Mark, add_mark
from engine.watermark.working import working_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engine.search.candidate import Candidate, Judgement
    from engine.search.objective import Objective, Opinion
    from engine.types import Frame
    from engine.watermark.maker import PatchMaker


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeResult:
    """A candidate as it would be sent.

    Attributes
    ----------
    mark
        The mark at its native place.
    stored
        S', shape of the frame.
    shown
        ``(W, 3, G, G)`` what the models see of it, under every window.
    opinion
        What the ensemble says of it, the mean over the windows.
    windows
        What it says under each of them.
    judgement
        What the objective says of it, in full precision.
    """

    mark: Mark
    stored: NDArray[np.int32] = field(repr=False)
    shown: torch.Tensor = field(repr=False)
    opinion: Opinion
    windows: tuple[Opinion, ...]
    judgement: Judgement


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeTrial:
    """Makes native results of one search.

    Attributes
    ----------
    frame
        The original.
    host
        X, the stored values with δ and without a mark.
    boxes
        Native lesion boxes.
    maker
        Patches of the logo at the size that is searched with.
    objective
        Judge of the results.
    device
        Where it runs.
    """

    frame: Frame
    host: NDArray[np.int32] = field(repr=False)
    boxes: Sequence[Box]
    maker: PatchMaker
    objective: Objective
    device: torch.device

    def mark(self, one: Candidate) -> Mark | None:
        """Place a candidate natively; None if rounding would cover a lesion."""
        w, h = self.maker.extent(one.sit)
        rows, columns = self.frame.stored.shape[:2]
        if w > columns or h > rows:
            return None
        mark = self.maker.mark((one.x, one.y), one.alpha, one.sit)
        high, wide = mark.patch.shape[:2]
        footprint = Box(x0=mark.x, y0=mark.y, x1=mark.x + wide, y1=mark.y + high)
        covers = any(overlaps(footprint, box) for box in self.boxes)
        return None if covers else mark

    def result(self, one: Candidate) -> NativeResult | None:
        """Blend a candidate, render it under every window and judge it.

        None where `mark` is None.
        """
        mark = self.mark(one)
        if mark is None:
            return None
        stored = add_mark(self.host, self.frame, mark)
        shown = working_images(stored, self.frame.renderings, self.device)
        ensemble = self.objective.ensemble
        with torch.inference_mode():
            logits = ensemble.member_logits(shown).double().cpu()
        windows = spoken(ensemble, logits)
        return NativeResult(
            mark=mark,
            stored=stored,
            shown=shown,
            opinion=averaged(windows),
            windows=tuple(windows),
            judgement=self.objective.judge(logits)[0],
        )
