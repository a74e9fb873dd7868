"""Judges the candidates of a trace again, to see that a machine computes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from engine.search.trace import InvalidTrace

if TYPE_CHECKING:
    from engine.search.candidate import Judgement
    from engine.search.objective import Objective
    from engine.search.show import Gallery
    from engine.search.trace import Trace

_BATCH: Final = 32
"""Candidates judged at once."""


class Replay(NamedTuple):
    """How a replay differs from its trace.

    Attributes
    ----------
    difference
        Largest absolute difference in fitness.
    disagreements
        Indices of the entries whose success flag differs.
    """

    difference: float
    disagreements: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        """Whether every success flag is as it was."""
        return not self.disagreements


@torch.inference_mode()
def replay(trace: Trace, gallery: Gallery, objective: Objective) -> Replay:
    """Judge all candidates of a trace again, in order.

    On another machine or device this tells whether it computes the same.

    Parameters
    ----------
    trace
        The search.
    gallery
        Shows candidates, made with `Trace.maker` and X of then, the picture
        with δ, and the presets of then.
    objective
        The same ensemble and label.

    Raises
    ------
    InvalidTrace
        Logo, frame, label, members or number of windows are others.
    """
    trace.check(gallery.maker, objective)
    if gallery.windows != trace.windows:
        raise InvalidTrace(
            f"the trace has windows {trace.windows}, but the pictures {gallery.windows}"
        )
    again: list[Judgement] = []
    for first in range(0, len(trace.entries), _BATCH):
        batch = [one.candidate for one in trace.entries[first : first + _BATCH]]
        logits = objective.ensemble.member_logits(gallery.pictures(batch))
        again += objective.judge(logits.cpu().double())
    then = [one.judgement for one in trace.entries]
    pairs = list(zip(again, then, strict=True))
    return Replay(
        difference=max(abs(now.fitness - old.fitness) for now, old in pairs),
        disagreements=tuple(
            i for i, (now, old) in enumerate(pairs) if now.success != old.success
        ),
    )
