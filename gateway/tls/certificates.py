"""Certificates as this gateway uses them: who a peer is, and what is in a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.errors import ConfigurationError

PREFIX: Final = "sha256:"


@dataclass(frozen=True, kw_only=True)
class PeerCertificate:
    """What a peer proved to be, once its chain was verified.

    Attributes
    ----------
    sha256
        Of the certificate's DER octets: 64 lower-case hexadecimal digits.
    names
        DNS names of the Subject Alternative Name and the subject's common names,
        in lower case.
    subject
        For the audit trail, as RFC 4514 writes it.
    not_after
        When it ends, aware.
    """

    sha256: str
    names: frozenset[str]
    subject: str
    not_after: datetime

    @classmethod
    def from_der(cls, der: bytes) -> PeerCertificate:
        """Read the certificate that TLS hands out.

        Raises
        ------
        ValueError
            The octets are not a certificate.
        """
        certificate = x509.load_der_x509_certificate(der)
        return cls(
            sha256=hashlib.sha256(der).hexdigest(),
            names=names_of(certificate),
            subject=subject_of(certificate),
            not_after=certificate.not_valid_after_utc,
        )


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the DNS names and common names a certificate holds, in lower case."""
    try:
        alternative = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        alternative = []
    common = [
        str(attribute.value)
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    return frozenset(name.lower() for name in [*alternative, *common])


def subject_of(certificate: x509.Certificate) -> str:
    """Return a certificate's subject as RFC 4514 writes it."""
    return certificate.subject.rfc4514_string()


def sha256_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER octets, in lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def shown(sha256: str) -> str:
    """Return a fingerprint as settings take it: ``sha256:AB:CD:...``."""
    pairs = [sha256[at : at + 2] for at in range(0, len(sha256), 2)]
    return PREFIX + ":".join(pairs).upper()


def fingerprint_of(given: Path | str) -> str:
    """Return the SHA-256 of a certificate: of a PEM file, or as it was written.

    Of a file with several certificates the first counts: the others are those of
    authorities.

    Raises
    ------
    ConfigurationError
        The file cannot be read or holds no certificate.
    """
    if isinstance(given, Path):
        return sha256_of(read_certificates(given)[0])
    return given.removeprefix(PREFIX).replace(":", "").lower()


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM file, in their order.

    Raises
    ------
    ConfigurationError
        The file cannot be read or holds no certificate.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(read_octets(path)))
    except ValueError as error:
        raise ConfigurationError(
            f"{path} holds no certificate in PEM form; convert it:"
            f" openssl x509 -inform der -in {path.name} -out {path.stem}.pem"
        ) from error


def read_revocation_list(path: Path) -> x509.CertificateRevocationList:
    """Read the revocation list of a PEM file.

    Raises
    ------
    ConfigurationError
        The file cannot be read or holds no revocation list.
    """
    try:
        return x509.load_pem_x509_crl(read_octets(path))
    except ValueError as error:
        raise ConfigurationError(
            f"{path} holds no revocation list in PEM form; convert it:"
            f" openssl crl -inform der -in {path.name} -out {path.stem}.pem"
        ) from error


def read_octets(path: Path) -> bytes:
    """Read a file of the configuration.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror or error}"
        ) from error
