"""Parameters of the lesion mask (Alg. 2)."""

from __future__ import annotations

from dataclasses import dataclass

from engine.params.checking import check


@dataclass(frozen=True, kw_only=True, slots=True)
class LesionParams:
    """Parameters of Algorithm 2.

    ``threshold`` is t of 0..255, ``channel_rate`` the paper's r_ch, ``margin``
    a safety margin around each box in pixels of the model grid.
    """

    threshold: int = 190
    channel_rate: float = 1.0
    margin: int = 0

    def __post_init__(self) -> None:
        check(
            holds=0 <= self.threshold <= 255,
            message=f"threshold={self.threshold}: must lie in 0..255",
        )
        check(
            holds=0 < self.channel_rate <= 1,
            message=f"channel_rate={self.channel_rate}: must be in (0, 1]",
        )
