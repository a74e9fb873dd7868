"""Master keys: what wraps the data key of everything sealed at a site."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal
from gateway.sealing.secretfile import load_or_create

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEY_LENGTH: Final = 32
NONCE_LENGTH: Final = 12
TAG_LENGTH: Final = 16
WRAPPED_LENGTH: Final = NONCE_LENGTH + KEY_LENGTH + TAG_LENGTH
"""60 octets: all that has to be written anew when the master key changes."""

KEY_ID_DIGITS: Final = 16
KEY_ID_LABEL: Final = b"MIAD master key identifier 1"


class MasterKey(Protocol):
    """Wraps and unwraps data keys."""

    @property
    def key_id(self) -> str:
        """16 hex digits, the same wherever the key is; they tell nothing of it."""

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Encrypt a data key to 60 octets that open for this context only."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` gave; raise InvalidSeal for anything else."""


class Keys(Protocol):
    """The master keys of a site: one to seal under, and those of before."""

    def current(self) -> MasterKey:
        """Return the key that new seals are made under."""

    def by_id(self, key_id: str) -> MasterKey:
        """Return the key of that name; raise InvalidSeal if it is not known."""

    def known(self) -> Sequence[MasterKey]:
        """Return every key, the current one first."""


class LocalMasterKey:
    """Master key whose octets are in this process; also `Keys` of that one key.

    Parameters
    ----------
    key
        32 octets.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._key_id = key_id_of(key)

    @property
    def key_id(self) -> str:
        """16 hex digits, the same wherever the key is; they tell nothing of it."""
        return self._key_id

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Encrypt a data key to 60 octets that open for this context only."""
        nonce = os.urandom(NONCE_LENGTH)
        return nonce + self._cipher.encrypt(nonce, data_key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` gave.

        Raises
        ------
        InvalidSeal
            Another master key, another context, or altered octets.
        """
        nonce, sealed = wrapped[:NONCE_LENGTH], wrapped[NONCE_LENGTH:]
        try:
            return self._cipher.decrypt(nonce, sealed, context)
        except (InvalidTag, ValueError) as error:
            raise InvalidSeal("the data key does not open") from error

    def current(self) -> MasterKey:
        """Return this key."""
        return self

    def by_id(self, key_id: str) -> MasterKey:
        """Return this key if that is its name.

        Raises
        ------
        InvalidSeal
            It is not.
        """
        if key_id != self._key_id:
            raise unknown_key(key_id)
        return self

    def known(self) -> Sequence[MasterKey]:
        """Return this key."""
        return (self,)


class FileMasterKey(LocalMasterKey):
    """Master key in a file of mode 0600, made on first use.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ConfigurationError
        Others may reach the file, or it is not a key.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(load_or_create(path, KEY_LENGTH))


def key_id_of(key: bytes) -> str:
    """Name of a master key: the start of an HMAC-SHA256 under the key itself."""
    digest = hmac.new(key, KEY_ID_LABEL, hashlib.sha256).hexdigest()
    return digest[:KEY_ID_DIGITS]


def unknown_key(key_id: str) -> InvalidSeal:
    """Error for what is sealed under a key this site does not have."""
    return InvalidSeal(
        f"sealed under master key {key_id}, which is not at hand: name it in "
        "vault.previous_keys, or restore it from its backup"
    )
