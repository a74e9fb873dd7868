"""What an authority has issued, in a file that changes whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from gateway.errors import AuthorityRefused

VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A certificate that was issued.

    Attributes
    ----------
    serial
        Hexadecimal, as ``openssl x509 -serial`` shows it.
    name
        Of the node.
    sha256
        As `PeerCertificate.sha256`.
    dns, addresses, ae_titles
        What it was issued for.
    not_before, not_after, revoked_at
        ISO 8601, UTC.
    """

    serial: str
    name: str
    sha256: str
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ae_titles: tuple[str, ...] = ()
    not_before: str
    not_after: str
    revoked_at: str | None = None

    def state(self, now: datetime) -> Literal["good", "ended", "revoked"]:
        """Return what a certificate is worth now."""
        if self.revoked_at is not None:
            return "revoked"
        return "ended" if datetime.fromisoformat(self.not_after) <= now else "good"


@dataclass(frozen=True)
class Ledger:
    """What an authority knows.

    Attributes
    ----------
    entries
        All certificates, oldest first.
    list_number, list_days
        Of the last revocation list, and how long it is good.
    list_url
        Where nodes can fetch it; empty: nowhere.
    """

    entries: tuple[Entry, ...] = ()
    list_number: int = 0
    list_days: int = 180
    list_url: str = ""

    def added(self, entry: Entry) -> Ledger:
        """Return the ledger with one certificate more."""
        return replace(self, entries=(*self.entries, entry))

    def revoked(self, serials: frozenset[str], at: datetime) -> Ledger:
        """Return the ledger with certificates revoked."""
        when = at.isoformat(timespec="seconds")
        return replace(
            self,
            entries=tuple(
                replace(entry, revoked_at=when)
                if entry.serial in serials and entry.revoked_at is None
                else entry
                for entry in self.entries
            ),
        )

    def good(self, now: datetime) -> tuple[Entry, ...]:
        """Return the certificates that still open doors."""
        return tuple(entry for entry in self.entries if entry.state(now) == "good")

    def of(self, which: str) -> tuple[Entry, ...]:
        """Return the certificates of a node, or the one of a serial number."""
        serial = which.upper().replace(":", "").removeprefix("0X").lstrip("0")
        return tuple(
            entry
            for entry in self.entries
            if entry.name == which or entry.serial.lstrip("0") == serial
        )


class LedgerFile:
    """A ledger on disk; a change locks out other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Ledger:
        """Read the ledger.

        Raises
        ------
        AuthorityRefused
            The file is missing or is no ledger.
        """
        try:
            found = json.loads(self._path.read_text("utf-8"))
            return _ledger(found)
        except OSError as error:
            raise AuthorityRefused(
                f"{self._path} cannot be read: {error.strerror or error}; make an"
                " authority with: miad-gateway pki init DIR --name SITE"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise AuthorityRefused(
                f"{self._path} is not the ledger of an authority; put the file back"
                " from a backup: without it nothing can be revoked"
            ) from error

    def write(self, ledger: Ledger) -> None:
        """Write the ledger; it is there whole or as it was."""
        found = {"version": VERSION, **asdict(ledger)}
        write_whole(self._path, json.dumps(found, indent=1).encode(), 0o600)

    @contextmanager
    def locked(self) -> Iterator[Ledger]:
        """Read the ledger and keep other processes from changing it meanwhile."""
        lock = self._path.with_name(".lock")
        with lock.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield self.read()


def write_whole(path: Path, octets: bytes, mode: int) -> None:
    """Write a file so that it is there whole, with its mode, or as it was."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(octets)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _ledger(found: dict[str, Any]) -> Ledger:
    if found["version"] != VERSION:
        raise ValueError("another version")
    entries = tuple(_entry(one) for one in found["entries"])
    return Ledger(
        entries,
        int(found["list_number"]),
        int(found["list_days"]),
        str(found["list_url"]),
    )


def _entry(found: dict[str, Any]) -> Entry:
    lists = {k: tuple(found[k]) for k in ("dns", "addresses", "ae_titles")}
    return Entry(**found | lists)
