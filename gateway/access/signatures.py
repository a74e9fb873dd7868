"""Signatures of people, made with the key of their certificate."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import ApprovalRefused
from gateway.tls.certificates import PeerCertificate

PSS: Final = padding.PSS(
    mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH
)
SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def sign(key: object, message: bytes) -> str:
    """Sign octets: RSASSA-PSS, ECDSA (both with SHA-256) or Ed25519; in base64.

    Raises
    ------
    ApprovalRefused
        The key is of another kind.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(message, PSS, hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(message)
    else:
        raise ApprovalRefused("sign with an RSA, elliptic curve or Ed25519 key")
    return base64.b64encode(signature).decode("ascii")


def read_certificate(pem: str, now: datetime) -> x509.Certificate:
    """Read the certificate of a signature.

    Raises
    ------
    ApprovalRefused
        It is none, or does not hold now.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise ApprovalRefused("the certificate is not in PEM form") from error
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ApprovalRefused("the certificate has ended, or does not hold yet")
    return certificate


def verify(certificate: x509.Certificate, signature: str, message: bytes) -> None:
    """Verify a signature over octets.

    Raises
    ------
    ApprovalRefused
        It is not one of this certificate's key over these octets.
    """
    key = certificate.public_key()
    try:
        octets = base64.b64decode(signature, validate=True)
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(octets, message, PSS, hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(octets, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(octets, message)
        else:
            raise ApprovalRefused("sign with an RSA, elliptic curve or Ed25519 key")
    except (InvalidSignature, binascii.Error) as error:
        raise ApprovalRefused("the signature is not of this request") from error


def shown_by(certificate: x509.Certificate) -> PeerCertificate:
    """Return a certificate as people are known by it."""
    return PeerCertificate.from_der(certificate.public_bytes(Encoding.DER))
