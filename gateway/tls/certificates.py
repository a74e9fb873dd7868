"""Certificates of peers, as far as they say who somebody is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from gateway.errors import ConfigurationError

PREFIX: Final = "sha256:"


@dataclass(frozen=True, kw_only=True)
class PeerCertificate:
    """A certificate that a peer has shown and proven to be its own.

    Attributes
    ----------
    sha256
        Of its DER octets, 64 lower case hexadecimal digits.
    names
        DNS names and the common name of its subject.
    """

    sha256: str
    names: frozenset[str]


def fingerprint_of(given: Path | str) -> str:
    """Return the SHA-256 of a certificate: of a PEM file, or as it was written.

    Raises
    ------
    ConfigurationError
        The file cannot be read or holds no certificate.
    """
    if isinstance(given, str):
        return given.removeprefix(PREFIX).replace(":", "").lower()
    try:
        certificate = x509.load_pem_x509_certificate(given.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"certificate {given} cannot be read: {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{given} is not a certificate in PEM form; convert it with openssl x509"
        ) from error
    return certificate.fingerprint(hashes.SHA256()).hex()
