"""UIDs of protected objects: the same every time, meaningless without the secret."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.sealing.secrets import SecretStore

UID_KEY: Final = "uid.key"
"""Name of the site's UID secret."""

SECRET_LENGTH: Final = 32
"""Octets of the site's UID secret."""

UUID_ROOT: Final = "2.25."
"""Root of UIDs made from a 128-bit integer (PS3.5 B.2)."""


class UidMapper:
    """Maps UIDs to ``2.25.`` UIDs by HMAC-SHA256 under a site secret.

    The same UID and purpose give the same result in every process of the site,
    so a repeated protection makes the same object; without the secret nobody
    can link the two.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def map(self, uid: str, purpose: str = "") -> str:
        """UID that stands for another.

        Parameters
        ----------
        uid
            The UID to be mapped.
        purpose
            Keeps apart UIDs that are mapped for different uses.

        Returns
        -------
        str
            ``2.25.`` and a decimal integer below 2**128 (at most 44 characters).
        """
        message = f"{purpose}|{uid}".encode()
        digest = hmac.new(self._secret, message, hashlib.sha256).digest()
        return UUID_ROOT + str(int.from_bytes(digest[:16], "big"))


def load_secret(secrets: SecretStore) -> bytes:
    """UID secret of a site, made on first use.

    Raises
    ------
    ConfigurationError
        It does not open, or is not a secret.
    """
    return secrets.get(UID_KEY, SECRET_LENGTH)
