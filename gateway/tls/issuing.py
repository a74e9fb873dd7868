"""Certificates and revocation lists after RFC 5280, made with `cryptography`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
KeyType = Literal["ecdsa", "rsa"]

RSA_BITS: Final = 3072
RSA_LEAST_BITS: Final = 2048  # PS3.15 B.13
ECDSA_LEAST_BITS: Final = 256


@dataclass(frozen=True, kw_only=True)
class Period:
    """From when to when, aware; to the second, as certificates keep time."""

    start: datetime
    end: datetime


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom a certificate names.

    Attributes
    ----------
    name
        The common name.
    organisation
        Left out when empty.
    dns, addresses
        The Subject Alternative Name.
    """

    name: str
    organisation: str = ""
    dns: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()


@dataclass(frozen=True)
class Issuer:
    """An authority: its certificate, the key it signs with, where its list is.

    Attributes
    ----------
    list_url
        Named in certificates, for those who fetch lists; empty: left out.
    """

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    list_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """An entry of a revocation list."""

    serial: int
    at: datetime


def new_key(kind: KeyType) -> PrivateKey:
    """Make a key: P-256, or RSA of 3072 bits for devices that know no other."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return a key as PKCS#8 PEM, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def is_strong(key: object) -> bool:
    """Whether PS3.15 B.13 allows a public key: RSA of 2048 bits, EC of 256."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= RSA_LEAST_BITS
    return (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= ECDSA_LEAST_BITS
    )


def make_authority(subject: Subject, key: PrivateKey, period: Period) -> Issuer:
    """Make an authority that signs its own certificate."""
    name = _name(subject)
    builder = _builder(name, name, key.public_key(), period)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(identifier, critical=False)
    return Issuer(builder.sign(key, hashes.SHA256()), key)


def make_certificate(
    issuer: Issuer, subject: Subject, public_key: PublicKey, period: Period
) -> x509.Certificate:
    """Make a node's certificate, good for both ends of a TLS connection."""
    builder = _builder(issuer.certificate.subject, _name(subject), public_key, period)
    for extension, critical in _node_extensions(issuer, public_key):
        builder = builder.add_extension(extension, critical=critical)
    if issuer.list_url:
        point = x509.DistributionPoint(
            [x509.UniformResourceIdentifier(issuer.list_url)], None, None, None
        )
        points = x509.CRLDistributionPoints([point])
        builder = builder.add_extension(points, critical=False)
    alternative = _alternative(subject)
    if alternative is not None:
        builder = builder.add_extension(alternative, critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def make_revocation_list(
    issuer: Issuer, revoked: Sequence[Revoked], number: int, period: Period
) -> x509.CertificateRevocationList:
    """Make a revocation list; ``number`` has to grow with each."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.certificate.subject,
        last_update=period.start,
        next_update=period.end,
    )
    for entry in revoked:
        one = x509.RevokedCertificateBuilder(entry.serial, entry.at)
        builder = builder.add_revoked_certificate(one.build())
    builder = builder.add_extension(_authority_identifier(issuer), critical=False)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def revocation_list_pem(revocations: x509.CertificateRevocationList) -> bytes:
    """Return a revocation list as PEM."""
    return revocations.public_bytes(serialization.Encoding.PEM)


def _builder(
    issuer: x509.Name, subject: x509.Name, key: PublicKey, period: Period
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=period.start,
        not_valid_after=period.end,
    )


def _name(subject: Subject) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, subject.name)]
    if subject.organisation:
        parts.insert(
            0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject.organisation)
        )
    return x509.Name(parts)


def _node_extensions(
    issuer: Issuer, key: PublicKey
) -> list[tuple[x509.ExtensionType, bool]]:
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(both_ends), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (_authority_identifier(issuer), False),
    ]


def _authority_identifier(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    own = issuer.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    )
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _alternative(subject: Subject) -> x509.SubjectAlternativeName | None:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.dns]
    names += [x509.IPAddress(address) for address in subject.addresses]
    return x509.SubjectAlternativeName(names) if names else None


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
