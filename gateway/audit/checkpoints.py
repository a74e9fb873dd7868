"""Signed checkpoints: lines that say, with the site's key, what came before them.

The chain alone can be made anew by whoever may write the file. A checkpoint
cannot: its Ed25519 signature (RFC 8032) is over the site, the number and the
digest of the line before it, and its own time. Whoever keeps the public key
elsewhere can tell.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from gateway.audit.chain import Field, Line, Link
from gateway.audit.log import AuditLog
from gateway.errors import AuditBroken, ConfigurationError

ACTION: Final = "checkpoint"
SEED_LENGTH: Final = 32


class Signer(Protocol):
    """Signs checkpoints."""

    @property
    def public(self) -> bytes:
        """The public key, 32 octets (RFC 8032)."""

    def sign(self, statement: bytes) -> bytes:
        """Return the signature, 64 octets."""


class CheckpointSigner:
    """An Ed25519 key.

    Parameters
    ----------
    seed
        32 octets, the private key of RFC 8032.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public(self) -> bytes:
        """The public key, 32 octets."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, statement: bytes) -> bytes:
        """Return the signature, 64 octets."""
        return self._key.sign(statement)


def write_checkpoint(audit: AuditLog, signer: Signer, site: str) -> bool:
    """Append a checkpoint, unless the last line is covered or there is none.

    Returns
    -------
    bool
        Whether one was written.
    """

    def make(last: Link, at: str) -> dict[str, Field] | None:
        if not last.count:
            return None
        signature = signer.sign(_statement(site, last, at))
        return {
            "site": site,
            "line": last.count,
            "digest": last.digest,
            "public_key": _text(signer.public),
            "signature": _text(signature),
        }

    return audit.record_over(ACTION, make)


class Coverage:
    """Follows lines and their checkpoints; knows what is not covered yet."""

    def __init__(self) -> None:
        self.checkpoints = 0
        self.covered = 0
        """The last line that a checkpoint speaks for; its own line is one more."""
        self.keys: set[bytes] = set()
        self.waiting_since: datetime | None = None
        """Time of the first line that none speaks for."""
        self.waiting = 0

    def add(self, line: Line, path: Path, trusted: frozenset[bytes]) -> None:
        """Take a line in; a checkpoint is verified.

        Parameters
        ----------
        trusted
            Public keys it may be signed with; empty: any.

        Raises
        ------
        AuditBroken
            A checkpoint that does not speak for the line before it, is signed
            by another key, or whose signature is wrong.
        """
        if line.entry["action"] == ACTION:
            self.keys.add(_verified(line, path, trusted))
            self.checkpoints += 1
            self.covered = line.link.count - 1
            self.waiting, self.waiting_since = 0, None
            return
        self.waiting += 1
        if self.waiting_since is None:
            self.waiting_since = datetime.fromisoformat(str(line.entry["at"]))

    def is_due(self, now: datetime, lines: int, seconds: float) -> bool:
        """Whether so many lines, or one for so long, wait for a checkpoint."""
        if self.waiting_since is None:
            return False
        waited = now - self.waiting_since
        # A clock that was set back must not put the next one off for long.
        late = waited >= timedelta(seconds=seconds) or waited < timedelta(0)
        return late or self.waiting >= lines


def _verified(line: Line, path: Path, trusted: frozenset[bytes]) -> bytes:
    """Return the key that signed a checkpoint."""
    number, entry = line.link.count, line.entry
    before = Link(number - 1, str(entry["previous"]))
    try:
        public = _octets(entry["public_key"])
        statement = _statement(str(entry["site"]), before, str(entry["at"]))
        Ed25519PublicKey.from_public_bytes(public).verify(
            _octets(entry["signature"]), statement
        )
    except (InvalidSignature, ValueError, KeyError, TypeError) as error:
        raise AuditBroken(
            f"Line {number} of {path}: the signature of the checkpoint is wrong",
            path,
            number,
        ) from error
    if (entry["line"], entry["digest"]) != (before.count, before.digest):
        raise AuditBroken(
            f"Line {number} of {path}: the checkpoint is of another line", path, number
        )
    if trusted and public not in trusted:
        raise AuditBroken(
            f"Line {number} of {path}: the checkpoint is signed by another key, "
            f"{fingerprint(public)}",
            path,
            number,
        )
    return public


def public_pem(public: bytes) -> str:
    """Return a public key as PEM, to keep elsewhere."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_public(path: Path) -> bytes:
    """Read a kept public key.

    Raises
    ------
    ConfigurationError
        The file is not what ``miad-gateway audit key`` gives.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is no public key: give the PEM file that"
            " `miad-gateway audit key` wrote"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is no Ed25519 public key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def fingerprint(public: bytes) -> str:
    """Return how a public key is named: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(public).hexdigest()}"


def _statement(site: str, last: Link, at: str) -> bytes:
    return (
        f"miad-audit-checkpoint-1\n{site}\n{last.count}\n{last.digest}\n{at}".encode()
    )


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _octets(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
