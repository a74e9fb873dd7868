"""Certificates of the demo: an authority for an afternoon, and its nodes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.tls.authority import SiteAuthority, Wanted

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK: Final = "127.0.0.1"
DAYS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A node's certificate and key, and whom it trusts, as PEM files."""

    certificate: Path
    key: Path
    authority: Path

    def calling(self) -> tuple[ssl.SSLContext, str]:
        """Return what pynetdicom takes to call the gateway."""
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        return context, LOOPBACK

    def called(self) -> ssl.SSLContext:
        """Return the context of a node that wants to see the gateway's certificate."""
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=self.authority
        )
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Everybody's credentials; ``stranger`` is known to nobody."""

    gateway: Credentials
    modality: Credentials
    workstation: Credentials
    outside: Credentials
    stranger: Credentials
    revocation_list: Path


def make_identities(folder: Path) -> Identities:
    """Make an authority in a new folder, and a certificate for everybody."""
    authority = SiteAuthority(folder)
    authority.create("Demo", "ecdsa", None, DAYS)
    issuer = authority.unlock(None)

    def issued(name: str) -> Credentials:
        wanted = Wanted.of(name, [f"{name}.demo"], [LOOPBACK])
        made = authority.issue(issuer, wanted, "ecdsa", DAYS)
        assert made.key is not None
        return Credentials(
            certificate=made.certificate,
            key=made.key,
            authority=authority.certificate,
        )

    return Identities(
        gateway=issued("gateway"),
        modality=issued("modality"),
        workstation=issued("workstation"),
        outside=issued("outside"),
        stranger=issued("stranger"),
        revocation_list=authority.revocation_list,
    )
