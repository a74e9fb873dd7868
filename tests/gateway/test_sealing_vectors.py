"""Seals of every version, written once: each later release has to read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import open_bytes, open_envelope
from gateway.sealing.head import key_ids
from gateway.sealing.master import LocalMasterKey
from gateway.vault.container import decode_record, encode_record
from gateway.vault.seal import unseal
from tests.gateway.test_sealing_slots import Both

VECTORS = Path(__file__).parents[1] / "vectors"
SEALS: dict[str, Any] = json.loads((VECTORS / "seal-v2.json").read_text())
MASTER = LocalMasterKey(bytes.fromhex(SEALS["master_key"]))
LATER = LocalMasterKey(bytes.fromhex(SEALS["later_master_key"]))
EXPECTED = (SEALS["context"].encode(), bytes.fromhex(SEALS["content"]))


def octets_of(name: str) -> bytes:
    octets = (VECTORS / SEALS[name]["file"]).read_bytes()
    assert hashlib.sha256(octets).hexdigest() == SEALS[name]["sha256"]
    return octets


def test_an_envelope_of_several_chunks() -> None:
    assert open_bytes(octets_of("chunks"), MASTER) == EXPECTED
    with (VECTORS / SEALS["chunks"]["file"]).open("rb") as stream:
        reader = open_envelope(stream, MASTER)
        reader.seek(70)
        assert reader.read(5) == EXPECTED[1][70:75]


def test_an_envelope_in_rotation_opens_under_either_key() -> None:
    sealed = octets_of("rotating")
    assert key_ids(sealed) == {MASTER.key_id, LATER.key_id}
    for keys in (MASTER, LATER, Both(LATER, MASTER)):
        assert open_bytes(sealed, keys) == EXPECTED


def test_a_sealed_record() -> None:
    expected = SEALS["record"]
    record = unseal(octets_of("record"), expected["protected_uid"], MASTER)
    plain = (VECTORS / expected["record"]).read_bytes()
    assert encode_record(record) == plain == encode_record(decode_record(plain))
    with pytest.raises(InvalidSeal):
        unseal(octets_of("record"), expected["protected_uid"], LATER)


def test_the_octets_are_as_documented() -> None:
    """Opened by hand from docs/record-format.md, with nothing of the product."""
    sealed = octets_of("chunks")
    fixed, slot = sealed[:72], sealed[72:140]
    assert fixed[:12] == b"MIADSEAL\2\0\0\0"
    chunk = int.from_bytes(fixed[12:16], "little")
    length = int.from_bytes(fixed[16:20], "little")
    assert (chunk, sealed[140:208]) == (32, bytes(68))
    context = sealed[208 : 208 + length]
    assert fixed[36:68] == hashlib.sha256(context).digest()
    master = AESGCM(bytes.fromhex(SEALS["master_key"]))
    label = b"MIAD data key 2\0"
    data_key = master.decrypt(slot[8:20], slot[20:], label + slot[:8] + fixed)
    content, body = b"", sealed[208 + length :]
    for number, at in enumerate(range(0, len(body), chunk + 16)):
        last = at + chunk + 16 >= len(body)
        nonce = fixed[20:27] + number.to_bytes(4, "big") + bytes([last])
        piece = body[at : at + chunk + 16]
        content += AESGCM(data_key).decrypt(nonce, piece, fixed)
    assert (context, content) == EXPECTED
