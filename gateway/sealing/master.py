"""The key-encryption key of a site."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal
from gateway.sealing.secretfile import load_or_create

if TYPE_CHECKING:
    from pathlib import Path

KEY_LENGTH: Final = 32
NONCE_LENGTH: Final = 12
TAG_LENGTH: Final = 16
WRAPPED_LENGTH: Final = NONCE_LENGTH + KEY_LENGTH + TAG_LENGTH
"""60 octets: all that has to be written anew when the master key changes."""


class MasterKey(Protocol):
    """Wraps and unwraps data keys."""

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Encrypt a data key to 60 octets that open for this context only."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` gave; raise InvalidSeal for anything else."""


class FileMasterKey:
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
        self._cipher = AESGCM(load_or_create(path, KEY_LENGTH))

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
