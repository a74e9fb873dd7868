"""The store at rest: sealed, under names that tell nothing, found when altered."""

from __future__ import annotations

import hashlib
import os
import stat
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.dicom.header import read_attributes
from gateway.errors import ConfigurationError, StoredObjectDamaged
from gateway.sealing.master import LocalMasterKey
from gateway.store.convert import seal_clear_files
from gateway.store.files import CONFLICTS, FileStore, StoredFile
from gateway.store.index import Index, open_index
from gateway.store.names import Names
from gateway.store.part10 import FileMeta, encode_head
from gateway.store.stream import CHUNK_BYTES
from tests.gateway.stored import (
    INDEX_KEY,
    MASTER_KEY,
    STORE_SECRET,
    a_store,
    content_of,
    flip,
)
from tests.gateway.test_index import new, protected_of

META = FileMeta(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uid="1.2.3.4",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
)
OTHER = FileMeta(
    sop_class_uid=META.sop_class_uid,
    sop_instance_uid="1.2.3.5",
    transfer_syntax_uid=META.transfer_syntax_uid,
)
MARK = b"Muster^Anna Luise"
DATA = b"".join(b"%s %08d" % (MARK, number) for number in range(24_000))  # 600 KB


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return a_store(tmp_path / "store")


def octets_of(store: FileStore) -> bytes:
    return b"".join(p.read_bytes() for p in store.root.rglob("*") if p.is_file())


def names_of(store: FileStore) -> str:
    return " ".join(path.name for path in store.root.rglob("*"))


# Nothing in clear


def test_no_octet_of_an_object_is_on_the_disk_at_any_time(store: FileStore) -> None:
    with store.begin_original(META) as writer:
        for start in range(0, len(DATA), 15_000):
            writer.write(DATA[start : start + 15_000])
            assert MARK not in octets_of(store)
        assert len(octets_of(store)) > 400_000  # before its end
        with writer.open() as written:
            assert written.read() == encode_head(META) + DATA
        assert MARK not in octets_of(store)
        stored = writer.commit()
    store.write_protected("2.25.1", DATA)
    found = octets_of(store)
    assert len(found) > 2 * len(DATA)
    for clear in (MARK, b"DICM", b"1.2.3.4", bytes(200)):
        assert clear not in found
    assert store.read_data_set(stored.path) == (DATA, META.transfer_syntax_uid)


def test_names_confirm_no_image_and_no_uid(store: FileStore) -> None:
    store.write_original(DATA, META)
    store.write_protected("2.25.77", DATA)
    names = names_of(store)
    part10 = encode_head(META) + DATA
    for known in (DATA, part10, b"1.2.3.4", b"2.25.77"):
        assert hashlib.sha256(known).hexdigest()[:16] not in names
    assert "2.25.77" not in names
    other = FileStore(store.root, LocalMasterKey(MASTER_KEY), b"x" * 32)
    assert other.write_original(DATA, META).path not in names
    with pytest.raises(ValueError, match="32 octets"):
        Names(b"short")


def test_everything_is_for_its_owner_only(store: FileStore) -> None:
    mask = os.umask(0)
    try:
        fresh = a_store(store.root / "below" / "store")
        with fresh.begin_original(META) as writer:
            writer.write(DATA)
            (draft,) = (fresh.root / "incoming").iterdir()
            assert stat.S_IMODE(draft.stat().st_mode) == 0o600
            writer.commit()
        fresh.write_protected("2.25.77", DATA)
    finally:
        os.umask(mask)
    paths = [store.root / "below", *(store.root / "below").rglob("*")]
    modes = {(p.is_dir(), stat.S_IMODE(p.stat().st_mode)) for p in paths}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_another_master_key_opens_nothing(store: FileStore) -> None:
    stored = store.write_original(DATA, META)
    other = FileStore(store.root, LocalMasterKey(b"o" * 32), STORE_SECRET)
    with pytest.raises(StoredObjectDamaged, match="not at hand") as refused:
        other.read_data_set(stored.path)
    assert stored.path in str(refused.value)
    assert MASTER_KEY.hex() not in str(refused.value)


# Altered


@pytest.mark.parametrize("at", [0, 9, 40, 100, 209, 300, 70_000, 150_000, -1])
def test_one_flipped_bit_is_damage_by_name(store: FileStore, at: int) -> None:
    stored = store.write_original(DATA, META)
    flip(store, stored.path, at)
    with pytest.raises(StoredObjectDamaged) as refused:
        store.read_data_set(stored.path)
    assert stored.path in str(refused.value)
    with pytest.raises(StoredObjectDamaged):
        store.digest(stored.path)


