"""The index on each kind of database: the same tests run on both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from gateway.store.clock import utc_now
from gateway.store.index import Index
from tests.gateway.stored import INDEX_KEY

KINDS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Place:
    """Where an index is; it may be opened any number of times."""

    kind: str
    url: str

    def open(self, clock: Callable[[], datetime] = utc_now) -> Index:
        return Index(self.url, INDEX_KEY, clock)

    @property
    def opened_in_code(self) -> str:
        """An expression that opens it, for the program of a child."""
        return f"Index({self.url!r}, {INDEX_KEY!r})"


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place, of each kind in turn."""
    if request.param == "sqlite":
        return Place("sqlite", f"sqlite:///{tmp_path / 'index.sqlite'}")
    return Place("postgresql", request.getfixturevalue("postgres_url"))
