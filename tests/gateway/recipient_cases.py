"""Recipients, signers and objects with keys in them, for the tests of both."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from pydicom import dcmread
from pydicom.dataset import Dataset

from gateway.dicom.enclosed import enclose
from gateway.dicom.put_back import attributes_to_put_back
from gateway.sealing.master import LocalMasterKey
from gateway.sealing.secrets import SecretStore
from gateway.stages.protect import ProtectedObject
from gateway.vault.container import encode_record
from gateway.vault.recipients import RecipientKey
from gateway.vault.signer import Signer, load_signer
from tests.gateway.object_cases import as_file, corpus_file, protected_example

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
START = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key per name; making one takes a tenth of a second."""
    del name
    return rsa.generate_private_key(65537, bits)


def certificate_of(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    name: str = "recipient",
    *,
    start: dt.datetime = START,
    end: dt.datetime = END,
    usage: x509.KeyUsage | None = None,
    serial: int | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, hashes.SHA256())


def key_usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


@cache
def recipient(name: str) -> RecipientKey:
    key = rsa_key(name)
    return RecipientKey(certificate_of(key, name), key)


def site_signer(name: str = "site") -> Signer:
    return _signer(name)


@cache
def _signer(name: str) -> Signer:
    with tempfile.TemporaryDirectory() as folder:
        keys = LocalMasterKey(name.encode().ljust(32))
        return load_signer(SecretStore(Path(folder), keys))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: rsa.RSAPrivateKey, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@cache
def made(name: str = "MR_small.dcm") -> ProtectedObject:
    return protected_example(corpus_file(name).read_bytes())


def with_key(
    *names: str,
    source: str = "MR_small.dcm",
    signer: Signer | None = None,
    **attributes: Any,
) -> bytes:
    """A protected object as a file, with its key for recipients by name."""
    protected = made(source)
    dataset = dcmread(BytesIO(protected.part10))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    enclose(
        dataset,
        encode_record(protected.record),
        original=attributes_to_put_back(dcmread(corpus_file(source)), dataset),
        recipients=[recipient(name).certificate for name in names],
        signer=signer or site_signer(),
    )
    return as_file(dataset)


def edited_file(part10: bytes, edit: Any) -> bytes:
    """The same file after ``edit(dataset)``."""
    dataset = dcmread(BytesIO(part10))
    edit(dataset)
    return as_file(dataset)


def item_of(dataset: Dataset) -> Dataset:
    (item,) = dataset.EncryptedAttributesSequence
    assert isinstance(item, Dataset)
    return item


def odd_record(protected: ProtectedObject) -> bytes:
    """Octets of its record, an odd number of them."""
    record = protected.record
    for name in ("a", "ab"):
        octets = encode_record(replace(record, original_name=name))
        if len(octets) % 2:
            return octets
    raise AssertionError("one of two lengths is odd")