@pytest.mark.parametrize("cut", [1, 16, 65_552, 150_000])
def test_a_cut_file_is_damage(store: FileStore, cut: int) -> None:
    stored = store.write_original(DATA, META)
    path = store.path_of(stored.path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StoredObjectDamaged, match="cannot be read"):
        store.read_data_set(stored.path)


def test_sealed_files_cannot_be_swapped(store: FileStore) -> None:
    one = store.write_original(DATA, META).path
    two = store.write_original(DATA[:-1], OTHER).path
    three = store.write_protected("2.25.1", DATA).path
    four = store.write_protected("2.25.2", DATA).path
    for victim, taken in ((one, two), (three, four), (one, three), (three, one)):
        kept = store.path_of(victim).read_bytes()
        store.path_of(victim).write_bytes(store.path_of(taken).read_bytes())
        with pytest.raises(StoredObjectDamaged, match="seal of another file"):
            store.open(victim)
        store.path_of(victim).write_bytes(kept)
        store.digest(victim)


def test_a_clear_file_in_place_of_a_sealed_one_is_refused(store: FileStore) -> None:
    stored = store.write_original(DATA, META)
    store.path_of(stored.path).write_bytes(encode_head(META) + DATA)
    with pytest.raises(StoredObjectDamaged, match="cannot be read"):
        store.open(stored.path)


class NoKeys(LocalMasterKey):
    """Keys whose source is gone."""

    def current(self) -> LocalMasterKey:
        raise ConfigurationError("no master key")


def test_without_a_master_key_nothing_is_received(store: FileStore) -> None:
    closed = FileStore(store.root, NoKeys(MASTER_KEY), STORE_SECRET)
    with pytest.raises(ConfigurationError, match="no master key"):
        closed.begin_original(META)
    assert [p for p in store.root.rglob("*") if p.is_file()] == []


# Streams


def test_a_stored_file_is_read_where_it_is_asked_for(store: FileStore) -> None:
    stored = store.write_original(DATA, META)
    whole = encode_head(META) + DATA
    with store.open(stored.path) as stream:
        assert stream.seek(-100, os.SEEK_END) == len(whole) - 100
        assert stream.read() == whole[-100:]
        stream.seek(65_000)
        assert stream.read(70_000) == whole[65_000:135_000]
        buffer = bytearray(10)
        stream.seek(5)
        assert stream.readinto(buffer) == 10  # type: ignore[attr-defined]
        assert bytes(buffer) == whole[5:15]


def test_attributes_behind_a_large_value_are_read_from_the_draft(
    store: FileStore,
) -> None:
    """Not from a kept head: what comes before may be longer than any."""
    from pydicom import Dataset
    from pydicom.filewriter import dcmwrite

    from tests.gateway.scp import encoded, small

    dataset: Dataset = small()
    dataset.add_new(0x00091001, "OB", bytes(3 << 20))
    dataset.add_new(0x00090010, "LO", "LARGE")
    dataset.InstanceNumber = 42
    item = encoded(dataset)
    assert isinstance(item.data, bytes)
    del dcmwrite
    with store.begin_original(META) as writer:
        writer.write(item.data)
        tracemalloc.start()
        with writer.open() as written:
            known = read_attributes(written, item.transfer_syntax_uid)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert known.instance_number == "42"
        assert peak < 1 << 20
        writer.commit()


def test_digest_and_sealing_hold_pieces_only(store: FileStore) -> None:
    data = os.urandom(24 << 20)
    stored = store.write_original(data, META)
    tracemalloc.start()
    assert store.digest(stored.path, data_set=True) == stored.sha256
    _, digesting = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    assert store.read_data_set(stored.path)[0] == data
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert digesting < 4 * CHUNK_BYTES
    assert reading < 1.3 * len(data)


# Clear files of an earlier build


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    yield opened
    opened.close()


def clear_file(store: FileStore, kind: str, name: str, content: bytes) -> str:
    """A file as version 0.1 named and wrote it."""
    relative = f"{kind}/{hashlib.sha256(name.encode()).hexdigest()[:2]}/{name}.dcm"
    path = store.path_of(relative)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return relative


