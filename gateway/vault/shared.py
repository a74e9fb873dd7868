"""Sealed records in an object store that several machines share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from gateway.errors import InvalidSeal
from gateway.vault.container import encode_record
from gateway.vault.seal import seal_encoded, unseal_encoded
from gateway.vault.vault import ERASED, SUFFIX, Vault, name_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sealing.master import Keys
    from gateway.store.objects import ObjectBlobs
    from gateway.vault.record import KeyRecord, RecordLink

FOLDER: Final = "vault"
GONE: Final = b"erased"


class SharedVault(Vault):
    """Key records by protected SOP Instance UID, each an object.

    Parameters
    ----------
    blobs
        Where they lie.
    folder
        Of a vault on this machine, which is not used.
    keys
        The site's master keys.
    """

    def __init__(self, blobs: ObjectBlobs, folder: Path, keys: Keys) -> None:
        super().__init__(folder, keys)
        self._blobs = blobs

    @override
    def has(self, protected_uid: str) -> bool:
        return self._blobs.exists(_name(protected_uid))

    @override
    def _put(self, record: KeyRecord | RecordLink) -> None:
        name = _name(record.protected_uid)
        encoded = encode_record(record)
        with self._blobs.locked(name):
            sealed = seal_encoded(encoded, record, self._keys)
            # Before anything is replaced: an object has no draft to look at.
            if unseal_encoded(sealed, self._keys) != encoded:
                raise InvalidSeal("the record does not open as it was sealed")
            self._blobs.put(name, sealed)
            if self._blobs.read(name) != sealed:
                raise InvalidSeal("the record read back is not the record written")
            self._blobs.remove(_tombstone(record.protected_uid))

    @override
    def _sealed(self, protected_uid: str) -> bytes:
        return self._blobs.read(_name(protected_uid))

    @override
    def _was_erased(self, protected_uid: str) -> bool:
        return self._blobs.exists(_tombstone(protected_uid))

    @override
    def _erase_one(self, protected_uid: str) -> bool:
        name = _name(protected_uid)
        if not self._blobs.exists(name):
            return False
        self._blobs.put(_tombstone(protected_uid), GONE)
        self._blobs.destroy(name)
        return True


def _name(protected_uid: str) -> str:
    return f"{FOLDER}/{name_of(protected_uid)}"


def _tombstone(protected_uid: str) -> str:
    return _name(protected_uid).removesuffix(SUFFIX) + ERASED
