"""Sealed records: what opens them, and everything that must not."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigurationError
from gateway.errors import InvalidSeal, RecordMissing, StoreFull
from gateway.sealing.master import WRAPPED_LENGTH, FileMasterKey, LocalMasterKey
from gateway.sealing.secretfile import load_or_create
from gateway.vault.container import encode_record
from gateway.vault.record import KeyRecord, RecordLink
from gateway.vault.seal import HEAD, seal, unseal
from gateway.vault.vault import Vault, open_vault
from tests.gateway.object_cases import example_record

UID = "2.25.1234"


@pytest.fixture
def master(tmp_path: Path) -> FileMasterKey:
    return FileMasterKey(tmp_path / "master.key")


def record_of(uid: str = UID) -> KeyRecord:
    record = example_record("key")
    return replace(record, parts=(replace(record.parts[0], uid=uid),))


def record_of_two(*uids: str) -> KeyRecord:
    record = example_record("whole")
    parts = tuple(replace(record.parts[0], uid=uid) for uid in uids)
    return replace(record, parts=parts, marks=record.marks * len(parts))


def same(first: KeyRecord | RecordLink, second: KeyRecord | RecordLink) -> bool:
    return encode_record(first) == encode_record(second)


def test_sealed_record_opens(master: FileMasterKey) -> None:
    record = record_of()
    assert same(unseal(seal(record, master), UID, master), record)


def test_two_seals_of_a_record_share_nothing(master: FileMasterKey) -> None:
    first, second = seal(record_of(), master), seal(record_of(), master)
    start = HEAD.size + HEAD.unpack_from(first)[2]
    assert first[:start] == second[:start]
    assert first[start:] != second[start:]


def test_nothing_of_the_key_is_readable(master: FileMasterKey) -> None:
    sealed = seal(record_of(), master)
    assert b"logo_sha256" not in sealed
    assert b"alpha" not in sealed


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(SEALED)
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidSeal):
        unseal(bytes(sealed), UID, MemoryMaster)


@given(st.integers(0, 4000))
def test_any_cut_is_noticed(length: int) -> None:
    if length < len(SEALED):
        with pytest.raises(InvalidSeal):
            unseal(SEALED[:length], UID, MemoryMaster)


MemoryMaster = LocalMasterKey(b"m" * 32)
SEALED = seal(record_of(), MemoryMaster)


@pytest.mark.parametrize(
    "altered",
    [
        SEALED + b"\0",
        b"",
        b"MIADSEAL",
        SEALED[: HEAD.size] + b"{}" + SEALED[HEAD.size + 2 :],
        HEAD.pack(b"MIADSEAL", 2, HEAD.unpack_from(SEALED)[2]) + SEALED[HEAD.size :],
        HEAD.pack(b"MIADSEAL", 1, 1 << 31) + SEALED[HEAD.size :],
    ],
)
def test_other_octets_are_refused(altered: bytes) -> None:
    with pytest.raises(InvalidSeal):
        unseal(altered, UID, MemoryMaster)


def test_another_binding_is_refused() -> None:
    """The readable part can be edited, but then the seal does not open."""
    length = HEAD.unpack_from(SEALED)[2]
    binding = json.loads(SEALED[HEAD.size : HEAD.size + length])
    for keyword in binding:
        text = json.dumps({**binding, keyword: "9"}, sort_keys=True).encode()
        forged = HEAD.pack(b"MIADSEAL", 1, len(text)) + text
        with pytest.raises(InvalidSeal):
            unseal(forged + SEALED[HEAD.size + length :], UID, MemoryMaster)


def test_every_failure_says_the_same() -> None:
    messages = set()
    flipped = SEALED[:-1] + bytes([SEALED[-1] ^ 1])
    for octets, uid, master in (
        (flipped, UID, MemoryMaster),
        (SEALED, "2.25.9", MemoryMaster),
        (SEALED, UID, LocalMasterKey(b"n" * 32)),
        (b"", UID, MemoryMaster),
    ):
        with pytest.raises(InvalidSeal) as refused:
            unseal(octets, uid, master)
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_master_key_wraps_in_sixty_octets(master: FileMasterKey) -> None:
    wrapped = master.wrap(b"d" * 32, b"context")
    assert len(wrapped) == WRAPPED_LENGTH == 60
    assert master.unwrap(wrapped, b"context") == b"d" * 32
    with pytest.raises(InvalidSeal):
        master.unwrap(wrapped, b"other")


# The vault on disk


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault(tmp_path / "vault", tmp_path / "secrets" / "master.key")


def sealed_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "vault").rglob("*") if path.is_file()]


def test_put_and_get(vault: Vault, tmp_path: Path) -> None:
    assert not vault.has(UID)
    vault.put(record_of())
    assert vault.has(UID)
    assert same(vault.get(UID), record_of())
    (path,) = sealed_files(tmp_path)
    assert path.name == f"{UID}.miad"
    assert path.stat().st_mode & 0o777 == 0o600


def test_put_again_replaces_whole(vault: Vault, tmp_path: Path) -> None:
    vault.put(record_of())
    vault.put(replace(record_of(), original_name="again.dcm"))
    assert vault.get(UID).original_name == "again.dcm"
    assert len(sealed_files(tmp_path)) == 1


def test_every_object_of_an_original_leads_to_its_record(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put(record_of_two("2.25.1", "2.25.2"))
    assert len(sealed_files(tmp_path)) == 2
    assert same(vault.get("2.25.2"), vault.get("2.25.1"))
    assert vault.has("2.25.2")


def test_a_link_leads_nowhere_but_to_the_record_that_names_it(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put(record_of_two("2.25.1", "2.25.2"))
    vault.put(record_of_two("2.25.3", "2.25.4"))
    first, second = (next(tmp_path.rglob(f"2.25.{n}.miad")) for n in (2, 4))
    second.write_bytes(first.read_bytes())
    with pytest.raises(InvalidSeal):
        vault.get("2.25.4")
    vault.put(record_of("2.25.1"))  # made again, of one object
    with pytest.raises(InvalidSeal):
        vault.get("2.25.2")
    next(tmp_path.rglob("2.25.1.miad")).unlink()
    with pytest.raises(RecordMissing):
        vault.get("2.25.2")


def test_missing_record(vault: Vault) -> None:
    with pytest.raises(RecordMissing):
        vault.get("2.25.7")


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2/3", "1" * 65, "1.2\n"])
def test_names_that_are_no_uids(vault: Vault, uid: str) -> None:
    with pytest.raises(RecordMissing):
        vault.get(uid)
    with pytest.raises(RecordMissing):
        vault.put(record_of(uid))


def test_swapped_records_do_not_open(vault: Vault, tmp_path: Path) -> None:
    vault.put(record_of("2.25.1"))
    vault.put(record_of("2.25.2"))
    first = next(tmp_path.rglob("2.25.1.miad"))
    second = next(tmp_path.rglob("2.25.2.miad"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(InvalidSeal):
        vault.get("2.25.2")


def test_another_master_key_opens_nothing(vault: Vault, tmp_path: Path) -> None:
    vault.put(record_of())
    with pytest.raises(InvalidSeal):
        open_vault(tmp_path / "vault", tmp_path / "other" / "master.key").get(UID)


def test_full_disk_keeps_the_earlier_record(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.put(record_of())

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull):
        vault.put(replace(record_of(), original_name="later.dcm"))
    monkeypatch.undo()
    assert vault.get(UID).original_name == record_of().original_name
    assert len(sealed_files(tmp_path)) == 1


# Secrets


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_secrets_others_can_reach_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    FileMasterKey(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        FileMasterKey(path)


def test_secret_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.touch(mode=0o600)
    with pytest.raises(ConfigurationError, match="0 octets instead of 32"):
        FileMasterKey(path)


def test_secret_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("a file")
    with pytest.raises(ConfigurationError):
        FileMasterKey(tmp_path / "secrets" / "master.key")


def test_secrets_are_made_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "master.key"
    load_or_create(path, 32)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["master.key"]


def test_all_who_start_at_once_get_one_secret(tmp_path: Path) -> None:
    path, found = tmp_path / "uid.key", []
    start = threading.Barrier(8)

    def load() -> None:
        start.wait()
        found.append(load_or_create(path, 32))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
