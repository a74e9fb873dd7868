"""Parameters of the lesion mask (Alg. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.params.checking import check


@dataclass(frozen=True, kw_only=True, slots=True)
class LesionParams:
    """Parameters of Algorithm 2.

    Attributes
    ----------
    threshold
        t of 0..255.
    channel_rate
        The paper's r_ch: share of channels kept, those of largest weight ω.
    margin
        Safety margin around each box, in pixels of the model grid.
    resize
        ``before`` resizes the map and then applies t (the paper's text);
        ``after`` applies t to the small map and resizes the mask (Alg. 2, line 9
        literally: boxes of whole feature pixels).
    surrogates
        Members whose maps are joined: ``cnn`` (the transformers only where no
        convolutional map has a peak) or ``all``.
    most
        How many of them at most, those of highest accuracy on their cards; 0 for
        no limit. The paper asks one; every further one takes room from the mark.
    fallback
        Where no map has a peak: ``central`` keeps the middle of the image free,
        ``refuse`` raises `engine.errors.NoLesionFound`.
    relax
        Whether t may rise by 20 where boxes leave the mark no place. Never in
        clinical use: the boxes then shrink around what the models found.
    """

    threshold: int = 190
    channel_rate: float = 1.0
    margin: int = 0
    resize: Literal["before", "after"] = "before"
    surrogates: Literal["cnn", "all"] = "cnn"
    most: int = 2
    fallback: Literal["central", "refuse"] = "central"
    relax: bool = False

    def __post_init__(self) -> None:
        check(
            holds=0 <= self.threshold <= 255,
            message=f"threshold={self.threshold}: must lie in 0..255",
        )
        check(
            holds=0 < self.channel_rate <= 1,
            message=f"channel_rate={self.channel_rate}: must be in (0, 1]",
        )
        check(holds=self.most >= 0, message=f"most={self.most}: must not be negative")
        check(
            holds=0 <= self.margin <= 1024,
            message=f"margin={self.margin}: must lie in 0..1024 grid pixels",
        )
        for name, allowed in (
            ("resize", ("before", "after")),
            ("surrogates", ("cnn", "all")),
            ("fallback", ("central", "refuse")),
        ):
            value = getattr(self, name)
            check(
                holds=value in allowed,
                message=f"{name}={value!r}: must be {' or '.join(allowed)}",
            )
