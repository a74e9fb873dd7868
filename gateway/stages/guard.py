"""What stands between a step and its effects: the lease of the process."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], None]
"""Returns only while this process may act."""


def unguarded() -> None:
    """Let every effect happen: there is no other worker."""
