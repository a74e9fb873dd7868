"""One site on five machines: PostgreSQL, an object store, and none of them alone.

Each process has a data directory of its own, as on a machine of its own. What they
share is the database, the bucket, and the master key that was put on each.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from config.load import load_site
from gateway.app.keeping import keeper_of
from gateway.app.openers import (
    open_index_of,
    open_keys_of,
    open_objects_of,
    open_store_of,
)
from gateway.demo.site import GATEWAY, MODALITY, OUTSIDE, RECOVERY, WORKSTATION
from gateway.store.clock import utc_now
from gateway.store.index import Index
from tests.endtoend.peers import dcmtk, free_port, storescp
from tests.endtoend.sites import plain_nodes, plain_places
from tests.endtoend.support import data_set_of
from tests.gateway.buckets import BUCKET, ObjectServer, object_server
from tests.gateway.pki_cases import Pki, pki_of
from tests.gateway.postgres import Cluster, postgres_cluster
from tests.waiting import wait_until

__all__ = ["postgres_cluster"]

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(600)]

SITE = """\
name = "cluster"
data_directory = "{data}"

[machine]
name = "{name}"

[database]
url = "{database}"

[objects]
endpoint = "{endpoint}"
bucket = "{bucket}"
prefix = "hospital"
access_key = "file:access.key"
secret_key = "file:secret.key"
plain = true
timeout_seconds = 20
retries = 1
retry_seconds = 5

[receiver]
{listen}

[recovery]
{listen}

{tls}
[web]
enabled = {web}
port = 0

{nodes}
{places}
[[grants]]
name = "everything"
nodes = ["workstation"]
when = "true"

[completion]
idle_seconds = 1.0
poll_seconds = 0.2

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = {outside}
plain = true
retry_first_seconds = 0.3
retry_cap_seconds = 2.0

[[routing.rules]]
name = "everything-leaves-marked"
when = 'true'
destinations = ["outside"]
protect = true

[protection]
params.delta.iterations = 2
params.search.budget = 16
"""

TLS = """\
[tls]
certificate = "{certificate}"
key = "{key}"
authorities = ["{authority}"]
"""


@dataclass
class Machine:
    """One process of the site, with a data directory of its own."""

    name: str
    kind: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "site.toml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gateway.cli.main", self.kind),
                    *("--config", str(self.config)),
                ],
                stdout=log,
                stderr=log,
            )

    def wait_for_ports(self) -> None:
        named = {"receiver": "ports.json", "web": "web.json"}
        path = self.data / "run" / named[self.kind]
        self.wait(path.is_file)
        self.ports = json.loads(path.read_text())

    def wait(self, condition: object) -> None:
        def came_true() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log[-4000:]
            return bool(condition())  # type: ignore[operator]

        wait_until(came_true, 300)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@dataclass
class Site:
    """The whole: machines by name, and what they share."""

    machines: dict[str, Machine]
    objects: ObjectServer
    postgres: Cluster
    outside: Path
    move_port: int

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    @contextmanager
    def index(self) -> Iterator[Index]:
        site = load_site(self["web-1"].config, environ={})
        opened = open_index_of(site, open_keys_of(site))
        try:
            yield opened
        finally:
            opened.close()

    def stored(self, uid: str) -> bytes:
        """What was received under a UID, a whole file, opened with the site's key."""
        site = load_site(self["web-1"].config, environ={})
        with self.index() as index:
            instance = index.instance(uid)
        assert instance is not None
        with open_store_of(site, open_keys_of(site)).open(instance.path) as stream:
            return stream.read()

    def send(self, receiver: str, *files: Path) -> subprocess.CompletedProcess[str]:
        port = self[receiver].ports["plain_receiver"]
        called = ["-aet", MODALITY, "-aec", GATEWAY, "127.0.0.1", str(port)]
        return dcmtk("storescu", *called, *map(str, files))


MACHINES = {
    "receiver-1": "receiver",
    "receiver-2": "receiver",
    "worker-1": "worker",
    "worker-2": "worker",
    "web-1": "web",
}


