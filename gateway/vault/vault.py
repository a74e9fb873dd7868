"""Sealed records on disk, one file per protected object."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from gateway.errors import InvalidSeal, KeyErased, RecordMissing, StoreFull
from gateway.sealing.envelope import rewrap, shred
from gateway.sealing.master import FileMasterKey
from gateway.sealing.secretfile import (
    create_once,
    durable_file,
    overwrite,
    sync_folder,
)
from gateway.store.octets import HeldFile
from gateway.vault.container import encoded_record
from gateway.vault.record import RecordLink, links_of
from gateway.vault.seal import (
    REFUSED,
    holds,
    is_version_1,
    read_binding,
    seal_onto,
    unseal,
    unseal_from,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from gateway.sealing.master import Keys
    from gateway.vault.record import KeyRecord

UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_UID: Final = 64
SUFFIX: Final = ".miad"
ERASED: Final = ".erased"
VERSION_END: Final = 9
"""Octets of a sealed record up to its version."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Vault:
    """Key records by protected SOP Instance UID.

    Parameters
    ----------
    root
        Folder of the vault; made with mode 0700.
    keys
        The site's master keys.
    """

    def __init__(self, root: Path, keys: Keys) -> None:
        self._root = root
        self._keys = keys

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
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._root)
            with _locked(path.parent):
                self._write(path, record)
        except OSError as error:
            if error.errno in FULL:
                raise StoreFull("no room for a key record in the vault") from error
            raise

    def _write(self, path: Path, record: KeyRecord | RecordLink) -> None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        master = self._keys.current()
        encoded = encoded_record(record)
        try:
            with durable_file(draft) as stream:
                seal_onto(stream, encoded, record, self._keys)
            with draft.open("rb") as stream:
                if not holds(stream, encoded, self._keys):
                    raise InvalidSeal("the record read back is not the one written")
            draft.replace(path)
            self._tombstone(record.protected_uid).unlink(missing_ok=True)
            sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)
        if self._keys.current().key_id != master.key_id:
            rewrap(path, self._keys)  # a rotation may have passed this name already

    def get(self, protected_uid: str) -> KeyRecord:
        """Open the record a protected object belongs to.

        Raises
        ------
        RecordMissing
            The vault has none; KeyErased where it had one.
        InvalidSeal
            It does not open.
        """
        record = self._open(protected_uid)
        if isinstance(record, RecordLink):
            record = self._open(record.first_uid)
        if isinstance(record, RecordLink) or protected_uid not in {
            part.uid for part in record.parts
        }:
            raise InvalidSeal(f"record of {protected_uid}: {REFUSED}")
        return record

    def _open(self, protected_uid: str) -> KeyRecord | RecordLink:
        try:
            return unseal_from(self._sealed(protected_uid), protected_uid, self._keys)
        except FileNotFoundError as error:
            if self._was_erased(protected_uid):
                raise KeyErased(
                    f"the key of {protected_uid} was erased: nothing gives its "
                    "original back any more; the audit trail says when and by whom"
                ) from error
            raise RecordMissing(
                f"the vault has no record of {protected_uid}: the object was "
                "protected by another site, or is not a protected object"
            ) from error
        except InvalidSeal as error:
            raise InvalidSeal(f"record of {protected_uid}: {error}") from error

    def _sealed(self, protected_uid: str) -> BinaryIO:
        """Open a sealed record or link; FileNotFoundError: there is none."""
        return cast("BinaryIO", HeldFile(self._path(protected_uid)))

    def _was_erased(self, protected_uid: str) -> bool:
        return self._tombstone(protected_uid).exists()

    def has(self, protected_uid: str) -> bool:
        """Whether there is a record of a protected object."""
        return self._path(protected_uid).is_file()

    def paths(self) -> Iterator[Path]:
        """Files of all records and links, those of a crash left out."""
        for path in self._root.glob(f"*/*{SUFFIX}"):
            if not path.name.startswith("."):
                yield path

    def of_originals(self, uids: Collection[str]) -> list[str]:
        """Return the protected objects of originals, as far as there are records.

        Looks at the readable start of every record: for erasure only.
        """
        found = []
        for path in self.paths():
            try:
                with path.open("rb") as stream:
                    binding = read_binding(stream)
            except (OSError, InvalidSeal):
                continue  # erased meanwhile, or damaged: it opens no more
            if binding.original_uid in uids:
                found.append(binding.protected_uid)
        return found

    def rewrap(self, path: Path) -> bool:
        """Put a record under the current master key, and no other.

        A record of version 1 is written anew as version 2.

        Parameters
        ----------
        path
            From `paths`.

        Returns
        -------
        bool
            Whether anything was changed.

        Raises
        ------
        InvalidSeal
            It opens under no known key; it was not touched.
        FileNotFoundError
            It was erased meanwhile.
        """
        with path.open("rb") as stream:
            start = stream.read(VERSION_END)
        if not is_version_1(start):
            return rewrap(path, self._keys)
        with _locked(path.parent):
            sealed = path.read_bytes()
            if not is_version_1(sealed):
                return rewrap(path, self._keys)  # replaced meanwhile
            uid = path.name.removesuffix(SUFFIX)
            self._write(path, unseal(sealed, uid, self._keys))
        return True

    def erase(self, protected_uid: str) -> tuple[str, ...]:
        """Destroy the data keys of a record and its links, and remove them.

        Nothing gives the original back then. An empty file with the name of the
        object stays, so that recovery can say what happened. May be repeated after
        it was interrupted.

        Parameters
        ----------
        protected_uid
            Any of the objects made of the original.

        Returns
        -------
        tuple[str, ...]
            The protected objects whose record or link was erased.

        Raises
        ------
        RecordMissing
            The vault has none.
        """
        first, parts = self._family(protected_uid)
        others = [uid for uid in parts if uid not in (first, protected_uid)]
        # The record before the link it was asked by: either finds the rest again.
        ordered = dict.fromkeys([*others, first, protected_uid])
        return tuple(uid for uid in ordered if self._erase_one(uid))

    def _family(self, protected_uid: str) -> tuple[str, tuple[str, ...]]:
        """UID the record is under, and all that belong to it, as far as they open."""
        first = protected_uid
        try:
            record = self._open(protected_uid)
            if isinstance(record, RecordLink):
                first = record.first_uid
                record = self._open(first)
        except InvalidSeal:
            return first, ()
        except RecordMissing:
            if first == protected_uid:
                raise
            return first, ()
        if isinstance(record, RecordLink):
            return protected_uid, ()
        return first, tuple(part.uid for part in record.parts)

    def _erase_one(self, protected_uid: str) -> bool:
        path = self._path(protected_uid)
        if not path.exists():
            return False
        create_once(self._tombstone(protected_uid), b"")
        try:
            shred(path)
        except FileNotFoundError:
            return False
        except InvalidSeal:
            overwrite(path)  # version 1, or damaged
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def _tombstone(self, protected_uid: str) -> Path:
        """File that says a record was erased."""
        return self._path(protected_uid).with_name(f"{protected_uid}{ERASED}")

    def _path(self, protected_uid: str) -> Path:
        return self._root / name_of(protected_uid)


def name_of(protected_uid: str) -> str:
    """Where a record lies; the UID is checked before it becomes a name.

    Raises
    ------
    RecordMissing
        It is no UID.
    """
    if len(protected_uid) > MAX_UID or not UID.fullmatch(protected_uid):
        raise RecordMissing("not a UID: no record can have it")
    folder = hashlib.sha256(protected_uid.encode()).hexdigest()[:2]
    return f"{folder}/{protected_uid}{SUFFIX}"


def open_vault(root: Path, master_key: Path) -> Vault:
    """Open the vault of a site; its master key is made on first use.

    Raises
    ------
    ConfigurationError
        Others may reach the master key, or it is not a key.
    """
    return Vault(root, FileMasterKey(master_key))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others from replacing records in a folder of the vault."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
