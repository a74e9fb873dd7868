"""How receiving processes share ports, places and the start: told on their command."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What one of several receiving processes inherits.

    Attributes
    ----------
    number
        Of this process, from 0.
    counts
        Descriptor of the shared counts.
    ready
        Descriptor of a pipe that is told when it receives.
    sockets
        Descriptors of the listening sockets by the name of their port.
    """

    number: int
    counts: int
    ready: int
    sockets: Mapping[str, int]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.counts, self.ready, *self.sockets.values())

    def encode(self) -> str:
        """Return it as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, argument: str) -> Self:
        """Read that argument."""
        return cls(**json.loads(argument))

    def tell_ready(self) -> None:
        """Say that this process receives."""
        os.write(self.ready, bytes([self.number]))
