"""What the commands about master keys share: the site, its keys, the trail."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config.schema import Site
    from gateway.app.places import Places
    from gateway.audit.log import AuditLog
    from gateway.sealing.providers import Provider
    from gateway.sealing.ring import KeyRing

NOTES: Final = "backups.json"


@dataclass(frozen=True)
class KeySite:
    """A site whose keys are looked after."""

    site: Site

    @cached_property
    def places(self) -> Places:
        """What lies where."""
        from gateway.app.places import Places

        return Places(self.site.data_directory)

    @cached_property
    def ring(self) -> KeyRing:
        """Its master keys.

        Raises
        ------
        ConfigurationError
            There are none, or the current one is gone.
        """
        from gateway.app.openers import open_keys_of

        return open_keys_of(self.site)

    @cached_property
    def provider(self) -> Provider:
        """Where its current key comes from."""
        from gateway.sealing.providers import provider_of

        return provider_of(self.site.vault.master_key, self.site.data_directory)

    @property
    def has_key(self) -> bool:
        """Whether the current key was made yet; one in a file is, on first use."""
        return self.provider.stamp() is not None

    @cached_property
    def audit(self) -> AuditLog:
        """Its audit trail."""
        from gateway.audit.log import AuditLog

        return AuditLog(self.places.audit)

    def record(self, action: str, **fields: str | int | bool) -> None:
        """Put a line about something done into the trail; it must be writable."""
        self.audit.record(action, "success", operator=operator(), **fields)

    def refuse(self, action: str, error: Exception, **fields: str | int) -> None:
        """Put a line about something refused into the trail, if that can be."""
        self.audit.note(
            action, "refused", operator=operator(), reason=str(error), **fields
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands about keys away.

        Raises
        ------
        GatewayError
            One is at work, or the account is not the service's: it could not read
            what this command makes.
        """
        root = self.places.root
        if root.exists() and root.stat().st_uid != os.geteuid():
            raise GatewayError(
                f"{root} belongs to {_account(root.stat().st_uid)}; give this command "
                "as that user"
            )
        path = self.places.lock("keys")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise GatewayError(
                    "another keys command is at work in this data directory; "
                    "wait until it ends"
                ) from error
            with self._alone_on_all_machines():
                yield

    @contextmanager
    def _alone_on_all_machines(self) -> Iterator[None]:
        from gateway.app.openers import server_of_site
        from gateway.store.locks import Locks

        server = server_of_site(self.site)
        if server is None:
            yield
            return
        with Locks(server)("keys"):
            yield

    def notes(self) -> dict[str, dict[str, str]]:
        """When which key was backed up and its backup tried, by key id."""
        try:
            found: dict[str, dict[str, str]] = json.loads(self._notes.read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def note(self, key_id: str, **what: str) -> None:
        """Remember that a key was backed up, or its backup tried."""
        from gateway.store.files import write_durably

        notes: dict[str, Any] = self.notes()
        notes[key_id] = notes.get(key_id, {}) | what
        write_durably(self._notes, json.dumps(notes, indent=2).encode())

    @property
    def _notes(self) -> Path:
        return self.places.root / "secrets" / NOTES


def open_site(config: Path) -> KeySite:
    """Read the site's file."""
    from config.load import load_site

    return KeySite(load_site(config))


def operator() -> str:
    """Name of the account that gave the command, as the system knows it."""
    return _account(os.getuid())


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
