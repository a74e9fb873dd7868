"""Locks by name that hold on every machine of a site (PostgreSQL 13.3.5)."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import InterfaceError, OperationalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.exc import DBAPIError

    from gateway.store.server import Server

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 1.0
REFUSALS: Final = (
    "does not exist",
    "authentication failed",
    "no pg_hba.conf entry",
    "certificate verify failed",
    "does not match host name",
)


class Locks:
    """Advisory locks of a PostgreSQL server, each over a connection of its own.

    The server gives a lock up when the machine that holds it dies.

    Parameters
    ----------
    server
        That all machines of the site use.
    """

    def __init__(self, server: Server) -> None:
        self._patience = server.patience_seconds
        self._engine = create_engine(
            server.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Keep other machines, and other threads, from what has that name.

        Raises
        ------
        SQLAlchemyError
            The connection was lost, at the end of the block at the latest: others
            may have come in between.
        """
        number = {"number": lock_number("lock", name)}
        with connected(self._engine, self._patience) as connection:
            connection.execute(text("SELECT pg_advisory_lock(:number)"), number)
            yield
            connection.execute(text("SELECT pg_advisory_unlock(:number)"), number)


def lock_number(*what: object) -> int:
    """Return the number of an advisory lock: 64 bits, signed."""
    named = "/".join(("miad-gateway", *map(str, what))).encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], signed=True)


@contextmanager
def connected(engine: Engine, patience_seconds: float) -> Iterator[Connection]:
    """Connect; a server that is restarting is waited for so long.

    Raises
    ------
    SQLAlchemyError
        It did not answer, or refuses this user or database.
    """
    with _connection(engine, patience_seconds) as connection:
        yield connection


def _connection(engine: Engine, patience_seconds: float) -> Connection:
    until = time.monotonic() + patience_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return engine.connect()
        except (OperationalError, InterfaceError) as error:
            left = until - time.monotonic()
            if left <= 0 or _is_refusal(error):
                raise
            threading.Event().wait(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _is_refusal(error: DBAPIError) -> bool:
    """Whether the server answered, and would not answer otherwise.

    Nothing but its words tells (libpq has no SQLSTATE of a failed connection);
    in another language it is only waited for.
    """
    told = str(error.orig)
    return any(words in told for words in REFUSALS)
