"""Every target, by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz import network, objects, others
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (*network.TARGETS, *objects.TARGETS, *others.TARGETS)
}
