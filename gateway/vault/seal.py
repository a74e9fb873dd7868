"""Sealed records: a record in an envelope, with what it belongs to readable.

One error for every way a seal can be wrong, so that trying teaches nothing.
What is written is version 2 (`gateway.sealing.envelope`); version 1, which names
no master key, is read for ever.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import (
    EnvelopeWriter,
    open_bytes,
    open_envelope,
    seal_bytes,
)
from gateway.sealing.head import START, read_head
from gateway.sealing.master import NONCE_LENGTH, WRAPPED_LENGTH
from gateway.store.octets import FileOctets, pieces_of
from gateway.vault.container import decode_record, encode_record

if TYPE_CHECKING:
    from gateway.sealing.master import Keys, MasterKey
    from gateway.store.octets import Octets
    from gateway.vault.record import KeyRecord, RecordLink

MAGIC: Final = b"MIADSEAL"
VERSION: Final = 2
HEAD_1: Final = struct.Struct("<8sBI")
"""Version 1: magic, version, length of the binding."""

AT_ONCE: Final = 16 << 20
"""Octets up to which a sealed record is read as a whole."""

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


def seal_onto(
    stream: BinaryIO, encoded: Octets, record: KeyRecord | RecordLink, keys: Keys
) -> None:
    """Seal a record's octets onto a stream, piece by piece; see `seal`."""
    writer = EnvelopeWriter(stream, keys, _context(_binding(record, VERSION)))
    for piece in pieces_of(encoded):
        writer.write(piece)
    writer.finish()


def unseal_from(
    stream: BinaryIO, protected_uid: str, keys: Keys
) -> KeyRecord | RecordLink:
    """Open the sealed record that a file holds.

    All of it is authenticated now. The blobs of a large one are read again when
    they are asked for; the file stays open as long as the record is there.

    Parameters
    ----------
    stream
        The file, from its start to its end; closed, now or with the record.
    protected_uid, keys
        As for `unseal`.

    Raises
    ------
    InvalidSeal
        In every other case.
    """
    start = stream.read(len(MAGIC) + 1)
    if is_version_1(start) or stream.seek(0, os.SEEK_END) <= AT_ONCE:
        with stream:
            stream.seek(0)
            return unseal(stream.read(), protected_uid, keys)
    try:
        reader = open_envelope(stream, keys)
        octets = FileOctets(cast("BinaryIO", reader))
        for _ in pieces_of(octets):
            pass  # so that no later reading meets an altered chunk
        return _record_of(reader.context, octets, VERSION, protected_uid)
    except BaseException:
        stream.close()
        raise


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
    return _record_of(context, encoded, sealed[len(MAGIC)], protected_uid)


def holds(stream: BinaryIO, encoded: Octets, keys: Keys) -> bool:
    """Whether a sealed file (version 2) holds just these octets.

    Raises
    ------
    InvalidSeal
        It does not open.
    """
    reader = open_envelope(stream, keys)
    same = all(reader.read(len(piece)) == piece for piece in pieces_of(encoded))
    return same and reader.size == len(encoded)


def _record_of(
    context: bytes, encoded: Octets, version: int, protected_uid: str
) -> KeyRecord | RecordLink:
    """Read a record, and check that it is the one it is said to be."""
    try:
        record = decode_record(encoded)
        binding = Binding(**json.loads(context))
    except (InvalidSeal, ValueError, TypeError, struct.error) as error:
        raise InvalidSeal(REFUSED) from error
    expected = _binding(record, version)
    if binding != expected or record.protected_uid != protected_uid:
        raise InvalidSeal(REFUSED)
    return record


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
