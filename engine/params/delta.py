"""Parameters of the perturbation δ (Eqs. 1, 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.params.checking import check


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaParams:
    """Parameters of δ (Eqs. 1 and 3).

    ``epsilon`` and ``step`` in display levels (the paper's 8/255 and 2/255).
    """

    epsilon: int = 8
    step: float = 2.0
    iterations: int = 50
    host: Literal["clean", "rand", "mix"] = "mix"
    lesion_guard: bool = True

    def __post_init__(self) -> None:
        check(
            holds=0 <= self.epsilon <= 127,
            message=f"epsilon={self.epsilon}: must lie in 0..127 levels",
        )
        check(
            holds=self.iterations >= 0,
            message=f"iterations={self.iterations}: must not be negative",
        )
