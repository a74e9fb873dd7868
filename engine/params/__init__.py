"""Parameters of protection, with the paper's values as defaults."""

from __future__ import annotations

from engine.params.delta import DeltaParams
from engine.params.lesion import LesionParams
from engine.params.protect import ProtectParams
from engine.params.search import SearchParams, SITRanges, Strategy
from engine.params.stop import StopRule

__all__ = [
    "DeltaParams",
    "LesionParams",
    "ProtectParams",
    "SITRanges",
    "SearchParams",
    "StopRule",
    "Strategy",
]
