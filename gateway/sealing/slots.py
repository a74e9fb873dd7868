"""Changes the key slots of sealed files in place: rotation and destruction.

The new wrap is written into the free slot and synced before the old one is
cleared, so a file opens whenever the power fails or the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.errors import InvalidSeal
from gateway.sealing.head import (
    EMPTY,
    FIXED,
    SLOT,
    SLOTS,
    START,
    key_ids,
    make_slot,
    open_slots,
    read_head,
    slots_of,
)
from gateway.sealing.master import KEY_ID_DIGITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.sealing.head import Head
    from gateway.sealing.master import Keys


def sealed_under(path: Path) -> set[str]:
    """Names of the master keys that open a sealed file; none if it was shredded.

    Reads its first 208 octets.

    Raises
    ------
    InvalidSeal
        No sealed file of version 2.
    OSError
        It cannot be read.
    """
    with path.open("rb", buffering=0) as stream:
        octets = stream.read(START)
    read_head(octets)
    return key_ids(octets)


def rewrap(path: Path, keys: Keys, *, durable: bool = True) -> bool:
    """Put a sealed file under the current master key, and no other.

    May run beside readers, and again after it was interrupted.

    Parameters
    ----------
    path
        The file.
    keys
        The current key, and the one it is under now.
    durable
        Wait for the disk before the old wrap is cleared, and after. Without it
        the kernel decides; a crash of this process is harmless all the same.

    Returns
    -------
    bool
        Whether anything was changed.

    Raises
    ------
    InvalidSeal
        It opens under no known key; it was not touched.
    OSError
        It cannot be read or written.
    """
    with _locked(path) as descriptor:
        octets = os.pread(descriptor, START, 0)
        head = read_head(octets)
        opened = open_slots(octets, head, keys)
        keep = opened.slot
        if opened.key_id != keys.current().key_id:
            keep = 1 - opened.slot
            slot = _checked_slot(opened.data_key, head, keys)
            _write_slot(descriptor, keep, slot, durable=durable)
        elif slots_of(octets)[1 - keep] == EMPTY:
            return False
        _write_slot(descriptor, 1 - keep, EMPTY, durable=durable)
        return True


def add_slot(path: Path, keys: Keys) -> bool:
    """Wrap a data key under the current master key too: half of `rewrap`.

    The caller syncs the file, and then calls `drop_slots`. So many files share
    one wait for the disk.

    Returns
    -------
    bool
        Whether the file is then under more than the current key.

    Raises
    ------
    InvalidSeal
        It opens under no known key; it was not touched.
    OSError
        It cannot be read or written.
    """
    with _locked(path) as descriptor:
        octets = os.pread(descriptor, START, 0)
        head = read_head(octets)
        current = _current_slot(octets, head, keys)
        if current is not None:
            return slots_of(octets)[1 - current] != EMPTY
        opened = open_slots(octets, head, keys)
        slot = _checked_slot(opened.data_key, head, keys)
        _write_slot(descriptor, 1 - opened.slot, slot, durable=False)
        return True


def drop_slots(path: Path, keys: Keys) -> None:
    """Leave only the wrap under the current master key: the other half.

    Raises
    ------
    InvalidSeal
        There is no such wrap, or it does not open; the file was not touched.
    OSError
        It cannot be read or written.
    """
    with _locked(path) as descriptor:
        octets = os.pread(descriptor, START, 0)
        current = _current_slot(octets, read_head(octets), keys)
        if current is None:
            raise InvalidSeal("the current master key does not open the file")
        _write_slot(descriptor, 1 - current, EMPTY, durable=False)


def _current_slot(octets: bytes, head: Head, keys: Keys) -> int | None:
    """Slot that opens under the current master key, if there is one."""
    current = keys.current()
    for number, slot in enumerate(slots_of(octets)):
        if slot[: KEY_ID_DIGITS // 2].hex() == current.key_id:
            only = [EMPTY] * SLOTS
            only[number] = slot
            with contextlib.suppress(InvalidSeal):
                open_slots(head.fixed + b"".join(only), head, keys)
                return number
    return None


def shred(path: Path) -> None:
    """Destroy the data key of a sealed file: no master key opens it again.

    On disks that write elsewhere (flash, copy-on-write) the old sector may stay
    readable to a laboratory that also has the master key.

    Raises
    ------
    InvalidSeal
        No sealed file of version 2; it was not touched.
    OSError
        It cannot be written.
    """
    with _locked(path) as descriptor:
        read_head(os.pread(descriptor, START, 0))
        for number in range(SLOTS):
            _write_slot(descriptor, number, EMPTY, durable=False)
        os.fsync(descriptor)


def _checked_slot(data_key: bytes, head: Head, keys: Keys) -> bytes:
    """Wrap a data key under the current master key, and see that it opens."""
    slot = make_slot(data_key, keys.current(), head)
    if open_slots(head.fixed + slot + EMPTY, head, keys).data_key != data_key:
        raise InvalidSeal("the master key does not open what it wrapped")
    return slot


def _write_slot(descriptor: int, number: int, slot: bytes, *, durable: bool) -> None:
    at = FIXED.size + number * SLOT.size
    if os.pwrite(descriptor, slot, at) != len(slot):
        raise OSError(errno.EIO, "a key slot was written in part")
    if durable:
        os.fsync(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Descriptor of a file that no other process changes at the same time."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
