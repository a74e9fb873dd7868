"""Head of a sealed file, version 2: what never changes, and two key slots.

Each slot holds the data key wrapped by one master key, or nothing. The second
one is there for rotation: the new wrap is written beside the old, so a file
opens at every moment (`gateway.sealing.slots`).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.errors import InvalidSeal
from gateway.sealing.master import KEY_ID_DIGITS, KEY_LENGTH, WRAPPED_LENGTH

if TYPE_CHECKING:
    from typing import BinaryIO

    from gateway.sealing.master import Keys, MasterKey

MAGIC: Final = b"MIADSEAL"
VERSION: Final = 2
FIXED: Final = struct.Struct("<8sB3xII16s32s4x")
"""Magic, version, chunk size, length of the context, identity, SHA-256 of the
context."""

SLOT: Final = struct.Struct(f"<{KEY_ID_DIGITS // 2}s{WRAPPED_LENGTH}s")
"""Name of the master key, wrapped data key; all zero when empty."""

EMPTY: Final = bytes(SLOT.size)
SLOTS: Final = 2
START: Final = FIXED.size + SLOTS * SLOT.size
"""Octets before the context: 208, in the first sector of any disk."""

MAX_CHUNK: Final = 16 << 20
MAX_CONTEXT: Final = 1 << 20
IDENTITY_LENGTH: Final = 16
WRAP_LABEL: Final = b"MIAD data key 2\0"

REFUSED: Final = (
    "the sealed data do not open: wrong master key, another file's seal, "
    "or altered octets"
)

NEWER: Final = (
    "the sealed data are of version {}, and this program reads versions up to {}: "
    "a newer version wrote them, or their octets were altered"
)


class Head(NamedTuple):
    """Start of a sealed file, as far as it is readable.

    Attributes
    ----------
    fixed
        The octets before the slots, which no rotation changes; associated data
        of all that is sealed.
    chunk
        Octets of content in every chunk but the last.
    context_length
        Octets of the context.
    identity
        Random octets no other sealed file has.
    context_digest
        SHA-256 of the context.
    """

    fixed: bytes
    chunk: int
    context_length: int
    identity: bytes
    context_digest: bytes

    def check_context(self, context: bytes) -> bytes:
        """Return the context.

        Raises
        ------
        InvalidSeal
            It is not the one this head was made for.
        """
        digest = hashlib.sha256(context).digest()
        if not hmac.compare_digest(digest, self.context_digest):
            raise InvalidSeal(REFUSED)
        return context


class Opened(NamedTuple):
    """A data key, and the slot and master key that gave it."""

    data_key: bytes
    slot: int
    key_id: str


def new_head(context: bytes, chunk: int) -> Head:
    """Head of a new sealed file, without slots.

    Raises
    ------
    ValueError
        A context above 1 MiB, or a chunk size that is not allowed.
    """
    if len(context) > MAX_CONTEXT or not 0 < chunk <= MAX_CHUNK:
        raise ValueError("context or chunk size outside its bounds")
    identity = os.urandom(IDENTITY_LENGTH)
    digest = hashlib.sha256(context).digest()
    fixed = FIXED.pack(MAGIC, VERSION, chunk, len(context), identity, digest)
    return Head(fixed, chunk, len(context), identity, digest)


def read_head(octets: bytes) -> Head:
    """Head that a file starts with; nothing of it is authenticated yet.

    Raises
    ------
    InvalidSeal
        No sealed file of this version.
    """
    if len(octets) < START:
        raise InvalidSeal(REFUSED)
    magic, version, chunk, length, identity, digest = FIXED.unpack_from(octets)
    if magic == MAGIC and version > VERSION:
        raise InvalidSeal(NEWER.format(version, VERSION))
    head = Head(octets[: FIXED.size], chunk, length, identity, digest)
    exact = FIXED.pack(magic, version, chunk, length, identity, digest)
    if (
        (magic, version) != (MAGIC, VERSION)
        or not 0 < chunk <= MAX_CHUNK
        or length > MAX_CONTEXT
        or exact != head.fixed  # the octets between fields are zero
    ):
        raise InvalidSeal(REFUSED)
    return head


def slots_of(octets: bytes) -> tuple[bytes, ...]:
    """Octets of each slot of the start of a file."""
    return tuple(
        octets[FIXED.size + n * SLOT.size : FIXED.size + (n + 1) * SLOT.size]
        for n in range(SLOTS)
    )


def key_ids(octets: bytes) -> set[str]:
    """Names of the master keys whose slots are not empty."""
    return {
        slot[: KEY_ID_DIGITS // 2].hex() for slot in slots_of(octets) if slot != EMPTY
    }


def make_slot(data_key: bytes, master: MasterKey, head: Head) -> bytes:
    """Wrap a data key for the head of its file."""
    name = bytes.fromhex(master.key_id)
    return SLOT.pack(name, master.wrap(data_key, _wrap_context(name, head)))


def open_slots(octets: bytes, head: Head, keys: Keys) -> Opened:
    """Unwrap the data key of a file, from whichever slot gives it.

    Raises
    ------
    InvalidSeal
        None does. If the site lacks the master key, the message names it.
    """
    unknown: list[InvalidSeal] = []
    found = 0
    for number, slot in enumerate(slots_of(octets)):
        if slot == EMPTY:
            continue
        found += 1
        name, wrapped = SLOT.unpack(slot)
        try:
            master = keys.by_id(name.hex())
        except InvalidSeal as error:
            unknown.append(error)
            continue
        data_key = _unwrapped(wrapped, master, _wrap_context(name, head))
        if data_key is not None:
            return Opened(data_key, number, name.hex())
    if not found:
        raise InvalidSeal("the data key was destroyed: nothing opens this any more")
    if len(unknown) == found:
        raise unknown[0]
    raise InvalidSeal(REFUSED)


def read_exactly(stream: BinaryIO, length: int) -> bytes:
    """Octets of a stream, from its present position.

    Raises
    ------
    InvalidSeal
        It ends before.
    """
    octets = stream.read(length)
    while octets and len(octets) < length:  # a raw stream may give less at once
        more = stream.read(length - len(octets))
        if not more:
            break
        octets += more
    if len(octets) != length:
        raise InvalidSeal(REFUSED)
    return octets


def _unwrapped(wrapped: bytes, master: MasterKey, context: bytes) -> bytes | None:
    try:
        data_key = master.unwrap(wrapped, context)
    except InvalidSeal:
        return None  # half written when the machine stopped: the other slot holds
    return data_key if len(data_key) == KEY_LENGTH else None


def _wrap_context(name: bytes, head: Head) -> bytes:
    """Binds a wrapped key to its master key and its file."""
    return WRAP_LABEL + name + head.fixed
