from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.errors import InvalidObject, StoredObjectDamaged, StoreFull
from gateway.store.files import FileStore, write_durably
from gateway.store.part10 import FileMeta, check_uid, read_head
from tests.gateway.scp import example
from tests.gateway.stored import a_store, content_of, put_in_place

META = FileMeta(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uid="1.2.3.4",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return a_store(tmp_path / "store")


def files_of(store: FileStore) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if path.is_file())


@contextmanager
def no_room_above(size: int) -> Iterator[None]:
    """The operating system refuses to let any file grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_stored_original_is_a_part10_file_around_the_bytes_received(
    store: FileStore,
) -> None:
    item = example("MR_small.dcm")
    assert isinstance(item.data, bytes)
    meta = FileMeta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
    )
    stored = store.write_original(item.data, meta)
    assert stored.sha256 == hashlib.sha256(item.data).hexdigest()
    assert stored.size_bytes == len(item.data)
    assert store.read_data_set(stored.path) == (item.data, item.transfer_syntax_uid)
    dataset = dcmread(BytesIO(content_of(store, stored.path)))
    assert dataset.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
    assert dataset.pixel_array.shape == (64, 64)


def test_the_same_bytes_are_one_file_and_two_syntaxes_are_two(store: FileStore) -> None:
    first = store.write_original(b"same", META)
    again = store.write_original(b"same", META)
    implicit = FileMeta(
        sop_class_uid=META.sop_class_uid,
        sop_instance_uid=META.sop_instance_uid,
        transfer_syntax_uid="1.2.840.10008.1.2",
    )
    other = store.write_original(b"same", implicit)
    assert first == again
    assert other.path != first.path
    assert len(files_of(store)) == 2


def test_writers_of_the_same_bytes_at_once_leave_one_whole_file(
    store: FileStore,
) -> None:
    data = bytes(range(256)) * 4096
    with ThreadPoolExecutor(8) as pool:
        stored = set(
            pool.map(lambda _: store.write_original(data, META).path, range(16))
        )
    (path,) = stored
    assert store.read_data_set(path)[0] == data
    assert len(files_of(store)) == 1


def test_pieces_make_the_same_file_as_the_whole(store: FileStore) -> None:
    with store.begin_original(META) as writer:
        for piece in (b"abc", memoryview(b"def"), b""):
            writer.write(piece)
        stored = writer.commit()
    assert stored == store.write_original(b"abcdef", META)


def test_a_reception_that_ends_early_leaves_nothing(store: FileStore) -> None:
    with store.begin_original(META) as writer:
        writer.write(b"half")
    assert files_of(store) == []


def test_leftovers_of_a_killed_receiver_are_removed(store: FileStore) -> None:
    kept = store.write_original(b"kept", META)
    (store.root / "incoming" / "0.part").write_bytes(b"cut")
    assert len(files_of(store)) == 2
    assert store.clear_incoming() == 1
    assert files_of(store) == [store.path_of(kept.path)]


def test_a_conflict_is_kept_apart_from_originals(store: FileStore) -> None:
    with store.begin_original(META) as writer:
        writer.write(b"other")
        stored = writer.commit()
    aside = store.set_aside(stored.path)
    assert aside.startswith("conflicts/")
    assert store.read_data_set(aside)[0] == b"other"
    assert files_of(store) == [store.path_of(aside)]


def test_no_room_for_an_original_is_store_full_and_leaves_nothing(
    store: FileStore,
) -> None:
    with no_room_above(100_000), pytest.raises(StoreFull, match="no room"):
        store.write_original(bytes(200_000), META)
    assert files_of(store) == []
    assert store.write_original(bytes(200_000), META).size_bytes == 200_000


def test_no_room_for_a_protected_object_keeps_the_one_before(store: FileStore) -> None:
    store.write_protected("2.25.1", b"before")
    with no_room_above(1000), pytest.raises(StoreFull):
        store.write_protected("2.25.1", bytes(2000))
    assert store.read_protected("2.25.1") == b"before"
    assert len(files_of(store)) == 1


def test_a_protected_object_is_found_under_its_uid(store: FileStore) -> None:
    stored = store.write_protected("2.25.77", b"part 10")
    assert store.read_protected("2.25.77") == b"part 10"
    assert stored.sha256 == hashlib.sha256(b"part 10").hexdigest()
    assert store.write_protected("2.25.77", b"part 10") == stored


@pytest.mark.parametrize(
    "uid", ["", "../../x", "1", "1.2/3", "1.2.3\n", "1..2", ".1.2", "1.2.", "1" * 65]
)
def test_what_is_no_uid_never_becomes_a_path(store: FileStore, uid: str) -> None:
    with pytest.raises(InvalidObject):
        store.write_protected(uid, b"x")
    with pytest.raises(InvalidObject, match="Patient UID is not a valid UID"):
        check_uid(uid, "Patient UID")
    assert files_of(store) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "originals/../../x"])
def test_a_path_out_of_the_store_is_refused(store: FileStore, path: str) -> None:
    with pytest.raises(InvalidObject, match="leads out"):
        store.path_of(path)


def test_a_missing_or_cut_file_is_reported_as_damaged(store: FileStore) -> None:
    stored = store.write_original(b"data", META)
    put_in_place(store, stored.path, content_of(store, stored.path)[:150])
    with pytest.raises(StoredObjectDamaged, match="cut short"):
        store.read_data_set(stored.path)
    store.path_of(stored.path).unlink()
    with pytest.raises(StoredObjectDamaged, match="cannot be read"):
        store.read_data_set(stored.path)


def test_a_file_without_head_is_no_part10_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(200))
    with path.open("rb") as stream, pytest.raises(InvalidObject, match="No Part 10"):
        read_head(stream)


def test_a_durable_write_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
