"""Which studies go first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

URGENT: Final = 10
ROUTINE: Final = 20
LOW: Final = 30

PRIORITIES: Final[Mapping[str, int]] = {
    "urgent": URGENT,
    "routine": ROUTINE,
    "low": LOW,
}
"""As rules name them: the smaller number goes first."""


def name_of(priority: int) -> str:
    """Return the name of a priority."""
    names = {number: name for name, number in PRIORITIES.items()}
    return names.get(priority, str(priority))


def most_urgent(priorities: Iterable[int]) -> int:
    """Return the priority of what is made of parts: of its most urgent one."""
    return min(priorities, default=ROUTINE)
