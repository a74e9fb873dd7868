"""Connections to the index and its migrations; SQLCipher or PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlcipher3 import dbapi2

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.store.cipher import connector, seal_clear_index
from gateway.store.upgrade import Plan, upgrade

BUSY_TIMEOUT_MS = 60_000
READING = "miad_reading"
POOL: Final[dict[str, Any]] = {
    "pool_size": 8,
    "max_overflow": 248,
    "hide_parameters": True,  # rows name patients: not in exception texts
}


class Database:
    """An engine whose transactions behave alike on SQLCipher and PostgreSQL.

    Several threads and processes share the file. SQLite takes its write lock
    at the start of a writing transaction (BEGIN IMMEDIATE), so that none fails
    half way for a lock that another one took in between.

    Parameters
    ----------
    url
        An SQLAlchemy URL.
    key
        Of an SQLite file, which is encrypted with it: 32 octets.

    Raises
    ------
    ConfigurationError
        The file belongs to another key, or there is none for it.
    """

    def __init__(self, url: str, key: bytes | None = None) -> None:
        self._engine = _engine(url, key)
        sqlite = self._engine.dialect.name == "sqlite"
        if sqlite:
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._reader = self._engine.execution_options(**{READING: True})
        # Threads of this process queue here, fairly; SQLite's own busy
        # handler sleeps and starves.
        self._writers = threading.Lock() if sqlite else nullcontext()

    @property
    def engine(self) -> Engine:
        """The engine, for migrations and tests."""
        return self._engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run a transaction that writes; durable when the block is left."""
        with self._writers, self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run a transaction that only reads, on one snapshot."""
        with self._reader.begin() as connection:
            yield connection

    def migrate(self, *, backed_up: bool = False) -> Plan:
        """Bring the tables to the newest revision; safe to run at every start.

        Raises
        ------
        ConfigurationError
            See `gateway.store.upgrade.upgrade`.
        """
        return upgrade(self, backed_up=backed_up)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _engine(url: str, key: bytes | None) -> Engine:
    location = make_url(url)
    if location.get_backend_name() != "sqlite":
        get_logger("index").warning(
            "index-not-encrypted-here",
            database=location.get_backend_name(),
            remedy="keep its files on an encrypted volume; see docs/operations.md",
        )
        return create_engine(url, **POOL)
    if key is None or not location.database:
        raise ConfigurationError("an index in an SQLite file needs its key")
    path = Path(location.database)
    seal_clear_index(path, key)
    return create_engine(
        url,
        module=dbapi2,
        creator=connector(path, key),
        **POOL,
    )


def _configure_sqlite(connection: dbapi2.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours, see _begin_sqlite
    for setting in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "case_sensitive_like = ON",  # as PostgreSQL, and as PS3.4 C.2.2.2.1
    ):
        connection.execute(f"PRAGMA {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
