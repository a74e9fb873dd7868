"""What is fuzzed: an entry point for octets from outside, and what it may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Entry = Callable[[bytes], None]
"""Takes one input. What it raises, and what ends the process, is a finding: errors
that the entry point documents are caught in it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """An entry point for octets.

    Attributes
    ----------
    name
        Of its folder in the corpus.
    kind
        What its inputs are, for the table.
    enters
        Which functions are entered.
    build
        Makes the entry, once per process.
    seeds
        Valid inputs that mutation starts from.
    mutator
        Name of a structure in `tests.fuzz.mutators`.
    longest
        Octets of an input at most.
    """

    name: str
    kind: str
    enters: str
    build: Callable[[], Entry]
    seeds: Callable[[], Sequence[bytes]]
    mutator: str = "octets"
    longest: int = 1 << 14
