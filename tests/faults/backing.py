"""What a site on several machines keeps its things in: PostgreSQL, an object store."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from tests.gateway.buckets import BUCKET, Front, object_server
from tests.gateway.postgres import Cluster
from tests.waiting import wait_until

Database = Literal["sqlite", "postgres"]

DATABASE = """
[database]
url = "{url}"
"""

OBJECTS = """
[objects]
endpoint = "{endpoint}"
bucket = "{bucket}"
access_key = "file:access.key"
secret_key = "file:secret.key"
plain = true
timeout_seconds = 10
retries = 1
retry_seconds = 5
"""


class KeptCluster(Cluster):
    """A cluster whose data stay, so that a run of before can go on."""

    def _run(self, program: str, *arguments: str) -> None:
        if program != "initdb" or not (self._data / "PG_VERSION").exists():
            super()._run(program, *arguments)

    def end_earlier(self) -> None:
        """Stop the server that a run of before left when it was killed."""
        noted = self._data / "postmaster.pid"
        if noted.exists():
            number = int(noted.read_text().split()[0])
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGINT)
            wait_until(
                lambda: not noted.exists() or not Path(f"/proc/{number}").exists()
            )
            noted.unlink(missing_ok=True)


def cluster_folder(folder: Path) -> Path:
    """Return where the cluster of a run lies: a short name, which others may enter."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    place = Path(tempfile.gettempdir()) / f"miad-pg-{name}"
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    return place


@contextmanager
def cluster_of(folder: Path) -> Iterator[KeptCluster]:
    """Run the PostgreSQL cluster of a run."""
    cluster = KeptCluster(cluster_folder(folder))
    cluster.end_earlier()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def database_of(cluster: Cluster, folder: Path) -> str:
    """Return the settings of a run's database; made once."""
    noted = folder / "database"
    if not noted.exists():
        noted.write_text(cluster.database().replace("+psycopg", ""))
    return DATABASE.format(url=noted.read_text())


@contextmanager
def objects_of(folder: Path, data: Path) -> Iterator[tuple[Front, str]]:
    """Run an object store behind a front that can fail; give the settings too."""
    keys = {
        data / "access.key": b"faultskey",
        data / "secret.key": b"faultssecret",
        data / "secrets" / "master.key": secrets.token_bytes(32),
    }
    for path, octets in keys.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(octets)
            path.chmod(0o600)
    with object_server(folder) as server:
        front = Front(server.endpoint)
        with front.listening():
            yield front, OBJECTS.format(endpoint=front.endpoint, bucket=BUCKET)
