"""Sealed records on disk, one file per protected object."""

from __future__ import annotations

import errno
import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Final

from gateway.errors import InvalidSeal, RecordMissing, StoreFull
from gateway.sealing.master import FileMasterKey
from gateway.sealing.secretfile import sync_folder, write_durably
from gateway.vault.container import encode_record
from gateway.vault.record import RecordLink, links_of
from gateway.vault.seal import REFUSED, seal_encoded, unseal, unseal_encoded

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sealing.master import MasterKey
    from gateway.vault.record import KeyRecord

UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_UID: Final = 64
SUFFIX: Final = ".miad"
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Vault:
    """Key records by protected SOP Instance UID.

    Parameters
    ----------
    root
        Folder of the vault; made with mode 0700.
    master
        The site's master key.
    """

    def __init__(self, root: Path, master: MasterKey) -> None:
        self._root = root
        self._master = master

    def put(self, record: KeyRecord) -> None:
        """Seal and store a record; on return the disk has it and it opens.

        A record of the same object is replaced as a whole or not at all. Links
        from further objects of the same original follow it.

        Raises
        ------
        StoreFull
            The disk has no room; an earlier record is still there.
        InvalidSeal
            What was read back is not what was written.
        """
        self._put(record)
        for link in links_of(record):
            self._put(link)

    def _put(self, record: KeyRecord | RecordLink) -> None:
        path = self._path(record.protected_uid)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        encoded = encode_record(record)
        sealed = seal_encoded(encoded, record, self._master)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_durably(draft, sealed)
            self._check_written(draft, encoded)
            draft.replace(path)
            sync_folder(path.parent)
            sync_folder(self._root)
        except OSError as error:
            if error.errno in FULL:
                raise StoreFull("no room for a key record in the vault") from error
            raise
        finally:
            draft.unlink(missing_ok=True)

    def get(self, protected_uid: str) -> KeyRecord:
        """Open the record a protected object belongs to.

        Raises
        ------
        RecordMissing
            The vault has none.
        InvalidSeal
            It does not open.
        """
        record = self._open(protected_uid)
        if isinstance(record, RecordLink):
            record = self._open(record.first_uid)
        if isinstance(record, RecordLink) or protected_uid not in {
            part.uid for part in record.parts
        }:
            raise InvalidSeal(REFUSED)
        return record

    def _open(self, protected_uid: str) -> KeyRecord | RecordLink:
        try:
            sealed = self._path(protected_uid).read_bytes()
        except FileNotFoundError as error:
            raise RecordMissing(
                f"the vault has no record of {protected_uid}: the object was "
                "protected by another site, or is not a protected object"
            ) from error
        return unseal(sealed, protected_uid, self._master)

    def has(self, protected_uid: str) -> bool:
        """Whether there is a record of a protected object."""
        return self._path(protected_uid).is_file()

    def _check_written(self, draft: Path, encoded: bytes) -> None:
        if unseal_encoded(draft.read_bytes(), self._master) != encoded:
            raise InvalidSeal("the record read back is not the record written")

    def _path(self, protected_uid: str) -> Path:
        """Where a record lies; the UID is checked before it becomes a name."""
        if len(protected_uid) > MAX_UID or not UID.fullmatch(protected_uid):
            raise RecordMissing("not a UID: no record can have it")
        folder = hashlib.sha256(protected_uid.encode()).hexdigest()[:2]
        return self._root / folder / f"{protected_uid}{SUFFIX}"


def open_vault(root: Path, master_key: Path) -> Vault:
    """Open the vault of a site; its master key is made on first use.

    Raises
    ------
    ConfigurationError
        Others may reach the master key, or it is not a key.
    """
    return Vault(root, FileMasterKey(master_key))
