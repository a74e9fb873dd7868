"""Sealed records: what opens them, and everything that must not."""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigurationError
from gateway.errors import InvalidSeal, RecordMissing, StoreFull
from gateway.sealing.envelope import sealed_under
from gateway.sealing.head import FIXED, SLOT, START, new_head, read_head
from gateway.sealing.master import WRAPPED_LENGTH, FileMasterKey, LocalMasterKey
from gateway.sealing.secretfile import load_or_create
from gateway.vault.container import encode_record
from gateway.vault.record import KeyRecord, RecordLink, links_of
from gateway.vault.seal import seal, seal_encoded, unseal
from gateway.vault.vault import Vault, open_vault
from tests.gateway.object_cases import example_record
from tests.gateway.test_sealing_slots import Both

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
    binding = read_head(first).context_length
    for sealed in (first, second):
        assert json.loads(sealed[START : START + binding])["protected_uid"] == UID
    assert first[START + binding :] != second[START + binding :]
    assert first[FIXED.size : START] != second[FIXED.size : START]
    with pytest.raises(InvalidSeal):  # nor can slots be taken over
        unseal(first[: FIXED.size] + second[FIXED.size :], UID, master)


def test_nothing_of_the_key_is_readable(master: FileMasterKey) -> None:
    sealed = seal(record_of(), master)
    assert b"logo_sha256" not in sealed
    assert b"alpha" not in sealed


SPARE_SLOT = range(FIXED.size + SLOT.size, START)
"""Empty but during rotation: what stands there opens nothing and changes nothing."""


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(SEALED)
    places = st.integers(0, len(sealed) - 1).filter(lambda at: at not in SPARE_SLOT)
    sealed[data.draw(places)] ^= 1 << data.draw(st.integers(0, 7))
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
        SEALED[:START] + b"{}" + SEALED[START + 2 :],
        SEALED[:8] + b"\1" + SEALED[9:],
        SEALED[:8] + b"\3" + SEALED[9:],
        SEALED[:16] + b"\xff\xff\xff\x7f" + SEALED[20:],
    ],
)
def test_other_octets_are_refused(altered: bytes) -> None:
    with pytest.raises(InvalidSeal):
        unseal(altered, UID, MemoryMaster)


def test_another_binding_is_refused() -> None:
    """The readable part can be edited, but then the seal does not open."""
    head = read_head(SEALED)
    rest = START + head.context_length
    binding = json.loads(SEALED[START:rest])
    for keyword in binding:
        text = json.dumps({**binding, keyword: "9"}, sort_keys=True).encode()
        forged = new_head(text, head.chunk).fixed + SEALED[FIXED.size : START] + text
        with pytest.raises(InvalidSeal):
            unseal(forged + SEALED[rest:], UID, MemoryMaster)


def test_a_record_bound_to_another_object_is_refused() -> None:
    """Whoever has the key and errs: the binding has to be the record's own."""
    record, other = record_of("2.25.1"), record_of("2.25.2")
    sealed = seal_encoded(encode_record(record), other, MemoryMaster)
    for uid in ("2.25.1", "2.25.2"):
        with pytest.raises(InvalidSeal):
            unseal(sealed, uid, MemoryMaster)


def test_every_failure_of_a_seal_says_the_same() -> None:
    messages = set()
    for at in (10, 20, 70, 100, -1):
        flipped = bytearray(SEALED)
        flipped[at] ^= 1
        with pytest.raises(InvalidSeal) as refused:
            unseal(bytes(flipped), UID, MemoryMaster)
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_a_key_that_is_not_at_hand_is_named() -> None:
    with pytest.raises(InvalidSeal, match=MemoryMaster.key_id) as refused:
        unseal(SEALED, UID, LocalMasterKey(b"n" * 32))
    assert "vault.previous_keys" in str(refused.value)


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


