"""Parameters of the search (Alg. 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.params.checking import check

Strategy = Literal["random", "he", "he-sit", "random-sit"]
"""How a place for the mark is sought; see `SearchParams`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SITRanges:
    """Ranges the semantic-invariant transform draws from, each (low, high).

    ``rotation`` and ``hue`` in degrees, ``saturation`` and ``value`` factors.
    """

    rotation: tuple[float, float] = (-45.0, 45.0)
    hue: tuple[float, float] = (-180.0, 180.0)
    saturation: tuple[float, float] = (0.5, 1.5)
    value: tuple[float, float] = (0.7, 1.3)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchParams:
    """Parameters of Algorithm 3; symbols as in the paper.

    Attributes
    ----------
    strategy
        ``random`` (one draw), ``he``, ``he-sit``, or ``random-sit`` (random
        search with SIT at the budget of HE-SIT: the control).
    sl
        Logo scale of Eq. 5.
    n_p, n_g
        Dominant parents N_p and generations N_g.
    s_alpha
        Mutation step of α, in bytes.
    r_c
        Crossover ratio.
    r_p
        Sampling rate of positions (Eq. 9).
    alpha_min, alpha_max
        Bounds of the α gene, bytes. The lower one keeps the mark visible: below
        it neither deters nor tells where an image comes from.
    """

    strategy: Strategy = "he-sit"
    sl: float = 2.0
    n_p: int = 15
    n_g: int = 2
    s_alpha: int = 15
    r_c: float = 0.3
    r_p: float = 0.005
    alpha_min: int = 100
    alpha_max: int = 204
    sit: SITRanges = field(default_factory=SITRanges)

    def __post_init__(self) -> None:
        check(holds=self.sl >= 1, message=f"sl={self.sl}: must be at least 1")
        check(holds=self.n_p >= 1, message=f"n_p={self.n_p}: must be at least 1")
        check(holds=self.n_g >= 0, message=f"n_g={self.n_g}: must not be negative")
        check(holds=0 < self.r_c <= 1, message=f"r_c={self.r_c}: must be in (0, 1]")
        check(holds=0 < self.r_p <= 1, message=f"r_p={self.r_p}: must be in (0, 1]")
        check(
            holds=1 <= self.alpha_min <= self.alpha_max <= 255,
            message=f"alpha {self.alpha_min}..{self.alpha_max}: must lie in 1..255",
        )
