"""Parameters of the search (Alg. 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from engine.params.checking import check
from engine.params.stop import StopRule

Strategy = Literal["random", "he", "he-sit", "random-sit", "gradient", "cma-es"]
"""How a place for the mark is sought; see `SearchParams`."""

BEYOND: Final = frozenset({"gradient", "cma-es"})
"""Strategies that the paper does not have."""

BUDGET: Final = 128
"""Image queries of these where none are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SITRanges:
    """Ranges the semantic-invariant transform draws from, each (low, high).

    ``rotation`` and ``hue`` in degrees, ``saturation`` and ``value`` factors.
    """

    rotation: tuple[float, float] = (-45.0, 45.0)
    hue: tuple[float, float] = (-180.0, 180.0)
    saturation: tuple[float, float] = (0.5, 1.5)
    value: tuple[float, float] = (0.7, 1.3)

    def __post_init__(self) -> None:
        for name in ("rotation", "hue", "saturation", "value"):
            low, high = getattr(self, name)
            check(
                holds=low <= high and abs(low) < 1e6 and abs(high) < 1e6,
                message=f"{name}={low}..{high}: the first must not exceed the second",
            )
        check(
            holds=self.saturation[0] >= 0 and self.value[0] >= 0,
            message="saturation and value are factors: they must not be negative",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchParams:
    """Parameters of Algorithm 3 and of what goes beyond it; the paper's symbols.

    The default goes beyond the paper; ``strategy="he-sit"`` alone is the paper's
    search, with its stop rule and budget.

    Attributes
    ----------
    strategy
        ``random`` (one draw), ``he``, ``he-sit``; ``random-sit`` (random search
        with SIT: the control); ``gradient`` (first-order scores of every place,
        then judged and refined) and ``cma-es`` (both beyond the paper).
    stop
        When the search ends: ``ensemble`` (the paper), ``vote:M``, ``all``,
        ``margin:K`` or ``never``; see `engine.params.stop.StopRule`. ``auto`` is
        ``never`` for the strategies beyond the paper and ``ensemble`` for its own.
    budget
        Most image queries; a backward pass counts as two more. 0 is 128 for the
        strategies beyond the paper and otherwise what Algorithm 3 comes to (at
        most 338 at the paper's values).
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
    sit
        Ranges of the transform.
    alpha_init
        ``stratified`` draws one α per individual, ``shared`` one per image
        (Alg. 3, line 4, read literally).
    grid
        ``eq9`` (pitch g) or ``linspace`` (as many points over the whole range).
    step
        d of Eq. 10: ``pitch`` (g, both axes) or ``spacing`` (the literal
        (W - w')/N_x and (H - h')/N_y).
    crossover
        ``product`` (combinations of mutated and unchanged genes of one parent,
        the reading that gives the paper's counts) or ``swap`` (genes of two).
    selection
        ``plus`` (the N_p best of parents and offspring) or ``strict`` (only
        offspring better than the best before, Alg. 3 line 26 literally).
    sit_scope
        ``individual`` (one draw each, inherited), ``image`` (one draw for all)
        or ``genes`` (mutated like the others; four more genes).
    matte
        ``soft`` or ``binary`` (I_m in {0, 1}, as in the paper).
    robust_changes
        Random changes (resize, blur, JPEG, brightness) under which the best few
        are ranked again before one is chosen; 0 for none.
    """

    strategy: Strategy = "cma-es"
    stop: str = "auto"
    budget: int = 0
    sl: float = 2.0
    n_p: int = 15
    n_g: int = 2
    s_alpha: int = 15
    r_c: float = 0.3
    r_p: float = 0.005
    alpha_min: int = 100
    alpha_max: int = 204
    sit: SITRanges = field(default_factory=SITRanges)
    alpha_init: Literal["stratified", "shared"] = "stratified"
    grid: Literal["eq9", "linspace"] = "eq9"
    step: Literal["pitch", "spacing"] = "pitch"
    crossover: Literal["product", "swap"] = "product"
    selection: Literal["plus", "strict"] = "plus"
    sit_scope: Literal["individual", "image", "genes"] = "individual"
    matte: Literal["soft", "binary"] = "soft"
    robust_changes: int = 0

    def __post_init__(self) -> None:
        check(holds=self.sl >= 1, message=f"sl={self.sl}: must be at least 1")
        check(holds=self.n_p >= 1, message=f"n_p={self.n_p}: must be at least 1")
        check(holds=self.n_g >= 0, message=f"n_g={self.n_g}: must not be negative")
        check(
            holds=self.budget >= 0,
            message=f"budget={self.budget}: must not be negative",
        )
        check(
            holds=self.s_alpha >= 1,
            message=f"s_alpha={self.s_alpha}: must be at least 1",
        )
        check(holds=0 < self.r_c <= 1, message=f"r_c={self.r_c}: must be in (0, 1]")
        check(holds=0 < self.r_p <= 1, message=f"r_p={self.r_p}: must be in (0, 1]")
        check(
            holds=1 <= self.alpha_min <= self.alpha_max <= 255,
            message=f"alpha {self.alpha_min}..{self.alpha_max}: must lie in 1..255",
        )
        check(
            holds=0 <= self.robust_changes <= 16,
            message=f"robust_changes={self.robust_changes}: must lie in 0..16",
        )
        if self.stop != "auto":
            StopRule.parse(self.stop)

    @property
    def stop_rule(self) -> StopRule:
        """The rule that `stop` names."""
        if self.stop == "auto":
            return StopRule(kind="never" if self.strategy in BEYOND else "ensemble")
        return StopRule.parse(self.stop)

    @property
    def rule(self) -> str:
        """The stop rule by name, ``auto`` resolved."""
        return self.stop if self.stop != "auto" else self.stop_rule.kind

    @property
    def limit(self) -> int:
        """Most image queries, 0 for what Algorithm 3 comes to."""
        return self.budget or (BUDGET if self.strategy in BEYOND else 0)