def test_any_flipped_octet_on_disk_is_noticed_by_name(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put(record_of())
    (path,) = sealed_files(tmp_path)
    sealed = path.read_bytes()
    for at in (0, 8, 30, 80, 130, START + 3, len(sealed) // 2, len(sealed) - 1):
        path.write_bytes(sealed[:at] + bytes([sealed[at] ^ 4]) + sealed[at + 1 :])
        with pytest.raises(InvalidSeal, match=f"record of {UID}: "):
            vault.get(UID)


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


# Rotation and erasure


OLD, NEW = LocalMasterKey(b"o" * 32), LocalMasterKey(b"n" * 32)


def vault_under(tmp_path: Path, *keys: LocalMasterKey) -> Vault:
    return Vault(tmp_path / "vault", Both(*keys))


def test_records_are_listed_without_drafts(tmp_path: Path) -> None:
    vault = vault_under(tmp_path, OLD)
    assert list(vault.paths()) == []
    vault.put(record_of_two("2.25.1", "2.25.2"))
    vault.put(record_of("2.25.3"))
    (next(vault.paths()).parent / ".2.25.9.miad.0123").write_bytes(b"draft")
    (next(vault.paths()).parent / ".2.25.9.miad").write_bytes(b"draft")
    assert sorted(path.name for path in vault.paths()) == [
        "2.25.1.miad",
        "2.25.2.miad",
        "2.25.3.miad",
    ]


def test_records_go_under_a_new_key(tmp_path: Path) -> None:
    vault_under(tmp_path, OLD).put(record_of_two("2.25.1", "2.25.2"))
    rotating = vault_under(tmp_path, NEW, OLD)
    assert [rotating.rewrap(path) for path in rotating.paths()] == [True, True]
    assert [rotating.rewrap(path) for path in rotating.paths()] == [False, False]
    after = vault_under(tmp_path, NEW)
    assert same(after.get("2.25.2"), record_of_two("2.25.1", "2.25.2"))
    for path in after.paths():
        assert sealed_under(path) == {NEW.key_id}


def sealed_before(record: KeyRecord | RecordLink, key: bytes) -> bytes:
    """Seal as the release did that wrote version 1."""
    binding = {
        "version": 1,
        "protected_uid": record.protected_uid,
        "original_uid": record.original_uid,
        "sop_class_uid": record.sop_class_uid,
        "transfer_syntax_uid": record.transfer_syntax_uid,
        "original_sha256": record.original_sha256,
    }
    text = json.dumps(binding, sort_keys=True, separators=(",", ":")).encode()
    context = struct.pack("<8sBI", b"MIADSEAL", 1, len(text)) + text
    data_key, nonce = b"d" * 32, b"n" * 12
    sealed = AESGCM(data_key).encrypt(nonce, encode_record(record), context)
    return context + LocalMasterKey(key).wrap(data_key, context) + nonce + sealed


def vault_of_before(tmp_path: Path) -> KeyRecord:
    """Fill a vault with a record of version 1 and its link."""
    record = record_of_two("2.25.1", "2.25.2")
    vault = vault_under(tmp_path, OLD)
    vault.put(record)
    for path in vault.paths():
        uid = path.name.removesuffix(".miad")
        one = record if uid == "2.25.1" else links_of(record)[0]
        path.write_bytes(sealed_before(one, b"o" * 32))
    return record


def test_records_of_version_1_are_read_under_any_known_key(tmp_path: Path) -> None:
    record = vault_of_before(tmp_path)
    for keys in ((OLD,), (NEW, OLD)):
        assert same(vault_under(tmp_path, *keys).get("2.25.2"), record)
    with pytest.raises(InvalidSeal):
        vault_under(tmp_path, NEW).get("2.25.1")


def test_records_of_version_1_become_version_2(tmp_path: Path) -> None:
    record = vault_of_before(tmp_path)
    rotating = vault_under(tmp_path, NEW, OLD)
    assert [rotating.rewrap(path) for path in rotating.paths()] == [True, True]
    for path in rotating.paths():
        assert sealed_under(path) == {NEW.key_id}
    assert same(vault_under(tmp_path, NEW).get("2.25.2"), record)


@given(st.data())
def test_any_flipped_bit_of_version_1_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(OF_BEFORE)
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidSeal):
        unseal(bytes(sealed), UID, OLD)


OF_BEFORE = sealed_before(record_of(), b"o" * 32)


def test_a_damaged_record_of_version_1_is_not_rewritten(tmp_path: Path) -> None:
    vault_of_before(tmp_path)
    rotating = vault_under(tmp_path, NEW, OLD)
    path = next(rotating.paths())
    damaged = path.read_bytes()[:-1] + b"\0"
    path.write_bytes(damaged)
    with pytest.raises(InvalidSeal):
        rotating.rewrap(path)
    assert path.read_bytes() == damaged
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_rotation_that_passes_while_a_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed under the old key, but named after rotation looked at its folder."""
    keys = Both(OLD, NEW)
    vault = Vault(tmp_path / "vault", keys)
    replace_ = Path.replace

    def rotate_first(draft: Path, path: Path) -> Path:
        keys.keys = (NEW, OLD)
        return replace_(draft, path)

    monkeypatch.setattr(Path, "replace", rotate_first)
    vault.put(record_of())
    assert [sealed_under(path) for path in vault.paths()] == [{NEW.key_id}]


@pytest.mark.parametrize("asked", ["2.25.1", "2.25.2", "2.25.3"])
def test_erased_records_are_gone_with_their_links(tmp_path: Path, asked: str) -> None:
    vault = vault_under(tmp_path, OLD)
    vault.put(record_of_two("2.25.1", "2.25.2", "2.25.3"))
    vault.put(record_of("2.25.4"))
    kept = [path.with_suffix(".kept") for path in vault.paths()]
    for path, copy in zip(vault.paths(), kept, strict=True):
        copy.hardlink_to(path)  # shows what the disk holds where the file was
    assert set(vault.erase(asked)) == {"2.25.1", "2.25.2", "2.25.3"}
    assert [path.name for path in vault.paths()] == ["2.25.4.miad"]
    for copy in kept:
        uid = copy.name.removesuffix(".kept")
        assert bool(sealed_under(copy)) == (uid == "2.25.4")
        if uid != "2.25.4":
            with pytest.raises(InvalidSeal, match="destroyed"):
                unseal(copy.read_bytes(), uid, OLD)
    with pytest.raises(RecordMissing):
        vault.get(asked)
    with pytest.raises(RecordMissing):
        vault.erase(asked)


@pytest.mark.parametrize("asked", ["2.25.1", "2.25.3"])
@pytest.mark.parametrize("stopped_after", [0, 1, 2])
def test_erasing_may_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, stopped_after: int
) -> None:
    vault = vault_under(tmp_path, OLD)
    vault.put(record_of_two("2.25.1", "2.25.2", "2.25.3"))
    left = [stopped_after]
    unlink = Path.unlink

    def failing(path: Path, missing_ok: bool = False) -> None:
        if not left[0]:
            raise ZeroDivisionError
        left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    with pytest.raises(ZeroDivisionError):
        vault.erase(asked)
    monkeypatch.undo()
    vault.erase(asked)
    assert list(vault.paths()) == []


def test_what_does_not_open_can_be_erased(tmp_path: Path) -> None:
    """Its keys were lost: what is left of it may still have to go."""
    vault_of_before(tmp_path)
    vault = vault_under(tmp_path, NEW)
    first, second = sorted(vault.paths(), key=lambda path: path.name)
    copy = first.with_suffix(".kept")
    copy.hardlink_to(first)
    assert vault.erase("2.25.1") == ("2.25.1",)
    assert set(copy.read_bytes()) == {0}
    second.write_bytes(b"damaged")
    assert vault.erase("2.25.2") == ("2.25.2",)
    assert list(vault.paths()) == []