def clear_store(store: FileStore, index: Index) -> dict[str, tuple[str, bytes]]:
    """An original, a conflict, a protected object and one that no row names."""
    part10 = encode_head(META) + DATA
    conflict = encode_head(META) + DATA[:-1]
    digests = [hashlib.sha256(d).hexdigest() for d in (DATA, DATA[:-1])]
    syntax = META.transfer_syntax_uid
    paths = {
        "original": (clear_file(store, "originals", f"{digests[0]}.{syntax}", part10)),
        "conflict": clear_file(store, CONFLICTS, f"{digests[1]}.{syntax}", conflict),
        "protected": clear_file(store, "protected", "2.25.1", part10),
        "orphan": clear_file(store, "originals", f"{'0' * 64}.{syntax}", b"no head"),
    }
    row = new(4, sha256=digests[0], path=paths["original"])
    index.add_instance(row)
    index.add_conflict(new(4, sha256=digests[1], path=paths["conflict"]))
    index.add_protected(protected_of(1, path=paths["protected"]))
    contents = (part10, conflict, part10, b"no head")
    return {k: (p, c) for (k, p), c in zip(paths.items(), contents, strict=True)}


def rows_of(index: Index) -> dict[str, str]:
    instance = index.instance("1.2.3.4")
    protected = index.protected_of(1)
    assert instance is not None
    assert protected is not None
    (conflict,) = index.conflicts_of("1.2.3.4")
    return {
        "original": instance.path,
        "conflict": conflict.path,
        "protected": protected.path,
    }


def check_sealed(
    store: FileStore, index: Index, files: dict[str, tuple[str, bytes]]
) -> None:
    for kind, path in rows_of(index).items():
        assert content_of(store, path) == files[kind][1]
    assert store.read_protected("2.25.1") == files["protected"][1]
    assert store.read_data_set(rows_of(index)["original"])[0] == DATA
    assert MARK not in octets_of(store)
    assert b"no head" not in octets_of(store)
    assert ".dcm" not in names_of(store)
    assert len([p for p in store.root.rglob("*") if p.is_file()]) == 4


def test_clear_files_are_sealed_and_their_rows_move_on(
    store: FileStore, index: Index
) -> None:
    files = clear_store(store, index)
    assert seal_clear_files(store, index) == 4
    check_sealed(store, index, files)
    assert seal_clear_files(store, index) == 0
    again = store.write_original(DATA, META)
    assert again.path == rows_of(index)["original"]


class CutOff(Exception):
    """The power fails."""


@contextmanager
def failing_at(step: int) -> Iterator[None]:
    """Fail at one of the three changes that are made for each file."""
    count = 0

    def counted(work: object) -> object:
        def run(*args: object, **more: object) -> object:
            nonlocal count
            if count == step:
                raise CutOff
            count += 1
            return work(*args, **more)  # type: ignore[operator]

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileStore, "seal", counted(FileStore.seal))
        patch.setattr(Index, "rename_file", counted(Index.rename_file))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        yield


@pytest.mark.parametrize("step", range(9))
def test_sealing_cut_off_anywhere_goes_on_from_there(
    store: FileStore, index: Index, step: int
) -> None:
    files = clear_store(store, index)
    with failing_at(step), pytest.raises(CutOff):
        seal_clear_files(store, index)
    for kind, path in rows_of(index).items():  # nothing is lost meanwhile
        clear = store.path_of(path)
        known = clear.read_bytes() if path.endswith(".dcm") else content_of(store, path)
        assert known == files[kind][1]
    seal_clear_files(store, index)
    check_sealed(store, index, files)


def test_what_does_not_come_back_keeps_its_clear_file(
    store: FileStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = clear_store(store, index)
    monkeypatch.setattr(FileStore, "digest", lambda *_: "other")
    with pytest.raises(StoredObjectDamaged, match="not what was sealed"):
        seal_clear_files(store, index)
    for relative, content in files.values():
        assert store.path_of(relative).read_bytes() == content


def test_a_part10_file_is_what_pydicom_reads(store: FileStore) -> None:
    from tests.gateway.scp import example

    item = example("MR_small.dcm")
    assert isinstance(item.data, bytes)
    meta = FileMeta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
    )
    stored: StoredFile = store.write_original(item.data, meta)
    with store.open(stored.path) as stream:
        dataset = dcmread(stream, stop_before_pixels=True)
    assert dataset.SOPInstanceUID == item.sop_instance_uid
    assert "PixelData" not in dataset
    assert dcmread(BytesIO(content_of(store, stored.path))).pixel_array.shape == (
        64,
        64,
    )
