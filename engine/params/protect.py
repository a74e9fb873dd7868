"""All parameters of protection together."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.params.delta import DeltaParams
from engine.params.lesion import LesionParams
from engine.params.search import SearchParams


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtectParams:
    """All of the above, and the seed every random draw derives from."""

    search: SearchParams = field(default_factory=SearchParams)
    delta: DeltaParams = field(default_factory=DeltaParams)
    lesion: LesionParams = field(default_factory=LesionParams)
    seed: int = 2023
