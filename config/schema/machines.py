"""The machines of a site, and where they keep what they share."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from config.schema.base import LOOPBACK, KeySource, Name, Settings


def _host_name() -> str:
    """Return this machine's name as a `Name`."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", socket.gethostname()).strip("-_.")
    return plain[:64] or "machine"


class Machine(Settings):
    """The machine these settings are for, among those that work on one site."""

    name: Name = Field(default_factory=_host_name)
    """Unlike that of every other; the host's name when absent."""


class Database(Settings):
    """A PostgreSQL server for the index and the jobs; absent: SQLite files here."""

    url: Annotated[
        str,
        StringConstraints(
            pattern=r"^postgresql://[^\s:@/?]+@([^\s@/?:]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/"
            r"[^\s@/?]+(\?host=/[^\s&]*)?$"
        ),
    ]
    """``postgresql://USER@HOST:PORT/NAME``, or ``postgresql://USER@/NAME?host=/FOLDER``
    for a socket of this machine. No password in it."""
    password: KeySource | None = None
    authorities: Path | None = None
    """PEM file of the authorities whose certificates the server may show; absent:
    those of the operating system."""
    plain: bool = False
    """Without TLS, also to another machine. Not safe."""
    jobs_schema: Annotated[
        str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    ] = "dbos"
    """Where the tables of the job queue lie, beside those of the index."""
    pool_connections: int = Field(default=8, ge=2)
    """Kept open per process; in a rush twice as many."""
    connect_seconds: float = Field(default=5.0, ge=1)
    patience_seconds: float = Field(default=20.0, ge=0)
    """How long a server that does not answer is waited for, before what needs it
    fails: a modality is then told to send again."""

    @property
    def is_local(self) -> bool:
        """Whether the connection stays within this machine."""
        return (urlsplit(self.url).hostname or "") in LOOPBACK


class Objects(Settings):
    """An S3-compatible object store for what several machines share."""

    endpoint: Annotated[
        str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(:[0-9]{1,5})?/?$")
    ]
    """``https://HOST:PORT``."""
    bucket: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    ]
    prefix: Annotated[
        str, StringConstraints(pattern=r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$")
    ] = ""
    """In front of the names of all objects of this site."""
    region: str = "us-east-1"
    access_key: KeySource
    secret_key: KeySource
    authorities: Path | None = None
    """PEM file of the authorities whose certificates the server may show; absent:
    those of the operating system."""
    plain: bool = False
    """Without TLS. Not safe, though what is sent is sealed before."""
    virtual_hosts: bool = False
    """The bucket is in the host's name, not in the path."""
    connect_seconds: float = Field(default=5.0, gt=0)
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Of one request."""
    retries: int = Field(default=3, ge=0)
    """Of a request that failed in a way that may pass, within the next."""
    retry_seconds: float = Field(default=20.0, gt=0)

    @property
    def is_as_wanted(self) -> bool:
        """Whether it is reached over TLS, or need not be."""
        return self.plain or self.endpoint.startswith("https://")
