"""Who may call, how it is known, and what for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field

from config.schema.base import (
    AETitle,
    Fingerprint,
    KeySource,
    Name,
    Network,
    Port,
    Settings,
)

Role = Literal["store", "read", "recover", "commit"]
"""``store``: send objects in, and ask whether they are kept. ``read``: find and
retrieve protected objects. ``recover``: find and retrieve originals, as far as a
grant says. ``commit``: report what it keeps of what it was sent."""

PersonRole = Literal["viewer", "operator", "approver", "security"]
"""``viewer`` sees states, ``operator`` also releases and retries, ``approver`` may
be one of the two who approve a bulk recovery, ``security`` changes grants and sees
the audit trail."""


class Tls(Settings):
    """The gateway's certificate and whom it trusts (PS3.15 B.12, B.13)."""

    certificate: Path
    """PEM: its own first, then the intermediate ones."""
    key: Path
    """PEM private key, mode 0600."""
    key_passphrase: KeySource | None = None
    authorities: tuple[Path, ...] = Field(min_length=1)
    """PEM files of the authorities whose certificates are accepted."""
    revocation_lists: tuple[Path, ...] = ()
    """PEM files; if there is any, every authority needs its own."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    warn_days: int = Field(default=30, ge=0)
    """Certificates and revocation lists that end sooner are warned of."""


class Address(Settings):
    """Where an AE listens, and how it is known."""

    ae_title: AETitle
    host: str
    port: Port
    plain: bool = False
    """Call it without TLS. Not safe."""
    tls_name: str | None = None
    """Name its certificate must hold; absent: ``host``."""
    certificates: tuple[Path | Fingerprint, ...] = ()
    """Its certificates; then names do not count."""


class Node(Settings):
    """A machine that may call: how it is known, and what for."""

    name: Name
    ae_titles: tuple[AETitle, ...] = Field(min_length=1)
    """As which it may call; a certificate of another node may not."""
    roles: tuple[Role, ...] = Field(min_length=1)
    certificates: tuple[Path | Fingerprint, ...] = ()
    """Its certificates: PEM files or fingerprints. One of them must be shown."""
    certificate_names: tuple[str, ...] = ()
    """Instead: a DNS name or common name in a certificate of a trusted authority."""
    addresses: tuple[Network, ...] = ()
    """Where it calls from; empty: anywhere, if it shows its certificate."""
    plain: bool = False
    """May call without TLS, known by AE title and address only. Not safe."""
    move_destinations: tuple[AETitle, ...] = ()
    """Where it may have protected objects sent; empty: to itself only."""
    idle_seconds: float | None = Field(default=None, gt=0)
    """Completion idle time of this source; the site's default when absent."""
    commitment: Address | None = None
    """Where it takes reports of storage commitment; absent: only on the association
    on which it asked."""


class Person(Settings):
    """Someone who works at the gateway, known by a certificate."""

    name: Name
    roles: tuple[PersonRole, ...] = Field(min_length=1)
    certificates: tuple[Path | Fingerprint, ...] = Field(min_length=1)


class Grant(Settings):
    """Which originals nodes may have back. Nothing is granted by default."""

    name: Name
    nodes: tuple[Name, ...] = Field(min_length=1)
    when: str
    """CEL over the patient and study attributes of an original, and the AE title
    it came from (``calling_ae``); ``true`` for all."""
    move_destinations: tuple[AETitle, ...] = ()
    """Where they may have them sent; empty: to themselves only."""
    until: AwareDatetime | None = None
    """When it ends; absent: when it is revoked."""
    users: tuple[str, ...] = ()
    """Only for requests in the name of these (PS3.7 D.3.3.7); empty: for any."""
