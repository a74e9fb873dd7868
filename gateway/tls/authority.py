"""A site's own authority: a folder with its key, and what it has issued.

For sites that have none. Its key is needed only to issue and to revoke: the
folder belongs on a machine, or a medium, that is not the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)

from gateway.errors import AuthorityRefused, PassphraseMissing
from gateway.tls.certificates import read_certificates, read_octets, sha256_of
from gateway.tls.issuing import (
    Issuer,
    KeyType,
    Period,
    PrivateKey,
    PublicKey,
    Revoked,
    Subject,
    certificate_pem,
    is_strong,
    key_pem,
    make_authority,
    make_certificate,
    make_revocation_list,
    new_key,
    revocation_list_pem,
)
from gateway.tls.ledger import Entry, Ledger, LedgerFile, write_whole

AUTHORITY_DAYS: Final = 3650
NODE_DAYS: Final = 730
LIST_DAYS: Final = 180
"""A list is made anew at each revocation; this is how long one may stay the last."""

CLOCK_SKEW: Final = timedelta(hours=1)
"""Certificates are good from so long before they are made: clocks differ."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_URL: Final = re.compile(r"http://[A-Za-z0-9.-]+(:[0-9]+)?/[!-~]*")
_DNS: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    r"(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A certificate to be issued.

    Attributes
    ----------
    name
        Of the node; the common name, and the name of its files.
    dns, addresses
        What it is called by.
    ae_titles
        Noted in the ledger, not in the certificate.
    """

    name: str
    dns: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    ae_titles: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        ae_titles: Sequence[str] = (),
    ) -> Wanted:
        """Check what somebody typed.

        Raises
        ------
        AuthorityRefused
            A name or an address is none.
        """
        if not _NAME.fullmatch(name):
            raise AuthorityRefused(
                f"{name!r} is no name of a node: letters, digits, '.', '_' and '-', 64"
                " at most"
            )
        lowered = tuple(one.lower() for one in dns)
        for one in lowered:
            if not _DNS.fullmatch(one):
                raise AuthorityRefused(f"{one!r} is no DNS name; no patterns")
        try:
            parsed = tuple(ip_address(one) for one in addresses)
        except ValueError as error:
            raise AuthorityRefused(f"{error}; give an IPv4 or IPv6 address") from error
        return cls(name=name, dns=lowered, addresses=parsed, ae_titles=tuple(ae_titles))

    def names(self) -> frozenset[str]:
        """Return what a peer with this certificate can be known by."""
        return frozenset({self.name.lower(), *self.dns})


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate and the files it lies in; ``key`` None: the node has it."""

    entry: Entry
    certificate: Path
    key: Path | None
    pkcs12: Path | None


