"""The index on each kind of database: the same tests run on both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from gateway.store.clock import utc_now
from gateway.store.index import Index
from tests.gateway.access_cases import House
from tests.gateway.postgres import Cluster
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
    """A place with no row, of each kind in turn."""
    if request.param == "sqlite":
        return Place("sqlite", f"sqlite:///{tmp_path / 'index.sqlite'}")
    if "empty" in request.fixturenames:
        return Place("postgresql", request.getfixturevalue("postgres_url"))
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    return Place("postgresql", cluster.migrated())


@pytest.fixture
def empty() -> None:
    """Ask for a place without tables."""


@pytest.fixture(params=KINDS)
def houses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every `House` of a test keep its index on each kind of database."""
    if request.param == "sqlite":
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    made: dict[Path, str] = {}

    def where(root: Path) -> str:
        if root not in made:
            made[root] = cluster.migrated()
        return made[root]

    monkeypatch.setattr(House, "server", staticmethod(where))
