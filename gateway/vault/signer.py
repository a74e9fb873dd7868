"""The site's signature under the keys it hands to recipients.

A statement is signed as CMS SignedData (RFC 5652, detached, SHA-256) that any
CMS tool verifies. What is read here is held to the one form that is written:
one signer, its certificate enclosed, no attribute that is not needed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import NameOID
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.error import PyAsn1Error
from pyasn1_modules import rfc5652

from gateway.errors import ConfigurationError, InvalidSeal

if TYPE_CHECKING:
    from gateway.sealing.secrets import SecretStore

COMMON_NAME: Final = "MIAD Gateway signer"
"""Of every site: objects without an institution's name shall not get one here."""

SIGNER: Final = "signer.pem"
"""Name of the secret that holds key and certificate."""

NO_EXPIRY: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""A certificate without a meaningful end (RFC 5280 4.1.2.5)."""

OPTIONS: Final = (
    pkcs7.PKCS7Options.Binary,
    pkcs7.PKCS7Options.DetachedSignature,
    pkcs7.PKCS7Options.NoCapabilities,
)
SHA256: Final = {"2.16.840.1.101.3.4.2.1"}
ECDSA_SHA256: Final = {"1.2.840.10045.4.3.2"}
RSA_SHA256: Final = {"1.2.840.113549.1.1.1", "1.2.840.113549.1.1.11"}
"""RFC 8017 A.2.4; RFC 3370 3.2 has the first, plain ``rsaEncryption``."""

NULL: Final = b"\x05\x00"
ATTRIBUTES: Final = {
    rfc5652.id_contentType,
    rfc5652.id_messageDigest,
    rfc5652.id_signingTime,
}
CONTENT_MARK: Final = b"MIAD encrypted content 1\0"
"""Starts what is signed over ciphertext, so that it can be taken for nothing else."""

REFUSED: Final = "the signature is not valid"

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Signer:
    """Signing key of a site and the certificate that is handed to recipients."""

    certificate: x509.Certificate
    _key: SigningKey = field(repr=False)

    def sign_statement(self, statement: bytes) -> bytes:
        """CMS SignedData (DER) over octets, without them."""
        return (
            pkcs7.PKCS7SignatureBuilder()
            .set_data(statement)
            .add_signer(self.certificate, self._key, hashes.SHA256())
            .sign(Encoding.DER, OPTIONS)
        )

    def sign_content(self, ciphertext: bytes) -> bytes:
        """Bare signature over encrypted octets; it names no signer."""
        octets = CONTENT_MARK + ciphertext
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(octets, padding.PKCS1v15(), hashes.SHA256())
        return self._key.sign(octets, ec.ECDSA(hashes.SHA256()))


def load_signer(secrets: SecretStore) -> Signer:
    """Signer of a site; its key and certificate are made on first use.

    Parameters
    ----------
    secrets
        Keeps it sealed, as PEM: a private key (EC or RSA) and its certificate. A
        site may bring its own in ``signer.pem``, mode 0600, in the same folder.

    Raises
    ------
    ConfigurationError
        Others may reach the file, or it does not hold what it should.
    """
    return _parsed(secrets.get_or_make(SIGNER, _new_signer, _parsed))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate as people compare it: pairs with colons."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def verify_statement(statement: bytes, signature: bytes) -> x509.Certificate:
    """Verify what `Signer.sign_statement` made.

    Returns
    -------
    Certificate
        The signer's, enclosed in the signature; whether to trust it is up to
        the caller. Its period of validity is not looked at.

    Raises
    ------
    InvalidSeal
        In every other case.
    """
    try:
        return _verified(statement, signature)
    except (PyAsn1Error, ValueError, TypeError, LookupError) as error:
        raise InvalidSeal(REFUSED) from error
    except (InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidSeal(REFUSED) from error


def verify_content(
    ciphertext: bytes, signature: bytes, certificate: x509.Certificate
) -> None:
    """Verify what `Signer.sign_content` made, padded to an even length or not.

    Raises
    ------
    InvalidSeal
        The signature is not this signer's over these octets.
    """
    try:
        if isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
            signature = without_padding(signature)  # DER; RSA's length is even
        _verify(certificate, signature, CONTENT_MARK + ciphertext)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise InvalidSeal(REFUSED) from error


def without_padding(octets: bytes) -> bytes:
    """Octets of one DER value, without the octet that makes a length even.

    Raises
    ------
    InvalidSeal
        They are not one value with a definite length (X.690 8.1.3).
    """
    if len(octets) < 2:
        raise InvalidSeal(REFUSED)
    first, start = octets[1], 2
    length = first
    if first & 0x80:
        start += first & 0x7F
        length = int.from_bytes(octets[2:start], "big")
    end = start + length
    if first == 0x80 or octets[end:] not in {b"", b"\0"}:
        raise InvalidSeal(REFUSED)
    return octets[:end]


def _verified(statement: bytes, signature: bytes) -> x509.Certificate:
    signed = _signed_data(signature)
    (info,) = signed["signerInfos"]
    (enclosed,) = signed["certificates"]
    certificate = x509.load_der_x509_certificate(encode(enclosed["certificate"]))
    named = info["sid"]["issuerAndSerialNumber"]
    _require(
        int(named["serialNumber"]) == certificate.serial_number
        and encode(named["issuer"]) == certificate.issuer.public_bytes()
        and int(info["version"]) == 1
        and not info["unsignedAttrs"].isValue
    )
    _check_algorithm(info["digestAlgorithm"], SHA256)
    is_rsa = isinstance(certificate.public_key(), rsa.RSAPublicKey)
    _check_algorithm(info["signatureAlgorithm"], RSA_SHA256 if is_rsa else ECDSA_SHA256)
    _check_attributes(info["signedAttrs"], statement)
    _verify(certificate, bytes(info["signature"]), _as_set(info["signedAttrs"]))
    return certificate


def _signed_data(octets: bytes) -> Any:  # noqa: ANN401 - the library has no types
    outer, rest = decode(octets, asn1Spec=rfc5652.ContentInfo())
    _require(not rest and outer["contentType"] == rfc5652.id_signedData)
    signed, rest = decode(outer["content"], asn1Spec=rfc5652.SignedData())
    inner = signed["encapContentInfo"]
    _require(
        not rest
        # The decoder takes some BER too; only the one encoding of DER passes.
        and encode(signed) == bytes(outer["content"])
        and encode(outer) == octets
        and int(signed["version"]) == 1
        and inner["eContentType"] == rfc5652.id_data
        and not inner["eContent"].isValue
        and not signed["crls"].isValue
    )
    (digest,) = signed["digestAlgorithms"]
    _check_algorithm(digest, SHA256)
    return signed


def _check_algorithm(found: Any, allowed: set[str]) -> None:  # noqa: ANN401
    parameters = found["parameters"]
    _require(
        str(found["algorithm"]) in allowed
        and (not parameters.isValue or bytes(parameters) == NULL)
    )


def _check_attributes(attributes: Any, statement: bytes) -> None:  # noqa: ANN401
    values = {each["attrType"]: list(each["attrValues"]) for each in attributes}
    _require(len(attributes) == len(values) and set(values) == ATTRIBUTES)
    (kind,), (digest,) = (
        values[rfc5652.id_contentType],
        values[rfc5652.id_messageDigest],
    )
    expected = encode(rfc5652.MessageDigest(hashlib.sha256(statement).digest()))
    _require(
        bytes(kind) == encode(rfc5652.ContentType(rfc5652.id_data))
        and hmac.compare_digest(bytes(digest), expected)
    )


def _as_set(attributes: Any) -> bytes:  # noqa: ANN401
    """Octets that are signed: the SET OF itself, not its tag (RFC 5652 5.4)."""
    return b"\x31" + bytes(encode(attributes))[1:]


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError(REFUSED)


def _verify(certificate: x509.Certificate, signature: bytes, octets: bytes) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, octets, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, octets, ec.ECDSA(hashes.SHA256()))
    else:
        raise InvalidSignature


def _new_signer() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.now(dt.UTC).replace(microsecond=0))
        .not_valid_after(NO_EXPIRY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signing_only(), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _parsed(pem: bytes) -> Signer:
    try:
        key = load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise _not_a_signer() from None  # nothing of a key ends in a trace
    if not isinstance(key, SigningKey) or key.public_key() != certificate.public_key():
        raise _not_a_signer()
    return Signer(certificate, key)


def _not_a_signer() -> ConfigurationError:
    return ConfigurationError(
        "the signing key (signer.pem) is not an EC or RSA private key, without "
        "passphrase, and its certificate; put the right file back: recipients trust "
        "the certificate they were given"
    )