class SiteAuthority:
    """An authority in a folder.

    Parameters
    ----------
    folder
        Made by `create`.
    clock
        Returns the present, aware.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._file = LedgerFile(folder / "index.json")
        self._clock = clock

    @property
    def certificate(self) -> Path:
        """Its certificate, for everyone who shall trust it."""
        return self._folder / "ca.pem"

    @property
    def key(self) -> Path:
        """Its private key."""
        return self._folder / "ca.key"

    @property
    def revocation_list(self) -> Path:
        """Its revocation list, for the same."""
        return self._folder / "crl.pem"

    def create(
        self,
        name: str,
        kind: KeyType,
        passphrase: bytes | None,
        days: int,
        list_url: str = "",
    ) -> None:
        """Make the authority, with an empty revocation list.

        Parameters
        ----------
        name
            Of the site.
        kind, passphrase, days
            Of its key; how long its certificate is good.
        list_url
            Where the site will publish its revocation list, if it does.

        Raises
        ------
        AuthorityRefused
            There is one already, or the URL is none.
        """
        if list_url and not _URL.fullmatch(list_url):
            raise AuthorityRefused(f"{list_url!r} is no http:// URL of a list")
        if self._folder.exists() and any(self._folder.iterdir()):
            raise AuthorityRefused(
                f"{self._folder} is not empty; an authority gets a folder of its own"
            )
        (self._folder / "issued").mkdir(parents=True)
        self._folder.chmod(0o700)
        key = new_key(kind)
        subject = Subject(name=f"{name} authority", organisation=name)
        made = make_authority(subject, key, self._period(days))
        write_whole(self.key, key_pem(key, passphrase), 0o600)
        write_whole(self.certificate, certificate_pem(made.certificate), 0o644)
        self._write_list(Ledger(list_days=LIST_DAYS, list_url=list_url), made)

    def is_encrypted(self) -> bool:
        """Whether the authority's key needs a passphrase."""
        return b"ENCRYPTED" in read_octets(self.key)

    def unlock(self, passphrase: bytes | None) -> Issuer:
        """Return the authority with its key.

        Raises
        ------
        PassphraseMissing
            The key is encrypted, and there is no passphrase or the wrong one.
        """
        try:
            key = load_pem_private_key(
                read_octets(self.key), passphrase if self.is_encrypted() else None
            )
        except (TypeError, ValueError) as error:
            raise PassphraseMissing(
                f"{self.key} does not open; say where the right passphrase is with"
                " --ca-passphrase"
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        certificate = read_certificates(self.certificate)[0]
        return Issuer(certificate, key, self.ledger().list_url)

    def ledger(self) -> Ledger:
        """Return what was issued."""
        return self._file.read()

    def issue(
        self,
        issuer: Issuer,
        wanted: Wanted,
        kind: KeyType,
        days: int,
        *,
        passphrase: bytes | None = None,
        with_pkcs12: bool = False,
    ) -> Issued:
        """Make a key and a certificate for a node.

        Parameters
        ----------
        issuer
            From `unlock`.
        wanted
            For whom.
        kind, days
            Of the key; how long the certificate is good.
        passphrase
            Encrypts the node's key.
        with_pkcs12
            Also write key and certificates as PKCS#12; needs the passphrase.

        Raises
        ------
        AuthorityRefused
            The node, or one of its names, has a good certificate already.
        """
        if with_pkcs12 and not passphrase:
            raise AuthorityRefused(
                "PKCS#12 takes a passphrase; say where it is with --passphrase"
            )
        key = new_key(kind)
        with self._file.locked() as ledger:
            self._check_free(ledger, wanted)
            made = self._sign(ledger, issuer, wanted, key.public_key(), days)
        return self._write(made, key, passphrase, issuer if with_pkcs12 else None)

    def sign(self, issuer: Issuer, wanted: Wanted, request: bytes, days: int) -> Issued:
        """Make a certificate for a key that stays where it is.

        Of the request only the key is taken; names are those in ``wanted``.

        Raises
        ------
        AuthorityRefused
            The request is none, is not signed with its key, the key is too weak,
            or a name is taken.
        """
        public = _key_of(request)
        with self._file.locked() as ledger:
            self._check_free(ledger, wanted)
            made = self._sign(ledger, issuer, wanted, public, days)
        return self._write(made, None, None, None)

    def renew(
        self, issuer: Issuer, name: str, days: int, passphrase: bytes | None = None
    ) -> Issued:
        """Issue a node's certificate anew, with a new key where the key is here.

        The one of before stays good until it ends or is revoked, so that both ends
        can change over.

        Raises
        ------
        AuthorityRefused
            The node has no certificate.
        """
        with self._file.locked() as ledger:
            entry = _last_of(ledger, name)
            wanted = Wanted.of(entry.name, entry.dns, entry.addresses, entry.ae_titles)
            old = read_certificates(self._path(entry.name, "pem"))[0].public_key()
            key: PrivateKey | None = None
            if self._path(entry.name, "key").exists():
                key = new_key("rsa" if isinstance(old, rsa.RSAPublicKey) else "ecdsa")
            public = old if key is None else key.public_key()
            assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
            made = self._sign(ledger, issuer, wanted, public, days)
        return self._write(made, key, passphrase, None)

    def revoke(self, issuer: Issuer, which: str) -> tuple[Entry, ...]:
        """Revoke a node's certificates, or one by serial, and make the list anew.

        Raises
        ------
        AuthorityRefused
            There is no such certificate that was not revoked before.
        """
        with self._file.locked() as ledger:
            found = [e for e in ledger.of(which) if e.revoked_at is None]
            if not found:
                raise AuthorityRefused(
                    f"no certificate of {which!r} can be revoked; see pki list"
                )
            serials = frozenset(entry.serial for entry in found)
            self._write_list(ledger.revoked(serials, self._clock()), issuer)
        return tuple(found)

    def renew_list(self, issuer: Issuer, days: int) -> datetime:
        """Make the revocation list anew; return when it ends."""
        with self._file.locked() as ledger:
            self._write_list(replace(ledger, list_days=days), issuer)
        return self._period(days).end

    def _check_free(self, ledger: Ledger, wanted: Wanted) -> None:
        """Refuse names by which two nodes would be taken for one another."""
        for entry in ledger.good(self._clock()):
            taken = wanted.names() & {entry.name.lower(), *entry.dns}
            if taken:
                raise AuthorityRefused(
                    f"{', '.join(sorted(taken))} is in the certificate of"
                    f" {entry.name!r}, good until {entry.not_after}; use pki renew, or"
                    " revoke it first"
                )

    def _sign(
        self,
        ledger: Ledger,
        issuer: Issuer,
        wanted: Wanted,
        public: PublicKey,
        days: int,
    ) -> tuple[x509.Certificate, Entry]:
        """Sign, and note it before the certificate leaves: it can be revoked."""
        subject = Subject(name=wanted.name, dns=wanted.dns, addresses=wanted.addresses)
        made = make_certificate(issuer, subject, public, self._period(days))
        entry = Entry(
            serial=f"{made.serial_number:X}",
            name=wanted.name,
            sha256=sha256_of(made),
            dns=wanted.dns,
            addresses=tuple(str(address) for address in wanted.addresses),
            ae_titles=wanted.ae_titles,
            not_before=made.not_valid_before_utc.isoformat(),
            not_after=made.not_valid_after_utc.isoformat(),
        )
        self._file.write(ledger.added(entry))
        return made, entry

    def _write(
        self,
        made: tuple[x509.Certificate, Entry],
        key: PrivateKey | None,
        passphrase: bytes | None,
        bundled: Issuer | None,
    ) -> Issued:
        certificate, entry = made
        paths = {kind: self._path(entry.name, kind) for kind in ("pem", "key", "p12")}
        if key is not None:
            write_whole(paths["key"], key_pem(key, passphrase), 0o600)
        write_whole(paths["pem"], certificate_pem(certificate), 0o644)
        if key is not None and bundled is not None and passphrase:
            bundle = pkcs12.serialize_key_and_certificates(
                entry.name.encode(),
                key,
                certificate,
                [bundled.certificate],
                BestAvailableEncryption(passphrase),
            )
            write_whole(paths["p12"], bundle, 0o600)
        return Issued(
            entry=entry,
            certificate=paths["pem"],
            key=None if key is None else paths["key"],
            pkcs12=None if bundled is None else paths["p12"],
        )

    def _write_list(self, ledger: Ledger, issuer: Issuer) -> None:
        """Write the ledger, then the list that follows from it."""
        counted = replace(ledger, list_number=ledger.list_number + 1)
        revoked = [
            Revoked(
                serial=int(entry.serial, 16),
                at=datetime.fromisoformat(entry.revoked_at),
            )
            for entry in counted.entries
            if entry.revoked_at is not None
        ]
        made = make_revocation_list(
            issuer, revoked, counted.list_number, self._period(counted.list_days)
        )
        self._file.write(counted)
        write_whole(self.revocation_list, revocation_list_pem(made), 0o644)

    def _period(self, days: int) -> Period:
        now = self._clock().replace(microsecond=0)
        return Period(start=now - CLOCK_SKEW, end=now + timedelta(days=days))

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / "issued" / f"{name}.{kind}"


def _last_of(ledger: Ledger, name: str) -> Entry:
    found = [entry for entry in ledger.entries if entry.name == name]
    if not found:
        raise AuthorityRefused(f"no certificate was issued for {name!r}; see pki list")
    return found[-1]


def _key_of(request: bytes) -> PublicKey:
    try:
        parsed = x509.load_pem_x509_csr(request)
    except ValueError as error:
        raise AuthorityRefused(
            "this is no certificate request in PEM form (PKCS#10)"
        ) from error
    if not parsed.is_signature_valid:
        raise AuthorityRefused("the request is not signed with the key it names")
    public = parsed.public_key()
    if not isinstance(
        public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    ) or not is_strong(public):
        raise AuthorityRefused(
            "the key of the request is too weak: RSA of 2048 bits or EC of 256"
        )
    return public
