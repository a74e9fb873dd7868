"""Personal fields of the trail: sealed, so that only the key's holder reads them."""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InvalidSeal

KEY_LENGTH: Final = 32
SEALED: Final = "<sealed>"
DROPPED: Final = "<dropped: no key>"

_VERSION: Final = b"\x01"
_NONCE_LENGTH: Final = 12


class FieldSealer(Protocol):
    """Seals what names a patient."""

    def seal(self, value: bytes, context: bytes) -> str:
        """Return text that opens for this context only."""

    def open(self, sealed: str, context: bytes) -> bytes:
        """Return what was sealed; raise InvalidSeal for anything else."""


class AesFieldSealer:
    """AES-256-GCM, a random nonce per line.

    Parameters
    ----------
    key
        32 octets.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, value: bytes, context: bytes) -> str:
        """Return text that opens for this context only."""
        nonce = os.urandom(_NONCE_LENGTH)
        sealed = self._cipher.encrypt(nonce, value, _VERSION + context)
        return base64.b64encode(_VERSION + nonce + sealed).decode("ascii")

    def open(self, sealed: str, context: bytes) -> bytes:
        """Return what was sealed.

        Raises
        ------
        InvalidSeal
            Another key, another line, or altered.
        """
        try:
            octets = base64.b64decode(sealed, validate=True)
            nonce, body = octets[1 : 1 + _NONCE_LENGTH], octets[1 + _NONCE_LENGTH :]
            return self._cipher.decrypt(nonce, body, octets[:1] + context)
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise InvalidSeal(
                "a sealed field of the audit trail does not open"
            ) from error


def seal_fields(sealer: FieldSealer | None, values: dict[str, Any], place: str) -> str:
    """Seal the personal fields of a line; without a key they are dropped."""
    if sealer is None:
        return DROPPED
    return sealer.seal(json.dumps(values).encode(), place.encode())


def open_fields(sealer: FieldSealer, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the personal fields of a line; empty where it has none.

    Raises
    ------
    InvalidSeal
        They do not open.
    """
    sealed = entry.get("personal")
    if not sealed or sealed == DROPPED:
        return {}
    opened = sealer.open(str(sealed), place_of(entry).encode())
    fields: dict[str, Any] = json.loads(opened)
    return fields


def place_of(entry: dict[str, Any]) -> str:
    """Return what ties sealed fields to their line."""
    return f"miad-audit {entry['n']} {entry['at']} {entry['action']}"