def prepare(
    machine: Machine, master_key: bytes, pki: Pki | None, **shared: object
) -> None:
    machine.data.mkdir(parents=True)
    for name, secret in (
        ("secrets/master.key", master_key),
        ("access.key", b"miadtestkey\n"),
        ("secret.key", b"miadtestsecret\n"),
    ):
        path = machine.data / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(secret)
    tls = ""
    if pki is not None:
        tls = TLS.format(
            certificate=pki.gateway.certificate,
            key=pki.gateway.key,
            authority=pki.authority.certificate,
        )
    machine.config.write_text(
        SITE.format(
            data=machine.data.as_posix(),
            name=machine.name,
            bucket=BUCKET,
            tls=tls,
            listen="plain_port = 0" if pki is None else "port = 0",
            web=str(machine.kind == "web").lower(),
            **shared,
        )
    )


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("cluster")
    move_port = free_port()
    with ExitStack() as stack:
        objects = stack.enter_context(object_server(folder))
        outside = stack.enter_context(storescp(folder / "outside", OUTSIDE))
        shared = {
            "database": postgres_cluster.database().replace("+psycopg", ""),
            "endpoint": objects.endpoint,
            "outside": outside,
            "nodes": plain_nodes(
                MODALITY=["store"], WORKSTATION=["recover"], STORESCU=["store"]
            ),
            "places": plain_places(WORKSTATION=move_port),
        }
        master_key = secrets.token_bytes(32)
        machines = {}
        for name, kind in MACHINES.items():
            machine = machines[name] = Machine(name, kind, folder / name)
            pki = pki_of(folder / "pki") if kind == "web" else None
            prepare(machine, master_key, pki, **shared)
            machine.start()  # all at once: tables and secrets are made by one
            stack.callback(machine.stop)
        for name in ("receiver-1", "receiver-2", "web-1"):
            machines[name].wait_for_ports()
        yield Site(machines, objects, postgres_cluster, folder / "outside", move_port)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cases")
    paths = []
    for number, name in enumerate(("MR_small.dcm", "MR_small.dcm", "CT_small.dcm"), 1):
        path = get_testdata_file(name, download=False)
        assert isinstance(path, str)
        dataset = dcmread(path)
        paths.append(written(dataset, f"1.2.3.{number}", folder))
    return paths


def written(dataset: Dataset, uid: str, folder: Path) -> Path:
    """An object under another UID, in a file."""
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.SeriesInstanceUID = f"{uid}.1"
    path = folder / f"{uid}.dcm"
    dataset.save_as(path)
    return path


def arrived(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix != ".log"]


def give_back(site: Site, receiver: str, original: Dataset, into: Path) -> list[Path]:
    """Ask a machine for an original by C-MOVE; what came."""
    into.mkdir()
    moved = dcmtk(
        *("movescu", "-S", "-aet", WORKSTATION, "-aec", RECOVERY),
        *("--port", str(site.move_port), "-aem", WORKSTATION),
        *("+xa", "--bit-preserving"),  # with it, no output directory is heeded
        *("-k", "QueryRetrieveLevel=IMAGE"),
        *("-k", f"SOPInstanceUID={original.SOPInstanceUID}"),
        *("-k", f"StudyInstanceUID={original.StudyInstanceUID}"),
        *("-k", f"SeriesInstanceUID={original.SeriesInstanceUID}"),
        *("127.0.0.1", str(site[receiver].ports["plain_recovery"])),
        cwd=into,
    )
    assert moved.returncode == 0, moved.stderr + site[receiver].log[-3000:]
    return list(into.iterdir())


def files_of(site: Site) -> set[str]:
    """Return the names of all files in the bucket."""
    blobs = open_objects_of(load_site(site["web-1"].config, environ={}))
    assert blobs is not None
    return {name for folder in ("store", "vault") for name in blobs.names(folder)}


def test_what_two_receivers_took_leaves_protected_and_comes_back_through_the_other(
    site: Site, files: list[Path], tmp_path: Path
) -> None:
    receivers = ("receiver-1", "receiver-2", "receiver-1")
    for receiver, path in zip(receivers, files, strict=True):
        sent = site.send(receiver, path)
        assert sent.returncode == 0, sent.stderr + site[receiver].log[-3000:]
    worker = site["worker-1"]
    worker.wait(lambda: len(arrived(site.outside)) == len(files))

    originals = {str(dcmread(path).SOPInstanceUID): path for path in files}
    for path in arrived(site.outside):
        marked = dcmread(path)
        assert str(marked.SOPInstanceUID) not in originals
        source = str(marked.SourceImageSequence[0].ReferencedSOPInstanceUID)
        assert marked.PixelData != dcmread(originals[source]).PixelData

    back = []
    for number, path in enumerate(originals.values()):
        other = ("receiver-2", "receiver-1", "receiver-2")[number]
        back += give_back(site, other, dcmread(path), tmp_path / str(number))
    returned = {str(dcmread(p).SOPInstanceUID): p for p in back}
    assert set(returned) == set(originals)
    for uid in originals:  # storescu may encode anew: what counts is what came
        assert data_set_of(returned[uid].read_bytes()) == data_set_of(site.stored(uid))


