"""Secrets of a site whose machines share an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from gateway.errors import ConfigurationError, InvalidSeal
from gateway.sealing.envelope import open_bytes, seal_bytes
from gateway.sealing.secrets import NAME, SEALED, SecretStore, context_of_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.sealing.master import Keys
    from gateway.store.objects import ObjectBlobs

FOLDER: Final = "secrets"


class SharedSecrets(SecretStore):
    """Sealed secrets by name; whichever machine asks first makes them for all.

    Parameters
    ----------
    blobs
        Where they lie.
    directory
        Of secrets on this machine, which is not used.
    keys
        Master keys of the site: the same on every machine.
    """

    def __init__(self, blobs: ObjectBlobs, directory: Path, keys: Keys) -> None:
        super().__init__(directory, keys)
        self._blobs = blobs

    @override
    def get_or_make(
        self,
        name: str,
        make: Callable[[], bytes],
        check: Callable[[bytes], object] = lambda _secret: None,
    ) -> bytes:
        """Return a secret; machines that ask at once get the same.

        Raises
        ------
        ConfigurationError
            It does not open under this machine's master key.
        StoreUnavailable
            The object store does not answer.
        """
        if not NAME.fullmatch(name):
            raise ValueError("not a name of a secret")
        path = f"{FOLDER}/{name}{SEALED}"
        try:
            sealed = self._blobs.read(path)
        except FileNotFoundError:
            fresh = make()
            check(fresh)
            self._blobs.create(
                path, seal_bytes(fresh, self._keys, context_of_secret(name))
            )
            sealed = self._blobs.read(path)
        secret = self._opened(sealed, name)
        check(secret)
        return secret

    def _opened(self, sealed: bytes, name: str) -> bytes:
        try:
            context, secret = open_bytes(sealed, self._keys)
        except InvalidSeal as error:
            raise ConfigurationError(
                f"the secret {name} in the object store does not open: {error}; every"
                " machine of a site needs the same master key"
            ) from error
        if context != context_of_secret(name):
            raise ConfigurationError(
                f"the secret {name} in the object store is another one under this"
                " name; restore it from its backup"
            )
        return secret
