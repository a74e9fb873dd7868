"""The original of a protected object, octet for octet, or nothing.

Imported by the receiving process: no torch behind any of its imports.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import RecoveryFailed
from engine.recover import recover
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import read_stored_values
from gateway.errors import RecoveryRefused, Unprotectable
from gateway.vault.layout import pack, unpack
from gateway.vault.record import KeyCustody, WholeCustody, frame_key
from gateway.vault.shell import fill_shell

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from gateway.store.files import FileStore
    from gateway.store.rows import Instance, Protected
    from gateway.vault.layout import PixelLayout
    from gateway.vault.record import KeyRecord
    from gateway.vault.vault import Vault


def restore(protected_part10: bytes, record: KeyRecord) -> bytes:
    """Received octets of a protected object, verified by digest.

    Parameters
    ----------
    protected_part10
        The protected object as a Part 10 file, in any lossless syntax.
    record
        Its key record.

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
    uid, frames = _protected_frames(protected_part10)
    if uid != record.protected_uid:
        raise RecoveryRefused(f"the record is of another object than {uid}")
    received = _rebuild(frames, record)
    digest = hashlib.sha256(received).hexdigest()
    if digest != record.original_sha256 or len(received) != record.original_size:
        raise RecoveryRefused(
            f"what was rebuilt for {uid} does not have the digest of the original"
        )
    return received


def restorer(store: FileStore, vault: Vault) -> Callable[[Instance, Protected], bytes]:
    """Make what gives a stored instance's original back.

    Parameters
    ----------
    store, vault
        Where protected objects and records lie.

    Returns
    -------
    Callable[[Instance, Protected], bytes]
        The data set as received; raises a GatewayError in every other case.
    """

    def restore_instance(instance: Instance, protected: Protected) -> bytes:
        record = vault.get(protected.sop_instance_uid)
        if record.original_sha256 != instance.sha256:
            raise RecoveryRefused(
                f"the record of {record.protected_uid} is of other received octets"
            )
        return restore(store.absolute(protected.path).read_bytes(), record)

    return restore_instance


def pixel_digest(frames: list[NDArray[np.int32]], layout: PixelLayout) -> str:
    """SHA-256 (hex) of protected pixel values in a layout, without padding."""
    return hashlib.sha256(pack(frames, layout)).hexdigest()


def _protected_frames(part10: bytes) -> tuple[str, list[NDArray[np.int32]]]:
    """UID and pixel values as the object itself gives them."""
    try:
        start, syntax = data_set_offset(part10)
        values = read_stored_values(part10[start:], syntax)
        return values.uid, [values.frame(index) for index in range(values.count)]
    except Unprotectable as error:
        raise RecoveryRefused(
            f"the protected object cannot be read ({error.reason})"
        ) from error


def _rebuild(frames: list[NDArray[np.int32]], record: KeyRecord) -> bytes:
    custody = record.custody
    if isinstance(custody, WholeCustody):
        return custody.received
    if isinstance(custody, KeyCustody):
        return fill_shell(custody.shell, _recover_frames(frames, record, custody))
    return fill_shell(custody.shell, custody.frames)


def _recover_frames(
    frames: list[NDArray[np.int32]], record: KeyRecord, custody: KeyCustody
) -> list[NDArray[np.int32]]:
    # The object gives values as written; the layout says what they stand for.
    written = replace(record.protected_layout, origin=0, mirrored=False)
    if any(frame.shape != written.shape for frame in frames) or (
        pixel_digest(frames, written) != record.protected_sha256
    ):
        raise RecoveryRefused(
            f"pixels of {record.protected_uid} are not those that were protected: "
            "they were changed or compressed with loss on the way"
        )
    marked = unpack(pack(frames, written), record.protected_layout)
    keys = map(frame_key, record.marks, custody.planes)
    try:
        return [recover(*pair) for pair in zip(marked, keys, strict=True)]
    except (RecoveryFailed, ValueError) as error:
        raise RecoveryRefused(
            f"key and pixels of {record.protected_uid} do not fit"
        ) from error
