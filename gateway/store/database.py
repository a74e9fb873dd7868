"""Connections to the index and its migrations; SQLCipher or PostgreSQL."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlcipher3 import dbapi2

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.store.cipher import connector, seal_clear_index
from gateway.store.locks import connected, lock_number
from gateway.store.server import DRIVER, Server
from gateway.store.turns import Turns
from gateway.store.upgrade import Plan, upgrade

BUSY_TIMEOUT_MS = 60_000
READING = "miad_reading"
SNAPSHOT: Final[dict[str, Any]] = {
    "isolation_level": "REPEATABLE READ",
    "postgresql_readonly": True,
}
BY_OCTETS: Final = "SELECT 'B' < 'a' AND '2~' > '21' AND 'a b' < 'a.b'"
POOL: Final[dict[str, Any]] = {
    "pool_size": 8,
    "max_overflow": 248,
    "pool_use_lifo": True,  # the connection used last has its pages decrypted
    "hide_parameters": True,  # rows name patients: not in exception texts
}


class Database:
    """An engine whose transactions behave alike on SQLCipher and PostgreSQL.

    Several threads and processes share the file. SQLite takes its write lock
    at the start of a writing transaction (BEGIN IMMEDIATE), so that none fails
    half way for a lock that another one took in between, and none decides on
    what another is just changing. On PostgreSQL writers run side by side (READ
    COMMITTED): those that read before they write take turns with `in_turn`.

    Parameters
    ----------
    where
        An SQLAlchemy URL of an SQLite file, or a PostgreSQL server.
    key
        Of an SQLite file, which is encrypted with it: 32 octets.

    Raises
    ------
    ConfigurationError
        The file belongs to another key, or there is none for it; the database of
        a server does not compare text octet by octet.
    SQLAlchemyError
        The server cannot be reached.
    """

    def __init__(self, where: str | Server, key: bytes | None = None) -> None:
        server = _server(where)
        self._engine = _engine(str(where), key) if server is None else _served(server)
        self._patience = 0.0 if server is None else server.patience_seconds
        self._is_shared = server is not None
        if server is None:
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
            self._reader = self._engine.execution_options(**{READING: True})
        else:
            self._reader = self._engine.execution_options(**SNAPSHOT)
            try:
                self._check_text()
            except BaseException:
                self._engine.dispose()
                raise
        self._writer: Connection | None = None
        self._turn: Callable[[], AbstractContextManager[None]] = nullcontext
        if server is None:
            path = Path(str(self._engine.url.database))
            self._turn = Turns(path, BUSY_TIMEOUT_MS / 1000)

    @property
    def engine(self) -> Engine:
        """The engine, for migrations and tests."""
        return self._engine

    @property
    def is_shared(self) -> bool:
        """Whether several machines may use it."""
        return self._is_shared

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run a transaction that writes; durable when the block is left."""
        with self._turn(), self._writing() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Connect; an SQLite file has one writer at a time, who stays connected."""
        if self._is_shared:
            with connected(self._engine, self._patience) as connection:
                yield connection
            return
        if self._writer is None:
            self._writer = self._engine.connect()
        try:
            yield self._writer
        except BaseException:  # whatever state it is in: the next one has another
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run a transaction that only reads, on one snapshot."""
        with (
            connected(self._reader, self._patience) as connection,
            connection.begin(),
        ):
            yield connection

    def in_turn(self, connection: Connection, *what: object) -> None:
        """Wait for other transactions that name the same; until this one's end.

        To be called before the first statement: what a transaction reads after
        its turn has come holds until it commits.

        Parameters
        ----------
        connection
            Of `write`. SQLite's writers take turns anyway.
        what
            Names what is decided on, as ``"revision", 7``.
        """
        if self._is_shared:
            statement = text("SELECT pg_advisory_xact_lock(:number)")
            connection.execute(statement, {"number": lock_number(*what)})

    def migrate(self, *, backed_up: bool = False) -> Plan:
        """Bring the tables to the newest revision; safe to run at every start.

        Raises
        ------
        ConfigurationError
            See `gateway.store.upgrade.upgrade`.
        """
        return upgrade(self, backed_up=backed_up)

    def _check_text(self) -> None:
        """Refuse a database that orders text by a language, or holds less of it."""
        with self.read() as connection:
            octets = connection.scalar(text(BY_OCTETS))
            encoding = connection.scalar(text("SHOW server_encoding"))
        if not octets or encoding != "UTF8":
            raise ConfigurationError(
                f"the database {self._engine.url.database} does not compare text octet"
                " by octet in UTF-8, which ranges of dates need; make it with CREATE"
                " DATABASE ... TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C'"
                " LC_CTYPE 'C.UTF-8'"
            )

    def close(self) -> None:
        """Close all connections; one that is in use, at the end of its use."""
        self._writer = None
        self._engine.dispose()


def _server(where: str | Server) -> Server | None:
    if isinstance(where, Server):
        return where
    url = make_url(where)
    if url.get_backend_name() == "sqlite":
        return None
    return Server(url=url.set(drivername=DRIVER))


def _served(server: Server) -> Engine:
    get_logger("index").warning(
        "index-not-encrypted-here",
        database="postgresql",
        remedy="keep its files on an encrypted volume; see docs/operations.md",
    )
    return create_engine(
        server.url,
        json_serializer=_json,
        isolation_level="READ COMMITTED",
        **server.engine_options,
    )


def _json(value: object) -> str:
    """Return JSON as PostgreSQL takes it: without NaN, infinities and NUL."""
    return json.dumps(_finite(value), allow_nan=False).replace("\\u0000", "")


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _engine(url: str, key: bytes | None) -> Engine:
    location = make_url(url)
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
    statement = "BEGIN" if reading else "BEGIN IMMEDIATE"
    try:  # not by SQLAlchemy, which takes ten times as long to say a word
        _driver_of(connection).execute(statement).close()
    except dbapi2.Error as error:
        raise DBAPIError.instance(statement, None, error, dbapi2.Error) from error


def _driver_of(connection: Connection) -> dbapi2.Connection:
    driver: dbapi2.Connection = connection.connection.dbapi_connection
    return driver
