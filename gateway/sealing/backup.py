"""A master key in a file under a passphrase: scrypt (RFC 7914) and AES-256-GCM.

The file is JSON. What it says of itself, site and key id among it, can be read
by anyone and is authenticated with the key.
"""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.errors import BackupRefused
from gateway.sealing.providers import (
    CredentialProvider,
    EnvironmentProvider,
    FileProvider,
)

if TYPE_CHECKING:
    from gateway.sealing.providers import Provider

FORMAT: Final = "miad-gateway-key-export"
VERSION: Final = 1
COST: Final = 1 << 17
"""128 MiB of memory for every passphrase tried (OWASP's first choice)."""
MAX_COST: Final = 1 << 20
"""An export asks for no more than 1 GiB to be opened."""
BLOCK: Final = 8
SALT_LENGTH: Final = 16
NONCE_LENGTH: Final = 12
LENGTH: Final = 32
MIN_PASSPHRASE: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """An opened export: whose key it is, and the key."""

    site: str
    key_id: str
    secret: bytes = field(repr=False)


def secret_of(provider: Provider) -> bytes:
    """Octets of a master key, to be backed up.

    Raises
    ------
    BackupRefused
        It cannot leave its token.
    ConfigurationError
        Its source has none.
    """
    local = (FileProvider, EnvironmentProvider, CredentialProvider)
    if not isinstance(provider, local):
        raise BackupRefused(
            "the master key is in a token (PKCS#11), which does not give it out: use "
            "the token's own backup (a second token with the same wrapped key, or "
            "the vendor's key ceremony), and try it there"
        )
    return provider.secret()


def seal_export(export: Export, passphrase: str) -> bytes:
    """Octets of a file that gives the key back to whoever has the passphrase.

    Raises
    ------
    BackupRefused
        The passphrase has fewer than twelve characters.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise BackupRefused(
            f"the passphrase has {len(passphrase)} characters; {MIN_PASSPHRASE} are "
            "the least, six random words are better: the file can be tried offline"
        )
    salt, nonce = os.urandom(SALT_LENGTH), os.urandom(NONCE_LENGTH)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "site": export.site,
        "key_id": export.key_id,
        "kdf": {"name": "scrypt", "n": COST, "r": BLOCK, "p": 1, "salt": _text(salt)},
    }
    cipher = AESGCM(_derive(passphrase, salt, COST))
    sealed = nonce + cipher.encrypt(nonce, export.secret, _context(head))
    return json.dumps(head | {"sealed": _text(sealed)}, indent=2).encode() + b"\n"


def open_export(data: bytes, passphrase: str) -> Export:
    """Open an export.

    Raises
    ------
    BackupRefused
        It is no export this version can read, it was altered, or the passphrase
        is another one.
    """
    try:
        head = json.loads(data)
        sealed = _octets(head.pop("sealed"))
        salt, cost = _parameters(head)
        site, key_id = str(head["site"]), str(head["key_id"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BackupRefused(
            "this is not a key export that this version can read"
        ) from error
    cipher = AESGCM(_derive(passphrase, salt, cost))
    try:
        secret = cipher.decrypt(
            sealed[:NONCE_LENGTH], sealed[NONCE_LENGTH:], _context(head)
        )
    except (InvalidTag, ValueError):
        raise BackupRefused(
            f"the export of key {key_id} of site {site} does not open: wrong "
            "passphrase, or the file was altered"
        ) from None
    if len(secret) != LENGTH:
        raise BackupRefused("the export holds no master key")
    return Export(site=site, key_id=key_id, secret=secret)


def _parameters(head: dict[str, Any]) -> tuple[bytes, int]:
    kdf = head["kdf"]
    salt, cost = _octets(kdf["salt"]), int(kdf["n"])
    if head["format"] == FORMAT and head["version"] > VERSION:
        raise BackupRefused(
            f"the key export is of version {head['version']}, and this program reads "
            f"versions up to {VERSION}: a newer version wrote it; use that one"
        )
    known = (head["format"], head["version"]) == (FORMAT, VERSION)
    bounded = 1 < cost <= MAX_COST and cost & (cost - 1) == 0
    if (
        not known
        or not bounded
        or (kdf["name"], kdf["r"], kdf["p"])
        != (
            "scrypt",
            BLOCK,
            1,
        )
    ):
        raise ValueError("unknown format, version or parameters")
    return salt, cost


def _derive(passphrase: str, salt: bytes, cost: int) -> bytes:
    # The same passphrase typed on two keyboards may come in two forms.
    octets = unicodedata.normalize("NFKC", passphrase).encode()
    return Scrypt(salt=salt, length=LENGTH, n=cost, r=BLOCK, p=1).derive(octets)


def _context(head: dict[str, Any]) -> bytes:
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _octets(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
