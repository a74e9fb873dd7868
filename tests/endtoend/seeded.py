"""A receiving process over a data directory that already holds objects.

What the worker would have made of them is put there by the test, so that asking
and retrieving are tried end to end within seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.load import load_site
from gateway.access.ledger import KEY_LENGTH
from gateway.app.openers import (
    open_index_of,
    open_keys_of,
    open_secrets_of,
    open_store_of,
    open_vault_of,
)
from tests.endtoend.peers import free_port
from tests.endtoend.sites import plain_nodes, plain_places
from tests.gateway.scp import gateway, send
from tests.gateway.seeding import protect
from tests.gateway.stored import content_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from gateway.dicom.rawstore import OutboundObject
    from gateway.store.files import FileStore
    from gateway.store.rows import Instance, Protected

RECEIVER = "MIAD-GATEWAY"
RECOVERY = "MIAD-RECOVERY"
WORKSTATION = "WORKSTATION"
READER = "READER"
ORTHANC = "ORTHANC"

SITE = """\
data_directory = "{data}"

[receiver]
ae_title = "MIAD-GATEWAY"
plain_port = 0

[recovery]
ae_title = "MIAD-RECOVERY"
plain_port = 0

{nodes}
{places}
[[grants]]
name = "everything"
nodes = ["orthanc", "workstation"]
when = "true"
"""


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What the process holds and where it listens.

    ``node_port`` is where WORKSTATION and READER are expected to listen.
    """

    data: Path
    store: FileStore
    receiver_port: int
    recovery_port: int
    node_port: int
    originals: dict[str, Instance]
    protected: dict[str, Protected]

    def original_file(self, uid: str) -> bytes:
        return content_of(self.store, self.originals[uid].path)

    def protected_file(self, original_uid: str) -> bytes:
        return content_of(self.store, self.protected[original_uid].path)


@contextmanager
def seeded(
    directory: Path,
    objects: Sequence[OutboundObject],
    protected_uids: Collection[str],
    orthanc_port: int = 1,
) -> Iterator[Seeded]:
    """Receive objects, protect some, then serve them from a process of their own."""
    data, config = directory / "data", directory / "site.toml"
    node = free_port()
    config.write_text(
        SITE.format(
            data=data.as_posix(),
            nodes=plain_nodes(
                MODALITY=["store"],
                READER=["read"],
                ORTHANC=["read", "recover"],
                WORKSTATION=["recover"],
            ),
            places=plain_places(WORKSTATION=node, READER=node, ORTHANC=orthanc_port),
        )
    )
    site = load_site(config, environ={})
    keys = open_keys_of(site)
    grants_key = open_secrets_of(site, keys).get("grants.key", KEY_LENGTH)
    with gateway(site, grants_key=grants_key) as running:
        for item in objects:
            assert send(running.port, item) == [0x0000]
    store, vault = open_store_of(site, keys), open_vault_of(site, keys)
    with closing(open_index_of(site, keys)) as index:
        originals = {
            str(item.sop_instance_uid): index.instance(item.sop_instance_uid)
            for item in objects
        }
        rows = {}
        for uid in protected_uids:
            instance = originals[uid]
            assert instance is not None
            rows[uid] = protect(instance, store, index, vault)
    with _serving(config, directory / "log", data) as ports:
        yield Seeded(
            data=data,
            store=store,
            receiver_port=ports["plain_receiver"],
            recovery_port=ports["plain_recovery"],
            node_port=node,
            originals={uid: row for uid, row in originals.items() if row is not None},
            protected=rows,
        )


@contextmanager
def _serving(config: Path, log: Path, data: Path) -> Iterator[dict[str, int]]:
    """Run the receiving process; the ports that it took."""
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    with log.open("wb") as out:
        running = subprocess.Popen(
            [*command, "--config", str(config)], stdout=out, stderr=out
        )
    ports = data / "run" / "ports.json"
    try:
        wait_until(lambda: ports.exists() or running.poll() is not None)
        assert running.poll() is None, log.read_text()
        yield json.loads(ports.read_text())
    finally:
        running.terminate()
        running.wait(timeout=30)
