"""A site's grants over a database in a test, with clocks that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from config.schema import Site
from gateway.access.access import Access
from gateway.access.caller import Caller
from gateway.access.grants import grant_of
from gateway.access.ledger import Books
from gateway.audit.log import AuditLog
from gateway.store.index import Index, open_index
from tests.gateway.scp import GRANTS_KEY
from tests.gateway.stored import INDEX_KEY

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
YEAR = timedelta(days=365)


@dataclass
class Clocks:
    """The machine's clock, which anybody may set, and one that nobody can."""

    wall: datetime = NOON
    monotonic: float = 100.0

    def pass_(self, time: timedelta) -> None:
        self.wall += time
        self.monotonic += time.total_seconds()

    def options(self) -> dict[str, Any]:
        return {"wall": lambda: self.wall, "monotonic": lambda: self.monotonic}


@dataclass
class House:
    """A site with its database; `opened` is one process of it."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    clocks: Clocks = field(default_factory=Clocks)
    server: ClassVar[Callable[[Path], str] | None] = None
    """Where a house has its index instead, by its root; see the fixture `houses`."""

    @property
    def site(self) -> Site:
        nodes = [
            {"name": name, "ae_titles": titles, "roles": ["recover"], "plain": True}
            | {"addresses": ["127.0.0.1/32"]}
            for name, titles in (("ward", ["WARD", "WARD2"]), ("clinic", ["CLINIC"]))
        ]
        place = {"host": "127.0.0.1", "port": 104, "plain": True}
        places = [{"ae_title": t, **place} for t in ("WARD", "ARCHIVE")]
        recovery = {"destinations": places} | self.settings.get("recovery", {})
        return Site.model_validate(
            {"data_directory": self.root, "nodes": nodes}
            | self.settings
            | {"recovery": recovery}
        )

    @property
    def database(self) -> Path:
        return self.root / "index.sqlite"

    @property
    def anchor(self) -> Path:
        return self.root / "access" / "anchor.json"

    @property
    def audit(self) -> AuditLog:
        return AuditLog(self.root / "audit" / "audit.jsonl")

    def audited(self, action: str) -> list[dict[str, Any]]:
        return [entry for entry in self.audit.entries() if entry["action"] == action]

    @contextmanager
    def books(self, key: bytes = GRANTS_KEY) -> Iterator[Books]:
        index = self.index()
        try:
            yield Books(index.database, key, self.anchor)
        finally:
            index.close()

    @contextmanager
    def opened(self) -> Iterator[Access]:
        with self.process() as (access, _):
            yield access

    @contextmanager
    def process(self) -> Iterator[tuple[Access, Index]]:
        index = self.index()
        try:
            books = Books(index.database, GRANTS_KEY, self.anchor)
            site = self.site
            yield (
                Access(
                    site=site,
                    index=index,
                    books=books,
                    audit=self.audit,
                    **self.clocks.options(),
                ),
                index,
            )
        finally:
            index.close()

    def index(self) -> Index:
        """Open the index; a new one is a copy, since making its tables takes long."""
        if self.server is not None:
            return Index(self.server(self.root))
        if not self.database.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            self.database.write_bytes(_new_database())
        return open_index(self.database, INDEX_KEY)

    def caller(self, node: str = "ward", user: str | None = None) -> Caller:
        found = next(n for n in self.site.nodes if n.name == node)
        return Caller(
            node=found, ae_title=found.ae_titles[0], address="127.0.0.1", user=user
        )


@cache
def _new_database() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        open_index(path, INDEX_KEY).close()
        return path.read_bytes()


def add(access: Access, name: str = "study", **settings: object) -> None:
    """Add a grant for the ward."""
    values = {"name": name, "nodes": ("ward",), "when": "true"} | settings
    access.add_grant(grant_of(values), "tester")


def static(name: str = "all", **settings: object) -> dict[str, object]:
    """A ``[[grants]]`` table for the ward."""
    return {"name": name, "nodes": ["ward"], "when": "true"} | settings