def test_nothing_of_the_site_lies_on_a_machine_alone(site: Site) -> None:
    for machine in site.machines.values():
        left = [
            path.relative_to(machine.data).as_posix()
            for path in machine.data.rglob("*")
            if path.is_file()
        ]
        kept = [
            name for name in left if name.startswith(("store/", "vault/", "access/"))
        ]
        assert kept == []
        assert not any(name.endswith((".sqlite", ".sealed")) for name in left)


def test_what_is_in_the_bucket_is_sealed(site: Site, files: list[Path]) -> None:
    opened = load_site(site["web-1"].config, environ={})
    blobs = open_objects_of(opened)
    assert blobs is not None
    names = [name for folder in ("store", "vault") for name in blobs.names(folder)]
    assert len([n for n in names if n.startswith("store/originals/")]) == len(files)
    for name in names:
        assert blobs.read(name)[:8] == b"MIADSEAL"


def test_one_receiver_and_one_worker_die_and_the_others_go_on(
    site: Site, files: list[Path], tmp_path: Path
) -> None:
    site["receiver-1"].kill()
    site["worker-1"].kill()
    before = len(arrived(site.outside))
    new = written(dcmread(files[0]), "1.2.3.4.5", tmp_path)

    sent = site.send("receiver-2", new)

    assert sent.returncode == 0, sent.stderr
    site["worker-2"].wait(lambda: len(arrived(site.outside)) == before + 1)


def test_without_the_object_store_a_sender_is_told_and_nothing_is_kept(
    site: Site, files: list[Path], tmp_path: Path
) -> None:
    new = written(dcmread(files[0]), "1.2.3.4.6", tmp_path)
    site.objects.stop()

    refused = site.send("receiver-2", new)

    assert refused.returncode != 0 or "0xa700" in refused.stderr.lower(), refused.stderr
    with site.index() as index:
        assert index.instance("1.2.3.4.6") is None
    assert list((site["receiver-2"].data / "store" / "incoming").iterdir()) == []
    site.objects.start()
    assert site.send("receiver-2", new).returncode == 0
    with site.index() as index:
        assert index.instance("1.2.3.4.6") is not None


def test_a_restarted_database_is_waited_for(
    site: Site, files: list[Path], tmp_path: Path
) -> None:
    before = len(arrived(site.outside))
    new = written(dcmread(files[1]), "1.2.3.4.7", tmp_path)
    site.postgres.stop()
    site.postgres.start()

    sent = site.send("receiver-2", new)

    assert sent.returncode == 0, sent.stderr
    site["worker-2"].wait(lambda: len(arrived(site.outside)) > before)


def test_originals_that_retention_took_from_the_bucket_still_come_back(
    site: Site, files: list[Path], tmp_path: Path
) -> None:
    original = dcmread(files[0])
    expected = data_set_of(site.stored(str(original.SOPInstanceUID)))
    config = site["web-1"].folder / "retention.toml"
    policy = "[retention]\noriginals.days = 1\n"
    config.write_text(site["web-1"].config.read_text() + policy)
    settings = load_site(config, environ={})
    keys = open_keys_of(settings)
    before = files_of(site)

    with site.index() as index:
        keeper = keeper_of(settings, index, open_store_of(settings, keys), keys)
        done = keeper.retain(utc_now() + timedelta(days=2), 120.0)

    gone = before - files_of(site)
    assert done.originals == len(gone) >= len(files)
    assert all(name.startswith("store/originals/") for name in gone)
    (back,) = give_back(site, "receiver-2", original, tmp_path / "back")
    assert data_set_of(back.read_bytes()) == expected


def test_an_erased_study_is_gone_from_the_bucket_and_for_every_machine(
    site: Site, files: list[Path], tmp_path: Path
) -> None:
    erased = dcmread(files[2])
    uid = str(erased.SOPInstanceUID)
    with site.index() as index:
        instance = index.instance(uid)
        assert instance is not None
        protected = index.protected_of(instance.id)
        assert protected is not None
    before = files_of(site)
    assert any(protected.path in name for name in before)

    told = subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli.main", "erase"),
            *("--config", str(site["web-1"].config), "--yes", "--json"),
            *("--reason", "asked for by the patient"),
            str(erased.StudyInstanceUID),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["originals"] == [uid]
    gone = before - files_of(site)
    assert len(gone) == 2  # the protected object and its record; the file went before
    assert any(protected.path in name for name in gone)
    with site.index() as index:
        assert index.instance(uid) is None
    assert give_back(site, "receiver-2", erased, tmp_path / "back") == []
    trail = site["web-1"].data / "audit" / "audit.jsonl"
    lines = [json.loads(line) for line in trail.read_text().splitlines()]
    told_of = [one for one in lines if one["action"] == "erasure"]
    assert {one["reason"] for one in told_of} == {"asked for by the patient"}
    assert "success" in {one["outcome"] for one in told_of}
