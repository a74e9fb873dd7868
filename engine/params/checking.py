"""The one check of a parameter against its stated range."""

from __future__ import annotations

from engine.errors import InvalidParameter


def check(*, holds: bool, message: str) -> None:
    """Raise `InvalidParameter` with `message` unless `holds`."""
    if not holds:
        raise InvalidParameter(message)
