"""How a PostgreSQL server is reached, for the index and for the jobs alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from config.schema import Database as DatabaseSettings

DRIVER: Final = "postgresql+psycopg"
NAME: Final = "miad-gateway"
KEEPALIVE: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms: a server that is gone is noticed within this
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL server and the database in it.

    Attributes
    ----------
    url
        With the password, which its text does not show.
    pool_connections
        Kept open per process; in a rush twice as many.
    patience_seconds
        How long a connection is tried for before it fails.
    jobs_schema
        Where the job queue has its tables.
    """

    url: URL
    pool_connections: int = 8
    patience_seconds: float = 0.0
    jobs_schema: str = "dbos"

    @property
    def engine_options(self) -> dict[str, Any]:
        """Options of `sqlalchemy.create_engine`."""
        return {
            "pool_size": self.pool_connections,
            "max_overflow": self.pool_connections,
            "pool_timeout": max(self.patience_seconds, 5.0),
            "pool_pre_ping": True,  # one that the server closed is replaced unseen
            "hide_parameters": True,  # rows name patients: not in exception texts
        }


def server_of(settings: DatabaseSettings, read: Callable[[str], bytes]) -> Server:
    """Return the server that settings name.

    The certificate of a server on another machine is checked, with its name,
    unless the settings do without TLS.

    Parameters
    ----------
    settings
        Of the site.
    read
        Returns the octets of a secret by its source.

    Raises
    ------
    ConfigurationError
        The password is not where it is said to be.
    """
    url = make_url(settings.url).set(drivername=DRIVER)
    if settings.password is not None:
        url = url.set(password=read(settings.password).decode("utf-8"))
    options = {name: str(value) for name, value in KEEPALIVE.items()}
    options |= {
        "connect_timeout": str(max(1, round(settings.connect_seconds))),
        "application_name": NAME,
    }
    if settings.authorities is not None:
        options |= {"sslmode": "verify-full", "sslrootcert": str(settings.authorities)}
    elif not (settings.plain or settings.is_local):
        options |= {"sslmode": "verify-full", "sslrootcert": "system"}
    return Server(
        url=url.update_query_dict(options),
        pool_connections=settings.pool_connections,
        patience_seconds=settings.patience_seconds,
        jobs_schema=settings.jobs_schema,
    )
