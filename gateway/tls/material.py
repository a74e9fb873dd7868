"""What the files of a ``[tls]`` table hold, and what is wrong with them."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from config.schema import Tls
from gateway.errors import ConfigurationError
from gateway.tls.certificates import (
    read_certificates,
    read_octets,
    read_revocation_list,
    subject_of,
)
from gateway.tls.issuing import is_strong

ReadSecret = Callable[[str], bytes]
"""Returns the secret behind a ``KeySource`` setting."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Something with an end: a certificate or a revocation list.

    Attributes
    ----------
    what
        ``certificate``, ``authority``, ``revocation list``, ``certificate of ...``.
    path
        Where it lies.
    subject
        Whose it is.
    end
        When it ends, aware.
    """

    what: str
    path: Path
    subject: str
    end: datetime

    def warning(self, now: datetime, days: int) -> str | None:
        """Return a sentence if it ends within some days, or has ended."""
        left = self.end - now
        if left > timedelta(days=days):
            return None
        when = f"{self.end:%Y-%m-%d %H:%M} UTC"
        state = f"ended {when}" if left <= timedelta(0) else f"ends {when}"
        return f"{self.what} {self.path} ({self.subject}) {state}: renew it"


@dataclass(frozen=True, kw_only=True)
class PinnedEnding(Ending):
    """A certificate that settings pin by file."""

    certificate: x509.Certificate


@dataclass(frozen=True)
class Material:
    """The certificates and revocation lists of a ``[tls]`` table, read.

    Attributes
    ----------
    settings
        Where they lie.
    chain
        The gateway's own certificate, then the intermediate ones.
    authorities, lists
        By file.
    """

    settings: Tls
    chain: tuple[x509.Certificate, ...]
    authorities: tuple[tuple[Path, x509.Certificate], ...]
    lists: tuple[tuple[Path, x509.CertificateRevocationList], ...]

    def endings(self) -> Iterator[Ending]:
        """Yield everything that ends."""
        for certificate in self.chain:
            yield _ending("certificate", self.settings.certificate, certificate)
        for path, authority in self.authorities:
            yield _ending("authority", path, authority)
        for path, revocations in self.lists:
            yield Ending(
                what="revocation list",
                path=path,
                subject=revocations.issuer.rfc4514_string(),
                end=_list_end(revocations),
            )

    def revoked(self, certificate: x509.Certificate) -> bool:
        """Whether a list of its issuer names a certificate."""
        serial = certificate.serial_number
        return any(
            revocations.issuer == certificate.issuer
            and revocations.get_revoked_certificate_by_serial_number(serial) is not None
            for _, revocations in self.lists
        )


def read_material(settings: Tls) -> Material:
    """Read the files of a ``[tls]`` table, but for the key.

    Raises
    ------
    ConfigurationError
        One of them cannot be read or holds something else.
    """
    return Material(
        settings=settings,
        chain=read_certificates(settings.certificate),
        authorities=tuple(
            (path, certificate)
            for path in settings.authorities
            for certificate in read_certificates(path)
        ),
        lists=tuple(
            (path, read_revocation_list(path)) for path in settings.revocation_lists
        ),
    )


def material_mistakes(
    material: Material, read_secret: ReadSecret, now: datetime
) -> Iterator[str]:
    """Yield what keeps these files from being used, each with its remedy."""
    own = material.chain[0]
    where = material.settings.certificate
    yield from _period_mistakes(where, own, now)
    if not is_strong(own.public_key()):
        yield f"{where}: its key is too short; use RSA of 2048 bits or EC of 256"
    yield from _key_mistakes(material.settings, own, read_secret)
    for path, authority in material.authorities:
        yield from _period_mistakes(path, authority, now)
        if not _is_authority(authority):
            yield (
                f"{path}: {subject_of(authority)} is not an authority's certificate;"
                " name the one that issued it"
            )
    if material.lists:
        yield from _list_mistakes(material)


def material_warnings(material: Material, now: datetime) -> Iterator[str]:
    """Yield what will soon keep peers from being accepted, or limits use."""
    for ending in material.endings():
        sentence = ending.warning(now, material.settings.warn_days)
        if sentence is not None:
            yield sentence
    missing = [
        name
        for name, purpose in (
            ("server", ExtendedKeyUsageOID.SERVER_AUTH),
            ("client", ExtendedKeyUsageOID.CLIENT_AUTH),
        )
        if not _is_for(material.chain[0], purpose)
    ]
    if missing:
        yield (
            f"{material.settings.certificate} is not meant for TLS"
            f" {' and '.join(missing)} use: peers may refuse it"
        )


def passphrase_of(settings: Tls, read_secret: ReadSecret) -> bytes | None:
    """Return the passphrase of the private key, if it has one."""
    source = settings.key_passphrase
    return None if source is None else read_secret(source)


def pinned_endings(
    name: str, entries: tuple[Path | str, ...]
) -> Iterator[PinnedEnding]:
    """Yield the ends of certificates that settings pin by file."""
    for entry in entries:
        if isinstance(entry, Path):
            own = read_certificates(entry)[0]
            yield PinnedEnding(
                what=f"certificate of {name}",
                path=entry,
                subject=subject_of(own),
                end=own.not_valid_after_utc,
                certificate=own,
            )


def _ending(what: str, path: Path, certificate: x509.Certificate) -> Ending:
    return Ending(
        what=what,
        path=path,
        subject=subject_of(certificate),
        end=certificate.not_valid_after_utc,
    )


def _list_end(revocations: x509.CertificateRevocationList) -> datetime:
    """Return when a list is stale; one that names no time is so at once."""
    return revocations.next_update_utc or revocations.last_update_utc


def _period_mistakes(
    path: Path, certificate: x509.Certificate, now: datetime
) -> Iterator[str]:
    subject = subject_of(certificate)
    if certificate.not_valid_after_utc <= now:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        yield f"{path}: the certificate {subject} ended {ended}; renew it"
    if certificate.not_valid_before_utc > now:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        yield f"{path}: {subject} is good from {begins} only; check this clock"


def _key_mistakes(
    settings: Tls, own: x509.Certificate, read_secret: ReadSecret
) -> Iterator[str]:
    path = settings.key
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        octets = read_octets(path)
    except (OSError, ConfigurationError) as error:
        why = getattr(error, "strerror", None) or error
        yield f"{path}: the private key cannot be read: {why}"
        return
    if mode & OTHERS:
        yield (
            f"{path} has mode {mode:04o}: others may reach the private key;"
            f" run: chmod 600 {path}"
        )
    try:
        key = load_pem_private_key(octets, passphrase_of(settings, read_secret))
    except TypeError:
        given = settings.key_passphrase is not None
        yield f"{path}: " + (
            "the private key is not encrypted; take key_passphrase out"
            if given
            else "the private key is encrypted; say in key_passphrase where its"
            " passphrase is"
        )
        return
    except ConfigurationError as error:
        yield f"{path}: no passphrase: {error}"
        return
    except ValueError:
        yield f"{path}: no private key in PEM form, or another passphrase"
        return
    if key.public_key() != own.public_key():
        yield (
            f"{path}: the private key is not that of {settings.certificate}; put the"
            " two files of one issue there"
        )


def _list_mistakes(material: Material) -> Iterator[str]:
    for path, authority in material.authorities:
        own = [
            revocations
            for _, revocations in material.lists
            if revocations.issuer == authority.subject
        ]
        if not own:
            yield (
                f"{path}: no list in revocation_lists is of {subject_of(authority)}:"
                " all its certificates would be refused; add its list"
            )
        elif not any(_is_signed_by(one, authority) for one in own):
            yield (
                f"{path}: the revocation list in the name of"
                f" {subject_of(authority)} is not signed by it; get it anew"
            )


def _is_signed_by(
    revocations: x509.CertificateRevocationList, authority: x509.Certificate
) -> bool:
    try:
        return revocations.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, TypeError):
        return False


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        )
    except (x509.ExtensionNotFound, ValueError):
        return False
    return constraints.value.ca


def _is_for(certificate: x509.Certificate, purpose: x509.ObjectIdentifier) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError):
        return True
    return purpose in usage.value
