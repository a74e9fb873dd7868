"""The original of protected objects, octet for octet, or nothing.

Imported by the receiving process: no torch behind any of its imports.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from engine.errors import RecoveryFailed
from engine.recover import recover
from gateway.dicom.lenient import lenient, text
from gateway.dicom.parse import data_set_offset, parse_object
from gateway.dicom.pixels import read_stored_values
from gateway.errors import RecoveryRefused, Unprotectable
from gateway.store.octets import FileOctets, after, pieces_of
from gateway.store.spool import Spool
from gateway.vault.codec import unpack_array
from gateway.vault.layout import pack, unpack
from gateway.vault.record import KeyCustody, WholeCustody, frame_key
from gateway.vault.shell import shell_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from gateway.store.files import FileStore
    from gateway.store.octets import Octets
    from gateway.store.rows import Instance, Protected
    from gateway.vault.record import FrameMark, FramePlanes, KeyRecord, RecordPart
    from gateway.vault.vault import Vault

    Load = Callable[[str], Octets]
    """Gives the protected object of a UID as a Part 10 file; raises a GatewayError
    where there is none."""


AT_ONCE: Final = 16 << 20
"""Octets up to which an original is rebuilt in memory."""

Taken = TypeVar("Taken")


def restore(load: Load, record: KeyRecord) -> bytes:
    """Received octets of an original, verified by digest.

    Frames are gone through one by one: beside the octets, memory holds one frame.

    Parameters
    ----------
    load
        Gives the protected objects, in any lossless syntax.
    record
        Their key record.

    Returns
    -------
    bytes
        What was received: a data set, or a whole file, as ``record.kind`` says.

    Raises
    ------
    RecoveryRefused
        The record is of another object, the protected pixels were changed, or
        what was rebuilt does not have the digest of the original.
    """
    return b"".join(_verified(load, record, list))


def restored(load: Load, record: KeyRecord, spool: Spool | None = None) -> Octets:
    """Received octets of an original, verified by digest, however many they are.

    Few come as ``bytes``. Many are rebuilt into a spool, so that they are verified
    before the first of them leaves and memory never holds them.

    Parameters
    ----------
    load, record
        As for `restore`.
    spool
        Where they go; None: one of their own.

    Raises
    ------
    RecoveryRefused
        As `restore`.
    StoreFull
        The disk has no room to rebuild them.
    """
    if record.original_size <= AT_ONCE:
        return restore(load, record)
    return _verified(load, record, (spool or Spool()).add_all)


def _verified(
    load: Load, record: KeyRecord, take: Callable[[Iterator[bytes]], Taken]
) -> Taken:
    """Give what `take` made of the pieces, if they are the received octets."""
    digest, length = hashlib.sha256(), 0

    def counted() -> Iterator[bytes]:
        nonlocal length
        for piece in _pieces(load, record):
            digest.update(piece)
            length += len(piece)
            yield piece

    taken = take(counted())
    if (digest.hexdigest(), length) != (record.original_sha256, record.original_size):
        raise RecoveryRefused(
            f"what was rebuilt for {record.protected_uid} does not have the digest "
            "of the original"
        )
    return taken


def check_restores(load: Load, record: KeyRecord) -> None:
    """Go through all that `restore` does, without holding what is rebuilt.

    Raises
    ------
    RecoveryRefused
        The original does not come back octet for octet.
    """
    _verified(load, record, _passed_by)


def _passed_by(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


def restorer(store: FileStore, vault: Vault) -> Callable[[Instance, Protected], Octets]:
    """Make what gives a stored instance's original back.

    Parameters
    ----------
    store, vault
        Where protected objects and records lie.

    Returns
    -------
    Callable[[Instance, Protected], Octets]
        The data set as received; raises a GatewayError in every other case.
    """

    def restore_instance(instance: Instance, protected: Protected) -> Octets:
        record = _record_of(vault, instance, protected)
        with ExitStack() as files:
            return restored(partial(_stored, store, files), record)

    return restore_instance


def recovery_of(
    store: FileStore, vault: Vault
) -> Callable[[Instance, Protected], None]:
    """Make what tries whether an original comes back, octet for octet.

    Parameters
    ----------
    store, vault
        Where protected objects and records lie.

    Returns
    -------
    Callable[[Instance, Protected], None]
        Raises a GatewayError where it does not.
    """

    def recovers(instance: Instance, protected: Protected) -> None:
        record = _record_of(vault, instance, protected)
        with ExitStack() as files:
            check_restores(partial(_stored, store, files), record)

    return recovers


def _record_of(vault: Vault, instance: Instance, protected: Protected) -> KeyRecord:
    record = vault.get(protected.sop_instance_uid)
    if record.original_sha256 != instance.sha256:
        raise RecoveryRefused(
            f"the record of {record.protected_uid} is of other received octets"
        )
    return record


def _stored(store: FileStore, files: ExitStack, uid: str) -> Octets:
    """Protected object of a UID, read as it is needed; one file is open at a time."""
    files.close()
    return FileOctets(files.enter_context(store.open(store.names.protected(uid))))


def instance_uid(part10: Octets) -> str:
    """SOP Instance UID of an object as its data set says.

    Raises
    ------
    Unprotectable
        It cannot be read, or there is none.
    """
    start, syntax = data_set_offset(part10)
    with lenient():
        uid = text(parse_object(after(part10, start), syntax).dataset, "SOPInstanceUID")
    if not uid:
        raise Unprotectable("missing-attribute", "SOPInstanceUID is missing or empty")
    return uid


def _pieces(load: Load, record: KeyRecord) -> Iterator[bytes]:
    """Yield the received octets piece by piece, not yet compared with anything."""
    custody = record.custody
    if isinstance(custody, KeyCustody):
        yield from shell_pieces(custody.shell, _recovered_frames(load, record, custody))
        return
    _checked(load, record.parts[0])
    if isinstance(custody, WholeCustody):
        yield from pieces_of(custody.received)
        return
    frames = (unpack_array(frame).astype(np.int32) for frame in custody.frames)
    yield from shell_pieces(custody.shell, frames)


def _checked(load: Load, part: RecordPart) -> Octets:
    """Protected object of a part, after a look at its UID."""
    part10 = load(part.uid)
    try:
        found = instance_uid(part10)
    except Unprotectable as error:
        raise _unreadable(error) from error
    if found != part.uid:
        raise RecoveryRefused(f"the record is of another object than {found}")
    return part10


def _recovered_frames(
    load: Load, record: KeyRecord, custody: KeyCustody
) -> Iterator[NDArray[np.int32]]:
    counts = {len(record.marks), len(custody.planes), _frames(record)}
    if len(counts) > 1:
        raise RecoveryRefused(f"the record of {record.protected_uid} is incomplete")
    items = zip(record.marks, custody.planes, strict=True)
    for part in record.parts:
        for frame in _marked_frames(_checked(load, part), part):
            mark, planes = next(items)
            yield _recovered(frame, mark, planes, record)


def _frames(record: KeyRecord) -> int:
    return sum(part.layout.frames for part in record.parts if part.layout is not None)


def _recovered(
    frame: NDArray[np.int32], mark: FrameMark, planes: FramePlanes, record: KeyRecord
) -> NDArray[np.int32]:
    try:
        return recover(frame, frame_key(mark, planes))
    except (RecoveryFailed, ValueError) as error:
        raise RecoveryRefused(
            f"key and pixels of {record.protected_uid} do not fit: the protected "
            "object was changed, or the key is of another"
        ) from error


def _marked_frames(part10: Octets, part: RecordPart) -> Iterator[NDArray[np.int32]]:
    """Yield stored values as they were before they were laid out; then compare."""
    if part.layout is None:
        raise RecoveryRefused(f"{part.uid} has no marked picture")
    # The object gives values as written; the layout says what they stand for.
    written = replace(part.layout, origin=0, mirrored=False)
    digest = hashlib.sha256()
    start, syntax = data_set_offset(part10)
    try:
        values = read_stored_values(after(part10, start), syntax)
        if (values.count, values.shape) != (written.frames, written.shape):
            raise _changed(part)
        for index in range(values.count):
            octets = pack([values.frame(index)], written)
            digest.update(octets)
            yield unpack(octets, replace(part.layout, frames=1))[0]
    except Unprotectable as error:
        raise _unreadable(error) from error
    if digest.hexdigest() != part.sha256:
        raise _changed(part)


def _unreadable(error: Unprotectable) -> RecoveryRefused:
    return RecoveryRefused(f"the protected object cannot be read ({error.reason})")


def _changed(part: RecordPart) -> RecoveryRefused:
    return RecoveryRefused(
        f"pixels of {part.uid} are not those that were protected: they were changed "
        "or compressed with loss on the way"
    )
