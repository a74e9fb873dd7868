"""Parameters of the perturbation δ (Eqs. 1, 3 and 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from engine.params.checking import check

Kind = Literal["delta_d", "delta_i", "noise", "none"]
"""What δ is made for; see `DeltaParams`."""

HostKind = Literal["clean", "rand", "mix"]
"""What a remover is shown while δ is made; see `DeltaParams`."""

Combine = Literal["loss", "gradient"]
"""How several removers are balanced; see `DeltaParams`."""

Order = Literal["before", "after"]
"""When δ is added: before the mark or after it; see `DeltaParams`."""

Resolution = Literal["grid", "native"]
"""How finely δ is made; see `DeltaParams`."""

FINEST: Final = 512
"""Most points that δ has on a side."""

Precision = Literal["auto", "float32"]
"""How exactly the removers compute; see `DeltaParams`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaParams:
    """Parameters of δ (Eqs. 1, 3 and 4); the paper's symbols.

    Attributes
    ----------
    kind
        ``delta_d`` (Eq. 3: removal is to return something else than the
        original), ``delta_i`` (Eq. 4: it is to change nothing and see no mark),
        ``noise`` (uniform noise of the same size, the control) or ``none``.
    epsilon, step
        ε and σ in display levels (the paper's 8/255 and 2/255).
    iterations
        Steps of Eq. 1 from δ = 0.
    warm_iterations
        Steps where δ starts from that of a neighbouring slice; never more than
        `iterations`.
    host
        What the removers are shown: ``clean`` (I + δ), ``rand`` (I + δ under a
        random mark) or ``mix`` (both, the mark another one every step).
    momentum
        Weight of past gradients; None for 1 with ``mix``, whose marks change
        every step, and 0 (Eq. 1 as printed) otherwise.
    gamma
        γ of Eq. 4: weight of the picture against the mask. The paper gives no
        value.
    combine
        With several removers: every loss divided by its own value (``loss``) or
        every gradient by its own mean magnitude (``gradient``).
    order
        ``before`` (δ on the original, then the mark: the product) or ``after``
        (δ on the marked picture, which the removers are shown as it is).
    patience
        Stop once the loss has not improved by the share `min_gain` for so many
        steps, and for no fewer than there are random marks; 0 for never.
    min_gain
        The relative improvement that counts.
    lesion_guard
        Whether δ leaves lesion boxes alone.
    resolution
        ``grid``: on the model grid; ``native``: at the size of the frame, but no
        more than `FINEST` on a side. The latter is not lost where a remover
        works at that size; it makes keys several times larger and takes time
        and memory by area.
    precision
        ``auto`` (bfloat16 where the device gains by it) or ``float32``.
    """

    kind: Kind = "delta_d"
    epsilon: int = 8
    step: float = 2.0
    iterations: int = 50
    warm_iterations: int = 15
    host: HostKind = "mix"
    momentum: float | None = None
    gamma: float = 2.0
    combine: Combine = "loss"
    order: Order = "before"
    patience: int = 0
    min_gain: float = 1e-3
    lesion_guard: bool = True
    resolution: Resolution = "grid"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", Kind),
            ("host", HostKind),
            ("combine", Combine),
            ("order", Order),
            ("resolution", Resolution),
            ("precision", Precision),
        ):
            value, names = getattr(self, name), get_args(known)
            check(
                holds=value in names,
                message=f"{name}={value!r}: must be one of {', '.join(names)}",
            )
        check(
            holds=0 <= self.epsilon <= 127,
            message=f"epsilon={self.epsilon}: must lie in 0..127 levels",
        )
        check(
            holds=0 < self.step <= 255,
            message=f"step={self.step}: must be above 0 and at most 255 levels",
        )
        for name in ("iterations", "warm_iterations", "patience"):
            count = getattr(self, name)
            check(holds=count >= 0, message=f"{name}={count}: must not be negative")
        for name in ("gamma", "min_gain", "momentum"):
            weight = getattr(self, name)
            check(
                holds=weight is None or (weight >= 0 and math.isfinite(weight)),
                message=f"{name}={weight}: must be a number from 0",
            )

    @property
    def finest(self) -> int:
        """Most points of δ on a side, 0 for those of the model grid."""
        return FINEST if self.resolution == "native" else 0

    @property
    def warm_steps(self) -> int:
        """Steps from a neighbour's δ."""
        return min(self.warm_iterations, self.iterations)

    @property
    def shown(self) -> HostKind:
        """What the removers are shown: a marked picture gets no second mark."""
        return "clean" if self.order == "after" else self.host

    @property
    def inertia(self) -> float:
        """Weight of past gradients that is used."""
        if self.momentum is not None:
            return self.momentum
        return 1.0 if self.shown == "mix" else 0.0

    @property
    def sign(self) -> float:
        """Direction of Eq. 1: +1 climbs (Eq. 3), -1 descends (Eq. 4)."""
        return -1.0 if self.kind == "delta_i" else 1.0
