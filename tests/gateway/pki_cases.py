"""Two authorities and certificates of every kind, good and bad, for TLS tests.

``pki_of(folder)`` makes them in well under a second; the fixture ``pki`` does so
once a session. Files are those that ``[tls]`` and ``[[nodes]]`` name.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from config.schema import Site
from gateway.sealing.providers import read_secret
from gateway.tls.certificates import PeerCertificate, sha256_of, shown
from gateway.tls.handshake import Requested, TlsSocket
from gateway.tls.issuing import (
    Issuer,
    KeyType,
    Period,
    Revoked,
    Subject,
    certificate_pem,
    key_pem,
    make_authority,
    make_certificate,
    make_revocation_list,
    new_key,
    revocation_list_pem,
)
from gateway.tls.material import ReadSecret

DAY = timedelta(days=1)
HOST = "gateway.test"
"""The DNS name in the gateway's own certificate, besides localhost, 127.0.0.1."""
BOTH = ("modality.test", "workstation.test")


@dataclass(frozen=True)
class NodeFiles:
    """A node's certificate and key, as PEM files."""

    name: str
    certificate: Path
    key: Path

    @property
    def x509(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    @property
    def fingerprint(self) -> str:
        """As settings take it: ``sha256:AB:CD...``."""
        return shown(sha256_of(self.x509))

    @property
    def peer(self) -> PeerCertificate:
        """As an association carries it."""
        return PeerCertificate.from_der(self.x509.public_bytes(Encoding.DER))


class Authority:
    """An authority of a test, with its files ``ca.pem`` and ``crl.pem``."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate = folder / "ca.pem"
        self.crl = folder / "crl.pem"
        self._revoked: list[Revoked] = []
        self._number = 0
        self.issuer: Issuer = make_authority(
            Subject(name=name), new_key("ecdsa"), period(-400 * DAY, 4000 * DAY)
        )
        self.certificate.write_bytes(certificate_pem(self.issuer.certificate))
        self.write_crl()

    def node(
        self,
        name: str,
        *,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        valid: Period | None = None,
        key_type: KeyType = "ecdsa",
    ) -> NodeFiles:
        """Issue a certificate; again under the same name replaces the files."""
        key = new_key(key_type)
        subject = Subject(
            name=name,
            dns=tuple(dns),
            addresses=tuple(ip_address(one) for one in addresses),
        )
        made = make_certificate(
            self.issuer, subject, key.public_key(), valid or period(-DAY, 365 * DAY)
        )
        files = NodeFiles(
            name, self.folder / f"{name}.pem", self.folder / f"{name}.key"
        )
        files.certificate.write_bytes(certificate_pem(made))
        files.key.write_bytes(key_pem(key))
        files.key.chmod(0o600)
        return files

    def revoke(self, node: NodeFiles) -> None:
        """Put a certificate on the list, and write the list."""
        serial = node.x509.serial_number
        self._revoked.append(Revoked(serial=serial, at=now() - timedelta(hours=1)))
        self.write_crl()

    def write_crl(self, valid: Period | None = None) -> None:
        """Write the revocation list anew."""
        self._number += 1
        made = make_revocation_list(
            self.issuer, self._revoked, self._number, valid or period(-DAY, 365 * DAY)
        )
        self.crl.write_bytes(revocation_list_pem(made))


@dataclass(frozen=True)
class Pki:
    """What a test of TLS needs.

    Attributes
    ----------
    authority, other
        The trusted one, with a revocation list, and one that nobody trusts.
    gateway
        The gateway's own: ``gateway.test``, ``localhost``, 127.0.0.1.
    modality, workstation, archive
        Good nodes; their DNS names are ``NAME.test``.
    stranger
        Of the right authority, for no node of any configuration.
    expired, revoked
        Of the right authority, no longer good, in the names of modality and
        workstation.
    unknown
        Good dates, the same names, of the authority that nobody trusts.
    """

    authority: Authority
    other: Authority
    gateway: NodeFiles
    modality: NodeFiles
    workstation: NodeFiles
    archive: NodeFiles
    stranger: NodeFiles
    expired: NodeFiles
    revoked: NodeFiles
    unknown: NodeFiles

    def tls(self, **settings: object) -> dict[str, object]:
        """Return a ``[tls]`` table with the gateway's files."""
        return {
            "certificate": self.gateway.certificate,
            "key": self.gateway.key,
            "authorities": [self.authority.certificate],
            "revocation_lists": [self.authority.crl],
            **settings,
        }


def pki_of(folder: Path) -> Pki:
    """Make authorities and certificates in a folder."""
    right = Authority(folder / "right", "Test Authority")
    wrong = Authority(folder / "wrong", "Other Authority")
    revoked = right.node("revoked", dns=BOTH)
    right.revoke(revoked)
    return Pki(
        authority=right,
        other=wrong,
        gateway=right.node("gateway", dns=[HOST, "localhost"], addresses=["127.0.0.1"]),
        modality=right.node("modality", dns=["modality.test"]),
        workstation=right.node("workstation", dns=["workstation.test"]),
        archive=right.node(
            "archive", dns=["archive.test", "localhost"], addresses=["127.0.0.1"]
        ),
        stranger=right.node("stranger", dns=["stranger.test"]),
        expired=right.node("expired", dns=BOTH, valid=period(-30 * DAY, -DAY)),
        revoked=revoked,
        unknown=wrong.node("modality", dns=BOTH),
    )


def client_context(pki: Pki, node: NodeFiles | None) -> ssl.SSLContext:
    """Return a peer's context that trusts the gateway; None: no certificate."""
    context = ssl.create_default_context(cafile=str(pki.authority.certificate))
    if node is not None:
        context.load_cert_chain(node.certificate, node.key)
    return context


def server_context(pki: Pki, node: NodeFiles) -> ssl.SSLContext:
    """Return a peer's context for being called: it wants the gateway's certificate."""
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(pki.authority.certificate)
    )
    context.load_cert_chain(node.certificate, node.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def calling(pki: Pki, node: NodeFiles | None, name: str = HOST) -> Requested:
    """Return what ``associated(..., tls_args=...)`` takes to call the gateway."""
    context = client_context(pki, node)
    context.sslsocket_class = TlsSocket
    return Requested(
        context=context,
        server_name=name,
        pins=frozenset(),
        revoked=lambda _certificate: False,
        clock=now,
    )


def secure_site(directory: Path, pki: Pki, **sections: Any) -> Site:
    """Settings with TLS only: MODALITY stores, WORKSTATION may have all originals.

    Both are known by names in certificates, so that nothing but TLS keeps an
    expired, a revoked or a foreign certificate in their names out.
    """
    settings = {
        "data_directory": directory,
        "tls": pki.tls(),
        "receiver": {"port": 0},
        "recovery": {"port": 0},
        "nodes": [
            secure_node("MODALITY", "store"),
            secure_node("WORKSTATION", "recover", "read"),
        ],
        "grants": [{"name": "all", "nodes": ["workstation"], "when": "true"}],
    }
    return Site.model_validate(settings | sections)


def secure_node(title: str, *roles: str, **more: object) -> dict[str, object]:
    """Return a ``[[nodes]]`` table: a node known by the DNS name ``title.test``."""
    name = title.lower()
    own = {"name": name, "ae_titles": [title], "roles": roles}
    return {**own, "certificate_names": [f"{name}.test"], **more}


def secrets_in(directory: Path) -> ReadSecret:
    """Return what reads passphrases as a gateway with that data directory does."""
    return partial(read_secret, base_directory=directory)


def period(start: timedelta, end: timedelta) -> Period:
    """Return a period around the present."""
    return Period(start=now() + start, end=now() + end)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
