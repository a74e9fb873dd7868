"""Sealed records: a record in an envelope, with what it belongs to readable.

One error for every way a seal can be wrong, so that trying teaches nothing.
What is written is version 2 (`gateway.sealing.envelope`); version 1, which names
no master key, is read for ever.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import open_bytes, seal_bytes
from gateway.sealing.head import START, read_head
from gateway.sealing.master import NONCE_LENGTH, WRAPPED_LENGTH
from gateway.vault.container import decode_record, encode_record

if TYPE_CHECKING:
    from typing import BinaryIO

    from gateway.sealing.master import Keys, MasterKey
    from gateway.vault.record import KeyRecord, RecordLink

MAGIC: Final = b"MIADSEAL"
VERSION: Final = 2
HEAD_1: Final = struct.Struct("<8sBI")
"""Version 1: magic, version, length of the binding."""

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


def seal(record: KeyRecord | RecordLink, keys: Keys) -> bytes:
    """Seal a record, or a link to one, under a new data key.

    Parameters
    ----------
    record
        What to seal.
    keys
        The current one wraps the data key.
    """
    return seal_encoded(encode_record(record), record, keys)


def seal_encoded(encoded: bytes, record: KeyRecord | RecordLink, keys: Keys) -> bytes:
    """Seal a record whose octets are at hand; see `seal`."""
    return seal_bytes(encoded, keys, _context(_binding(record, VERSION)))


def unseal(sealed: bytes, protected_uid: str, keys: Keys) -> KeyRecord | RecordLink:
    """Open a sealed record, or a link to one.

    Parameters
    ----------
    sealed
        From `seal`, of this release or an earlier one.
    protected_uid
        The object whose record this has to be.
    keys
        One of them unwraps the data key.

    Raises
    ------
    InvalidSeal
        In every other case.
    """
    context, encoded = _opened(sealed, keys)
    try:
        record = decode_record(encoded)
        binding = Binding(**json.loads(context))
    except (InvalidSeal, ValueError, TypeError, struct.error) as error:
        raise InvalidSeal(REFUSED) from error
    expected = _binding(record, sealed[len(MAGIC)])
    if binding != expected or record.protected_uid != protected_uid:
        raise InvalidSeal(REFUSED)
    return record


def unseal_encoded(sealed: bytes, keys: Keys) -> bytes:
    """Octets of the sealed record, authenticated but not read; see `unseal`."""
    return _opened(sealed, keys)[1]


def read_binding(stream: BinaryIO) -> Binding:
    """Read what a sealed record says it belongs to; not authenticated.

    Raises
    ------
    InvalidSeal
        It does not start like one.
    """
    start = stream.read(START)
    try:
        if is_version_1(start):
            _, _, length = HEAD_1.unpack_from(start)
            context = (start + stream.read(length))[HEAD_1.size :][:length]
        else:
            context = stream.read(read_head(start).context_length)
        return Binding(**json.loads(context))
    except (ValueError, TypeError, struct.error) as error:
        raise InvalidSeal(REFUSED) from error


def is_version_1(sealed: bytes) -> bool:
    """Whether octets start like a sealed record of version 1."""
    return sealed[: len(MAGIC) + 1] == MAGIC + b"\1"


def _opened(sealed: bytes, keys: Keys) -> tuple[bytes, bytes]:
    """Binding and record, authenticated but not read."""
    if not is_version_1(sealed):
        return open_bytes(sealed, keys)
    for master in keys.known():  # version 1 does not say which
        try:
            return _opened_1(sealed, master)
        except (InvalidSeal, InvalidTag, ValueError, struct.error):
            continue
    raise InvalidSeal(REFUSED)


def _opened_1(sealed: bytes, master: MasterKey) -> tuple[bytes, bytes]:
    _, _, length = HEAD_1.unpack_from(sealed)
    context = sealed[: HEAD_1.size + length]
    rest = sealed[len(context) :]
    data_key = master.unwrap(rest[:WRAPPED_LENGTH], context)
    nonce = rest[WRAPPED_LENGTH : WRAPPED_LENGTH + NONCE_LENGTH]
    ciphertext = rest[WRAPPED_LENGTH + NONCE_LENGTH :]
    record = AESGCM(data_key).decrypt(nonce, ciphertext, context)
    return context[HEAD_1.size :], record


def _binding(record: KeyRecord | RecordLink, version: int) -> Binding:
    return Binding(
        version=version,
        protected_uid=record.protected_uid,
        original_uid=record.original_uid,
        sop_class_uid=record.sop_class_uid,
        transfer_syntax_uid=record.transfer_syntax_uid,
        original_sha256=record.original_sha256,
    )


def _context(binding: Binding) -> bytes:
    return json.dumps(asdict(binding), sort_keys=True, separators=(",", ":")).encode()
