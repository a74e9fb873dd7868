"""Recipients of keys: their certificates, and the envelope only they open.

CMS EnvelopedData as PS3.15 E.1.1 asks for: AES-256 in CBC mode, its key
transported under each recipient's RSA key (PKCS #1 v1.5). CBC does not notice
altered octets: what is put inside has to be signed (`gateway.vault.signer`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    pkcs7,
)

from gateway.errors import (
    ConfigurationError,
    InvalidSeal,
    PassphraseMissing,
    PrivateKeyRefused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LEAST_RSA_BITS: Final = 2048
WARN_BEFORE: Final = dt.timedelta(days=30)
LARGEST_PEM_BYTES: Final = 1 << 20

REFUSED: Final = "the envelope does not open"


@dataclass(frozen=True)
class RecipientKey:
    """What a recipient opens envelopes with."""

    certificate: x509.Certificate
    private_key: rsa.RSAPrivateKey = field(repr=False)


def load_recipients(
    paths: Sequence[Path], *, now: dt.datetime | None = None, dated: bool = True
) -> tuple[x509.Certificate, ...]:
    """Certificates that keys can be enclosed for.

    Parameters
    ----------
    paths
        PEM files, one certificate each.
    now
        Time (aware) at which they have to be valid; this moment when absent.
    dated
        Whether they have to be valid at that time: a gateway starts with one that
        has expired, but encloses nothing for it.

    Raises
    ------
    ConfigurationError
        Naming the file and the remedy.
    """
    found: dict[tuple[x509.Name, int], Path] = {}
    certificates = []
    for path in paths:
        certificate = load_recipient(path, now=now, dated=dated)
        # An envelope tells recipients apart by issuer and serial number only.
        identity = (certificate.issuer, certificate.serial_number)
        if identity in found:
            raise ConfigurationError(
                f"recipient {path}: issuer and serial number are those of "
                f"{found[identity]}; name each certificate once"
            )
        found[identity] = path
        certificates.append(certificate)
    return tuple(certificates)


def load_recipient(
    path: Path, *, now: dt.datetime | None = None, dated: bool = True
) -> x509.Certificate:
    """Certificate of one recipient; as `load_recipients`."""
    certificate = _only_certificate(path)
    mistake = _unfit(certificate)
    if dated and not mistake:
        mistake = _outdated(certificate, now or dt.datetime.now(dt.UTC))
    if mistake:
        raise ConfigurationError(f"recipient {path}: {mistake}")
    return certificate


def expiry_warning(path: Path, *, now: dt.datetime | None = None) -> str:
    """Say that a certificate soon expires, or is out of date; else empty.

    Raises
    ------
    ConfigurationError
        As `load_recipient`.
    """
    when = now or dt.datetime.now(dt.UTC)
    certificate = load_recipient(path, dated=False)
    outdated = _outdated(certificate, when)
    if outdated:
        return f"recipient {path}: {outdated}; until then objects for it are held"
    end = certificate.not_valid_after_utc
    if end - when > WARN_BEFORE:
        return ""
    return (
        f"recipient {path}: the certificate expires on {end:%Y-%m-%d}; ask for a new "
        "one: after that day nothing can be sent with it"
    )


def load_recipient_key(
    key: Path, certificate: Path | None, passphrase: Callable[[], bytes]
) -> RecipientKey:
    """Private key and certificate of a recipient.

    Parameters
    ----------
    key
        PEM file of the private key, with its certificate if `certificate` is None.
    certificate
        PEM file of the certificate.
    passphrase
        Asked only if the key is encrypted; may raise `PassphraseMissing`.

    Raises
    ------
    PrivateKeyRefused
        The files are not what they should be; `PassphraseMissing` if the
        passphrase is wrong.
    """
    private = _private_key(key, _read(key), passphrase)
    place = certificate or key
    matching = read_certificate(place)
    if matching.public_key() != private.public_key():
        raise PrivateKeyRefused(
            f"the certificate in {place} is not that of the private key {key}; "
            "name the one that was given to the sending site"
        )
    return RecipientKey(matching, private)


def read_certificate(path: Path) -> x509.Certificate:
    """First certificate of a PEM file, whatever its key and its dates.

    Raises
    ------
    PrivateKeyRefused
        There is none.
    """
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except (ValueError, x509.InvalidVersion) as error:
        raise PrivateKeyRefused(
            f"{path} holds no certificate (PEM); name the file that does"
        ) from error


def envelop(octets: bytes, recipients: Sequence[x509.Certificate]) -> bytes:
    """Encrypt octets for recipients.

    Parameters
    ----------
    octets
        What is enclosed; signed, because the envelope does not notice changes.
    recipients
        From `load_recipients`; at least one.

    Returns
    -------
    bytes
        CMS EnvelopedData, DER.
    """
    builder = (
        pkcs7.PKCS7EnvelopeBuilder()
        .set_data(octets)
        .set_content_encryption_algorithm(algorithms.AES256)
    )
    for certificate in recipients:
        builder = builder.add_recipient(certificate)
    return builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])


def open_envelope(enveloped: bytes, key: RecipientKey) -> bytes:
    """Decrypt what `envelop` made.

    Altered octets may come out: the caller verifies a signature before anything
    else and tells nobody which of the two failed.

    Raises
    ------
    InvalidSeal
        It is for others, or damaged.
    """
    try:
        return pkcs7.pkcs7_decrypt_der(enveloped, key.certificate, key.private_key, [])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidSeal(REFUSED) from error


def _only_certificate(path: Path) -> x509.Certificate:
    try:
        if path.stat().st_size > LARGEST_PEM_BYTES:
            raise ConfigurationError(f"recipient {path}: larger than any certificate")
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"recipient {path}: cannot be read: {error.strerror}; name a PEM file with "
            "the recipient's certificate that the gateway's user may read"
        ) from error
    if b"PRIVATE KEY-----" in pem:
        raise ConfigurationError(
            f"recipient {path} holds a private key; put the certificate alone here, "
            "and treat the key as known to others"
        )
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError(
            f"recipient {path}: not an X.509 certificate in PEM; convert it: openssl "
            "x509 -inform DER -in FILE -out FILE.pem"
        ) from error
    if len(certificates) != 1:
        raise ConfigurationError(
            f"recipient {path}: {len(certificates)} certificates; keep the recipient's "
            "own alone, without those that issued it"
        )
    return certificates[0]


def _unfit(certificate: x509.Certificate) -> str:
    """Why a certificate cannot be used, with the remedy; empty if it can."""
    try:
        key = certificate.public_key()
        usage = _key_usage(certificate)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
        return "the certificate is malformed; ask the recipient for another"
    bits = key.key_size if isinstance(key, rsa.RSAPublicKey) else 0
    if bits < LEAST_RSA_BITS:
        found = f"RSA of {bits} bits" if bits else "not RSA"
        return (
            f"the certificate's key is {found}; ask the recipient for an RSA key of "
            f"{LEAST_RSA_BITS} bits or more: keys are transported under no other"
        )
    if usage is not None and not usage.key_encipherment:
        return (
            "the certificate's key usage does not allow key encipherment; ask the "
            "recipient for one that does"
        )
    return ""


def _outdated(certificate: x509.Certificate, now: dt.datetime) -> str:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        return f"the certificate expired on {end:%Y-%m-%d}; ask for a new one"
    if now < start:
        return (
            f"the certificate is valid only from {start:%Y-%m-%d} on; ask for one that "
            "is valid now, or look at this machine's clock"
        )
    return ""


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PrivateKeyRefused(f"{path}: cannot be read: {error.strerror}") from error


def _private_key(
    path: Path, pem: bytes, passphrase: Callable[[], bytes]
) -> rsa.RSAPrivateKey:
    # No cause is chained below: nothing of a key's file ends in a trace.
    key: object
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:  # encrypted
        key = _decrypted_key(path, pem, passphrase())
    except (ValueError, UnsupportedAlgorithm):
        raise PrivateKeyRefused(
            f"{path} holds no private key (PEM) that can be read"
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise PrivateKeyRefused(
            f"the private key in {path} is not RSA; keys are transported under RSA only"
        )
    return key


def _decrypted_key(path: Path, pem: bytes, passphrase: bytes) -> object:
    try:
        return load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PassphraseMissing(
            f"the private key {path} is encrypted and does not open with this "
            "passphrase"
        ) from None
