"""Sealed records: AES-256-GCM under a data key of their own.

One error for every way a seal can be wrong, so that trying teaches nothing.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal
from gateway.sealing.master import NONCE_LENGTH, WRAPPED_LENGTH
from gateway.vault.container import decode_record, encode_record

if TYPE_CHECKING:
    from gateway.sealing.master import MasterKey
    from gateway.vault.record import KeyRecord, RecordLink

MAGIC: Final = b"MIADSEAL"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sBI")
"""Magic, version, length of the binding."""

REFUSED: Final = (
    "the sealed record does not open: wrong master key, another object's record, "
    "or altered octets"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """What a seal is bound to; readable, and authenticated as associated data."""

    version: int
    protected_uid: str
    original_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    original_sha256: str


def seal(record: KeyRecord | RecordLink, master: MasterKey) -> bytes:
    """Seal a record, or a link to one, under a new data key.

    Parameters
    ----------
    record
        What to seal.
    master
        Wraps the data key.
    """
    return seal_encoded(encode_record(record), record, master)


def seal_encoded(
    encoded: bytes, record: KeyRecord | RecordLink, master: MasterKey
) -> bytes:
    """Seal a record whose octets are at hand; see `seal`."""
    context = _context(_binding(record))
    data_key = AESGCM.generate_key(bit_length=256)
    nonce = os.urandom(NONCE_LENGTH)
    sealed = AESGCM(data_key).encrypt(nonce, encoded, context)
    return context + master.wrap(data_key, context) + nonce + sealed


def unseal(
    sealed: bytes, protected_uid: str, master: MasterKey
) -> KeyRecord | RecordLink:
    """Open a sealed record, or a link to one.

    Parameters
    ----------
    sealed
        From `seal`.
    protected_uid
        The object whose record this has to be.
    master
        Unwraps the data key.

    Raises
    ------
    InvalidSeal
        In every other case.
    """
    encoded = unseal_encoded(sealed, master)
    try:
        record = decode_record(encoded)
        binding = _read_binding(sealed)
    except (InvalidSeal, ValueError, TypeError, struct.error) as error:
        raise InvalidSeal(REFUSED) from error
    if binding != _binding(record) or record.protected_uid != protected_uid:
        raise InvalidSeal(REFUSED)
    return record


def unseal_encoded(sealed: bytes, master: MasterKey) -> bytes:
    """Octets of the sealed record, authenticated but not read; see `unseal`."""
    try:
        _, _, length = HEAD.unpack_from(sealed)
        context = sealed[: HEAD.size + length]
        rest = sealed[len(context) :]
        data_key = master.unwrap(rest[:WRAPPED_LENGTH], context)
        nonce = rest[WRAPPED_LENGTH : WRAPPED_LENGTH + NONCE_LENGTH]
        ciphertext = rest[WRAPPED_LENGTH + NONCE_LENGTH :]
        return AESGCM(data_key).decrypt(nonce, ciphertext, context)
    except (InvalidSeal, InvalidTag, ValueError, struct.error) as error:
        raise InvalidSeal(REFUSED) from error


def _read_binding(sealed: bytes) -> Binding:
    magic, version, length = HEAD.unpack_from(sealed)
    binding = Binding(**json.loads(sealed[HEAD.size : HEAD.size + length]))
    if magic != MAGIC or version != VERSION or binding.version != VERSION:
        raise ValueError("not a sealed record of this version")
    return binding


def _binding(record: KeyRecord | RecordLink) -> Binding:
    return Binding(
        version=VERSION,
        protected_uid=record.protected_uid,
        original_uid=record.original_uid,
        sop_class_uid=record.sop_class_uid,
        transfer_syntax_uid=record.transfer_syntax_uid,
        original_sha256=record.original_sha256,
    )


def _context(binding: Binding) -> bytes:
    """Head and binding: the associated data of data key and record."""
    text = json.dumps(asdict(binding), sort_keys=True, separators=(",", ":")).encode()
    return HEAD.pack(MAGIC, VERSION, len(text)) + text
