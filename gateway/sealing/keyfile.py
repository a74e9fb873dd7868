"""Changes the file of a master key: a new key, an old one gone, one put back.

Beside ``master.key`` lie ``master.key.next``, a key about to become the current
one, and ``master.key.previous-KEY_ID``, the keys of before. ``master.key`` is
there at every moment, and no process seals under a key before it has that name.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from gateway.errors import BackupRefused, KeyInUse
from gateway.sealing.master import KEY_LENGTH, key_id_of
from gateway.sealing.ring import PREVIOUS, previous_files
from gateway.sealing.secretfile import (
    create_once,
    load_existing,
    overwrite,
    sync_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

NEXT: Final = ".next"


class KeyFile:
    """The file a master key is in.

    Parameters
    ----------
    path
        The file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key_id(self) -> str | None:
        """Name of the key in it; None where the file is missing.

        Raises
        ------
        ConfigurationError
            Others may reach it, or it is not a key.
        """
        return key_id_of(self._load(self.path)) if self.path.exists() else None

    @property
    def has_next(self) -> bool:
        """Whether a change of key was begun and not finished."""
        return self._next.exists()

    def renew(self) -> tuple[str, str]:
        """Make a new key the current one, and keep the old one beside.

        After a kill at any point, calling it again goes on with the same new key.

        Returns
        -------
        tuple[str, str]
            Names of the old and of the new key.

        Raises
        ------
        ConfigurationError
            There is no key yet, or a file cannot be read or written.
        """
        old = self._load(self.path)
        create_once(self._next, secrets.token_bytes(KEY_LENGTH))
        new = self._load(self._next)
        create_once(self._previous(key_id_of(old)), old)
        self._load(self._previous(key_id_of(old)))
        self._next.replace(self.path)
        sync_folder(self.path.parent)
        return key_id_of(old), key_id_of(new)

    def check_retirable(self, key_id: str) -> None:
        """Check that a key is one of before, kept beside the current one.

        Raises
        ------
        KeyInUse
            It is not.
        """
        if key_id == self.key_id:
            raise KeyInUse(f"{key_id} is the current master key; rotate first")
        if not self._holders(key_id):
            raise KeyInUse(
                f"no key {key_id} is kept beside {self.path}; a key named in "
                "vault.previous_keys is retired by taking it out of there"
            )

    def retire(self, key_id: str) -> None:
        """Destroy a key of before; the caller knows that nothing is under it.

        Raises
        ------
        KeyInUse
            It is the current key, or none of those kept beside it.
        """
        self.check_retirable(key_id)
        for path in self._holders(key_id):
            # A process that reads the keys meanwhile must not take a half wiped
            # one for a key: what it does not find by name it does not read.
            path.replace(path.with_name(f".{path.name}"))
        for path in self.path.parent.glob(f".{self.path.name}{PREVIOUS}*"):
            overwrite(path)
            path.unlink()
        sync_folder(self.path.parent)

    def put_back(self, secret: bytes, *, previous: bool) -> Path:
        """Write a restored key where it belongs.

        Parameters
        ----------
        secret
            The key.
        previous
            It is a key of before, wanted beside the current one.

        Returns
        -------
        Path
            Its file.

        Raises
        ------
        BackupRefused
            Another key is there.
        """
        key_id = key_id_of(secret)
        path = self._previous(key_id) if previous else self.path
        create_once(path, secret)
        found = key_id_of(self._load(path))
        if found != key_id:
            raise BackupRefused(
                f"{path} holds key {found}, this is {key_id}: nothing was "
                "changed. If files are sealed under both, restore this one with "
                "--previous; else move the file that is there away"
            )
        return path

    def _holders(self, key_id: str) -> list[Path]:
        return [
            path
            for path in previous_files(self.path)
            if key_id_of(self._load(path)) == key_id
        ]

    @property
    def _next(self) -> Path:
        return self.path.with_name(self.path.name + NEXT)

    def _previous(self, key_id: str) -> Path:
        return self.path.with_name(f"{self.path.name}{PREVIOUS}{key_id}")

    def _load(self, path: Path) -> bytes:
        return load_existing(path, KEY_LENGTH)
