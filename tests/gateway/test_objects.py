"""Files in an object store: whole, durable, told when they are not."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.access.anchor import SharedAnchor
from gateway.errors import (
    AccessTampered,
    ConfigurationError,
    InvalidObject,
    InvalidSeal,
    KeyErased,
    RecordMissing,
    StoredObjectDamaged,
    StoreFull,
    StoreUnavailable,
)
from gateway.sealing.census import Census
from gateway.sealing.head import START, key_ids
from gateway.sealing.master import LocalMasterKey
from gateway.sealing.rotation import Rewrapped
from gateway.store.blobs import Blobs, LocalBlobs
from gateway.store.durable import WholeFile
from gateway.store.files import FileStore
from gateway.store.objects import PART_BYTES, ObjectBlobs
from gateway.store.part10 import FileMeta
from gateway.store.rewrap import count_objects, open_objects, rewrap_objects
from gateway.store.shared import SharedSecrets
from gateway.vault.shared import SharedVault
from tests.gateway.buckets import (
    Front,
    ObjectServer,
    any_server,
    blobs_at,
    object_server,
)
from tests.gateway.stored import MASTER_KEY, STORE_SECRET
from tests.gateway.test_sealing_slots import Both
from tests.gateway.test_vault import UID, record_of, same

__all__ = ["any_server"]

KEYS = LocalMasterKey(MASTER_KEY)
META = FileMeta(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uid="1.2.3",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
)


@pytest.fixture
def blobs(any_server: ObjectServer, tmp_path: Path) -> ObjectBlobs:
    return blobs_at(any_server.endpoint, tmp_path / "spool", prefix=tmp_path.name)


@pytest.fixture
def store(blobs: ObjectBlobs, tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store", KEYS, STORE_SECRET, blobs)


def put(blobs: Blobs, name: str, content: bytes) -> None:
    with blobs.writing(name) as stream:
        stream.write(content)


@pytest.mark.parametrize("size", [1, 300_000, PART_BYTES + 1])
def test_what_was_written_is_read_back(blobs: ObjectBlobs, size: int) -> None:
    content = os.urandom(size)
    put(blobs, "a/b", content)

    with blobs.open("a/b") as stream:
        assert stream.read() == content
        stream.seek(size // 2)
        assert stream.read(7) == content[size // 2 :][:7]
        assert stream.seek(0, os.SEEK_END) == size
        assert stream.read(1) == b""
    assert blobs.exists("a/b")
    assert blobs.size("a/b") == size


def test_reading_on_asks_for_more_at_once(
    any_server: ObjectServer, tmp_path: Path
) -> None:
    with Front(any_server.endpoint).listening() as front:
        blobs = blobs_at(front.endpoint, tmp_path, prefix=tmp_path.name)
        content = os.urandom(8 << 20)
        put(blobs, "a", content)
        front.requests.clear()
        with blobs.open("a") as stream:
            pieces = [stream.read(1 << 16) for _ in range(128)]
        assert b"".join(pieces) == content
        assert len(front.requests) < 8


def test_what_has_a_name_is_replaced_as_a_whole(blobs: ObjectBlobs) -> None:
    put(blobs, "a", b"first")
    put(blobs, "a", b"2nd")
    assert blobs.read("a") == b"2nd"


def test_what_fails_on_its_way_has_no_name(blobs: ObjectBlobs, tmp_path: Path) -> None:
    def interrupted() -> None:
        with blobs.writing("a") as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not blobs.exists("a")
    assert list((tmp_path / "spool").iterdir()) == []


def test_of_many_that_make_one_thing_one_wins(blobs: ObjectBlobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: blobs.create("once", b"%d" % n), range(8)))
    assert sorted(won) == [False] * 7 + [True]
    assert blobs.read("once") == b"%d" % won.index(True)


def test_names_below_a_folder(blobs: ObjectBlobs) -> None:
    for name in ("vault/aa/1", "vault/ab/2", "vaults/3"):
        put(blobs, name, b"x")
    assert sorted(blobs.names("vault")) == ["vault/aa/1", "vault/ab/2"]


def test_removing_may_be_repeated(blobs: ObjectBlobs) -> None:
    put(blobs, "a", b"x")
    blobs.remove("a")
    blobs.remove("a")
    assert not blobs.exists("a")
    with pytest.raises(FileNotFoundError):
        blobs.open("a")


@pytest.mark.parametrize("kind", ["local", "objects"])
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_name_leads_nowhere_else(kind: str, name: str, tmp_path: Path) -> None:
    place: Blobs = LocalBlobs(tmp_path)
    if kind == "objects":
        place = blobs_at("http://127.0.0.1:9", tmp_path)
    with pytest.raises(InvalidObject):
        place.open(name)


# Faults of the store


def test_a_store_that_keeps_its_word_is_taken(blobs: ObjectBlobs) -> None:
    blobs.check_conditions()
    assert list(blobs.names("checks")) == []


def test_a_store_that_takes_no_conditions_is_refused(
    any_server: ObjectServer, tmp_path: Path
) -> None:
    with Front(any_server.endpoint).listening() as front:
        front.fault = "unconditional"
        with pytest.raises(StoreUnavailable, match="two secrets of one name"):
            blobs_at(front.endpoint, tmp_path).check_conditions()


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        ("500", StoreUnavailable, "does not answer as it should"),
        ("403", StoreUnavailable, "refuses this site's access key"),
        ("507", StoreFull, "enlarge it"),
    ],
)
def test_faults_are_told_and_pass(
    any_server: ObjectServer,
    tmp_path: Path,
    fault: str,
    error: type[Exception],
    told: str,
) -> None:
    with Front(any_server.endpoint).listening() as front:
        blobs = blobs_at(front.endpoint, tmp_path / "spool", prefix=tmp_path.name)
        front.fault = fault
        with pytest.raises(error, match=told):
            put(blobs, "a", b"x")
        with pytest.raises(StoreUnavailable if fault != "507" else error):
            blobs.open("a")
        front.fault = ""
        assert not blobs.exists("a")
        put(blobs, "a", b"x")
        assert blobs.read("a") == b"x"


def test_a_bucket_that_is_not_there_is_no_object_that_is_not_there(
    any_server: ObjectServer, tmp_path: Path
) -> None:
    blobs = blobs_at(any_server.endpoint, tmp_path, bucket="elsewhere")
    with pytest.raises(StoreUnavailable, match="bucket of the object store"):
        blobs.put("a", b"x")


def test_nobody_listening_is_told_soon(tmp_path: Path) -> None:
    blobs = blobs_at("http://127.0.0.1:9", tmp_path)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        blobs.exists("a")
    assert time.monotonic() - begun < 10


def test_the_patient_wait_until_the_store_is_back(tmp_path: Path) -> None:
    with object_server(tmp_path) as server:
        blobs = blobs_at(server.endpoint, tmp_path / "spool", patience_seconds=60)
        blobs.put("a", b"x")
        server.stop()
        starting = threading.Timer(1.0, server.start)
        starting.start()
        try:
            assert blobs.read("a") == b"x"
        finally:
            starting.join()


# The store of objects over it


def test_a_received_object_lies_sealed_in_the_bucket(
    store: FileStore, blobs: ObjectBlobs, tmp_path: Path
) -> None:
    kept = store.write_original(b"CLEAR" * 1000, META)

    data, syntax = store.read_data_set(kept.path)

    assert (data, syntax) == (b"CLEAR" * 1000, META.transfer_syntax_uid)
    (name,) = blobs.names("store")
    assert name == f"store/{kept.path}"
    assert b"CLEAR" not in blobs.read(name)
    assert list((tmp_path / "store" / "incoming").iterdir()) == []
    assert not (tmp_path / "store" / "originals").exists()


def test_the_same_bytes_have_one_name_on_every_machine(
    store: FileStore, blobs: ObjectBlobs, tmp_path: Path
) -> None:
    other = FileStore(tmp_path / "other", KEYS, STORE_SECRET, blobs)
    assert store.write_original(b"x", META) == other.write_original(b"x", META)
    assert len(list(blobs.names("store"))) == 1


def test_without_the_store_nothing_is_kept_and_nothing_is_left(
    any_server: ObjectServer, tmp_path: Path
) -> None:
    with Front(any_server.endpoint).listening() as front:
        blobs = blobs_at(front.endpoint, tmp_path / "spool")
        store = FileStore(tmp_path / "store", KEYS, STORE_SECRET, blobs)
        front.fault = "500"
        with pytest.raises(StoreUnavailable):
            store.write_original(b"x", META)
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_an_altered_object_is_damaged_not_unavailable(
    store: FileStore, blobs: ObjectBlobs
) -> None:
    kept = store.write_original(b"x" * 500_000, META)
    octets = bytearray(blobs.read(f"store/{kept.path}"))
    octets[-1] ^= 1
    blobs.put(f"store/{kept.path}", bytes(octets))
    with pytest.raises(StoredObjectDamaged):
        store.open(kept.path)
    store.remove(kept.path)
    with pytest.raises(StoredObjectDamaged):
        store.open(kept.path)


def test_a_destroyed_object_has_no_key_before_it_goes(
    any_server: ObjectServer, tmp_path: Path
) -> None:
    with Front(any_server.endpoint).listening() as front:
        blobs = blobs_at(front.endpoint, tmp_path / "spool", prefix=tmp_path.name)
        store = FileStore(tmp_path / "store", KEYS, STORE_SECRET, blobs)
        kept = store.write_original(b"x", META)
        front.requests.clear()
        store.destroy(kept.path)
        changes = [
            method for method, _ in front.requests if method not in ("GET", "HEAD")
        ]
        assert changes == ["PUT", "DELETE"]
        assert not store.exists(kept.path)
        store.destroy(kept.path)  # may be repeated


# Secrets, records and the anchor over it


def secrets_of(
    blobs: ObjectBlobs, folder: Path, key: bytes = MASTER_KEY
) -> SharedSecrets:
    return SharedSecrets(blobs, folder, LocalMasterKey(key))


def test_machines_that_start_at_once_have_the_same_secrets(
    blobs: ObjectBlobs, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(
            pool.map(
                lambda _: secrets_of(blobs, tmp_path).get("index.key", 32), range(8)
            )
        )
    assert len(found) == 1
    assert secrets_of(blobs, tmp_path).get("index.key", 32) in found


def test_a_machine_with_another_master_key_is_told(
    blobs: ObjectBlobs, tmp_path: Path
) -> None:
    secrets_of(blobs, tmp_path).get("index.key", 32)
    with pytest.raises(ConfigurationError, match="needs the same master key"):
        secrets_of(blobs, tmp_path, b"o" * 32).get("index.key", 32)


def test_secrets_cannot_be_swapped(blobs: ObjectBlobs, tmp_path: Path) -> None:
    secrets_of(blobs, tmp_path).get("index.key", 32)
    blobs.put("secrets/store.key.sealed", blobs.read("secrets/index.key.sealed"))
    with pytest.raises(ConfigurationError, match="another one under this name"):
        secrets_of(blobs, tmp_path).get("store.key", 32)


def test_records_are_kept_found_and_erased(blobs: ObjectBlobs, tmp_path: Path) -> None:
    vault = SharedVault(blobs, tmp_path, KEYS)
    record = record_of()
    with pytest.raises(RecordMissing):
        vault.get(UID)

    vault.put(record)
    assert same(vault.get(UID), record)
    assert vault.has(UID)
    assert UID in vault.erase(UID)

    assert not vault.has(UID)
    with pytest.raises(KeyErased):
        vault.get(UID)
    vault.put(record)
    assert same(vault.get(UID), record)


def test_a_record_of_another_object_does_not_open(
    blobs: ObjectBlobs, tmp_path: Path
) -> None:
    vault = SharedVault(blobs, tmp_path, KEYS)
    vault.put(record_of())
    (name,) = (n for n in blobs.names("vault") if n.endswith(f"/{UID}.miad"))
    octets = bytearray(blobs.read(name))
    octets[-1] ^= 1
    blobs.put(name, bytes(octets))
    with pytest.raises(InvalidSeal):
        vault.get(UID)


def test_the_anchor_only_goes_forward_for_all(blobs: ObjectBlobs) -> None:
    first, second = (SharedAnchor(blobs, str) for _ in range(2))
    assert first.read() is None
    first.advance({"grants": (2, "b")})
    second.advance({"grants": (1, "a"), "releases": (1, "c")})
    assert first.read() == {"grants": (2, "b"), "releases": (1, "c")}
    blobs.put("access/anchor.json", b"{}")
    with pytest.raises(AccessTampered):
        first.read()


def test_a_spooled_file_is_closed_and_gone_once_it_is_an_object(
    blobs: ObjectBlobs, tmp_path: Path
) -> None:
    path = tmp_path / "one.part"
    file = WholeFile(path)
    file.write(b"x")
    blobs.adopt(file, path, "one")
    assert file.closed
    assert not path.exists()


def test_heads_are_replaced_and_the_rest_stays(
    store: FileStore, blobs: ObjectBlobs
) -> None:
    kept = store.write_original(b"y" * 700_000, META)
    name = f"store/{kept.path}"
    whole = blobs.read(name)
    assert key_ids(blobs.start(name)) == {KEYS.key_id}
    blobs.replace_start(name, bytes(START))
    assert blobs.read(name) == bytes(START) + whole[START:]


# Rotation over it


def test_a_rotation_puts_every_object_under_the_new_key(
    store: FileStore, blobs: ObjectBlobs, tmp_path: Path
) -> None:
    new = LocalMasterKey(b"n" * 32)
    kept = store.write_original(b"z" * 600_000, META)
    secrets_of(blobs, tmp_path).get("index.key", 32)
    SharedVault(blobs, tmp_path, KEYS).put(record_of())
    SharedVault(blobs, tmp_path, KEYS).put(record_of("2.25.99"))
    SharedVault(blobs, tmp_path, KEYS).erase("2.25.99")
    outcome = Rewrapped(key_id=new.key_id)

    rewrap_objects(blobs, Both(new, KEYS), outcome)

    assert (outcome.rewrapped, outcome.failures) == (3, [])
    census = Census()
    count_objects(census, blobs)
    assert (dict(census.under), census.damaged) == ({new.key_id: 3}, [])
    only_new = FileStore(tmp_path / "store", new, STORE_SECRET, blobs)
    assert only_new.read_data_set(kept.path)[0] == b"z" * 600_000
    assert open_objects(blobs, new, new.key_id, 100) == 3
    assert same(SharedVault(blobs, tmp_path, new).get(UID), record_of())


def test_an_object_under_an_unknown_key_is_left_and_told(
    store: FileStore, blobs: ObjectBlobs
) -> None:
    kept = store.write_original(b"z", META)
    before = blobs.read(f"store/{kept.path}")
    outcome = Rewrapped(key_id="")

    rewrap_objects(blobs, LocalMasterKey(b"o" * 32), outcome)

    assert [failure.path.as_posix() for failure in outcome.failures] == [
        f"store/{kept.path}"
    ]
    assert blobs.read(f"store/{kept.path}") == before


def test_an_object_of_a_known_uid_is_set_aside(store: FileStore) -> None:
    kept = store.write_original(b"other", META)

    aside = store.set_aside(kept.path)

    assert aside.startswith("conflicts/")
    assert store.read_data_set(aside)[0] == b"other"
    assert not store.exists(kept.path)
    assert store.set_aside(kept.path) == aside  # another took it there
    store.remove(aside)
    with pytest.raises(FileNotFoundError):
        store.set_aside(kept.path)


def test_a_file_that_comes_again_is_not_destroyed(
    blobs: ObjectBlobs, tmp_path: Path
) -> None:
    """Whoever destroys decides under the lock under which a row is put back."""
    store = FileStore(tmp_path / "store", KEYS, STORE_SECRET, blobs)
    path = store.write_original(b"octets", META).path
    assert store.size(path) > len(b"octets")
    decided = threading.Event()

    def put_back() -> None:
        with store.putting_back(path):
            decided.set()

    with ThreadPoolExecutor(1) as pool:
        with store.taking_away(path):
            back = pool.submit(put_back)
            store.destroy(path)
            assert not decided.is_set()
            assert store.size(path) == 0
        with pytest.raises(StoreUnavailable, match="once more"):
            back.result()
    assert not decided.is_set()
    store.write_original(b"octets", META)
    put_back()
    assert decided.is_set()


@pytest.mark.parametrize("is_shared", [True, False])
def test_all_received_octets_of_an_object_are_destroyed(
    blobs: ObjectBlobs, tmp_path: Path, is_shared: bool
) -> None:
    shared = blobs if is_shared else None
    store = FileStore(tmp_path / "store", KEYS, STORE_SECRET, shared)
    named = store.write_original(b"named", META).path
    stray = store.write_original(b"stray", META).path
    aside = store.set_aside(store.write_original(b"aside", META).path)
    other = store.write_original(b"other", replace(META, sop_instance_uid="1.2.4")).path

    store.destroy_others([named, ""])

    assert [store.exists(one) for one in (named, stray, aside)] == 3 * [False]
    assert store.exists(other)
