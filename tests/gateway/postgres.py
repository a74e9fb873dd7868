"""A private PostgreSQL cluster for tests: real, on a Unix socket, gone afterwards.

PostgreSQL refuses to run as root: as root its programs run as ``postgres``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.waiting import wait_until

DEBIAN = Path("/usr/lib/postgresql")
FAST_SETTINGS = ("fsync=off", "full_page_writes=off")
"""What is killed in tests are programs, not the machine: nothing is lost by it."""

MADE_AS = (
    "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C'"
    " LC_CTYPE 'C.UTF-8'"
)
"""As docs/cluster.md says."""


def programs() -> Path | None:
    """Where ``initdb`` and ``postgres`` are; None: not installed."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).parent
    installed = sorted(DEBIAN.glob("*/bin/postgres"), key=_major)
    return installed[-1].parent if installed else None


def _major(path: Path) -> int:
    name = path.parent.parent.name
    return int(name) if name.isdigit() else 0


class Cluster:
    """A cluster in a directory of its own; databases are made on demand.

    Parameters
    ----------
    directory
        Short, since a socket's path may have 107 characters; its user must
        reach it.
    settings
        As ``postgres -c`` takes them.
    """

    def __init__(
        self, directory: Path, settings: tuple[str, ...] = FAST_SETTINGS
    ) -> None:
        found = programs()
        assert found is not None, "PostgreSQL is not installed"
        self._programs = found
        self._directory = directory
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres")

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = [part for one in self._settings for part in ("-c", one)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._programs / "postgres"), "-D", str(self._data)),
                    *("-k", str(self._directory), "-c", "listen_addresses="),
                    *options,
                ],
                stdout=log,
                stderr=log,
                **_as_user(),
            )
        wait_until(self.answers)

    def answers(self) -> bool:
        """Whether it takes connections."""
        assert self._process is None or self._process.poll() is None, self._log()
        try:
            self._execute("postgres", sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT cuts all connections, SIGQUIT is as a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def database(self) -> str:
        """Make an empty database; return its SQLAlchemy URL."""
        name = f"test_{uuid.uuid4().hex}"
        made = sql.SQL(MADE_AS).format(sql.Identifier(name))
        self._execute("postgres", made)
        return f"postgresql+psycopg://postgres@/{name}?host={self._directory}"

    def _execute(self, database: str, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(
            host=str(self._directory), dbname=database, user="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, check=False, cwd=self._directory, **_as_user()
        )
        assert done.returncode == 0, done.stderr.decode()

    def _log(self) -> str:
        return (self._directory / "log").read_text("utf-8")


def _as_user() -> dict[str, Any]:
    """Return what lets a child of root run as ``postgres``."""
    if os.geteuid() != 0:
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """One cluster for all tests of a process."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        cluster = Cluster(Path(name))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    """An empty database."""
    return postgres_cluster.database()
