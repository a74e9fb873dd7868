"""Secrets of a site, each in a sealed file under its master key.

The master key is then the only secret that lies anywhere in clear.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from gateway.errors import ConfigurationError, InvalidSeal
from gateway.sealing.envelope import open_bytes, seal_bytes
from gateway.sealing.secretfile import (
    create_once,
    overwrite,
    read_private,
    sync_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway.sealing.master import Keys

SEALED: Final = ".sealed"
NAME: Final = re.compile(r"[a-z][a-z0-9.-]{0,63}")


class SecretStore:
    """Sealed secrets by name.

    A secret of an earlier release, which lies in clear under its bare name, is
    sealed when it is first asked for, and its clear file is wiped.

    Parameters
    ----------
    directory
        Where they lie; made with mode 0700.
    keys
        Master keys of the site.
    """

    def __init__(self, directory: Path, keys: Keys) -> None:
        self._directory = directory
        self._keys = keys

    def get(self, name: str, length: int) -> bytes:
        """Return a secret of random octets, made on first use.

        Parameters
        ----------
        name
            Of the secret; its file is ``NAME.sealed``.
        length
            Octets of a secret made now, and required of one found.

        Raises
        ------
        ConfigurationError
            It has another length, does not open, or cannot be read or made.
        """

        def check(secret: bytes) -> None:
            if len(secret) != length:
                raise ConfigurationError(
                    f"secret {name} has {len(secret)} octets instead of {length}: "
                    "put the right file back; a new one would fit nothing made before"
                )

        return self.get_or_make(name, lambda: secrets.token_bytes(length), check)

    def get_or_make(
        self,
        name: str,
        make: Callable[[], bytes],
        check: Callable[[bytes], object] = lambda _secret: None,
    ) -> bytes:
        """Return a secret; processes that ask at once get the same.

        Parameters
        ----------
        name
            Of the secret.
        make
            Makes one where there is none; it may not ask for another secret.
        check
            Raises for what cannot be this secret; nothing is changed then.

        Raises
        ------
        ConfigurationError
            It does not open, differs from one that lies there in clear, or cannot
            be read or made.
        """
        if not NAME.fullmatch(name):
            raise ValueError("not a name of a secret")
        try:
            with self._alone():
                return self._get(name, make, check)
        except OSError as error:
            raise ConfigurationError(
                f"secret {self._path(name)}: {error.strerror or error}; give this "
                "user a folder it may write to, and put the file back if it was "
                "there before"
            ) from error

    def _get(
        self, name: str, make: Callable[[], bytes], check: Callable[[bytes], object]
    ) -> bytes:
        clear = self._directory / name
        path = self._path(name)
        self._wipe_rest(name)
        found = read_private(clear) if clear.exists() else None
        if not path.exists():
            fresh = make() if found is None else found
            check(fresh)
            create_once(path, seal_bytes(fresh, self._keys, context_of_secret(name)))
        secret = self._open(path, name)
        check(secret)
        if found is not None:
            if found != secret:
                raise ConfigurationError(
                    f"{clear} is not the secret sealed in {path}: remove whichever "
                    "is wrong; what lies in clear is then sealed at the next start"
                )
            clear.replace(self._rest(name))
            self._wipe_rest(name)
        return secret

    def _wipe_rest(self, name: str) -> None:
        """Wipe a clear file that was taken over, now or before an interruption."""
        rest = self._rest(name)
        if rest.exists():
            overwrite(rest)
            rest.unlink()
            sync_folder(self._directory)

    def _rest(self, name: str) -> Path:
        # Under another name: half wiped it must not be taken for the secret.
        return self._directory / f".{name}.taken-over"

    def _open(self, path: Path, name: str) -> bytes:
        sealed = read_private(path)
        try:
            context, secret = open_bytes(sealed, self._keys)
        except InvalidSeal as error:
            raise ConfigurationError(
                f"secret {path} does not open: {error}; restore it from its backup"
            ) from error
        if context != context_of_secret(name):
            raise ConfigurationError(
                f"secret {path} is another secret under this name; restore it from "
                "its backup"
            )
        return secret

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{SEALED}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, so that a secret is made and taken over once."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def context_of_secret(name: str) -> bytes:
    """Say which secret it is, so that files cannot be swapped."""
    return json.dumps({"secret": name}, separators=(",", ":")).encode()
