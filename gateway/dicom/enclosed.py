"""The key that travels in the object: Encrypted Attributes (PS3.15 E.1.1).

An item of the Encrypted Attributes Sequence holds a data set encrypted for the
recipients: the attributes they may put back, and the key record. The data set
is signed by the site inside the envelope; the envelope is signed over as well,
so that no octet of it can be changed unnoticed, in parts for others either.
docs/recipients.md describes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian

from gateway.dicom.lenient import items, lenient, text, value
from gateway.dicom.parse import data_set_offset, parse_object
from gateway.errors import InvalidSeal, KeyNotEnclosed
from gateway.vault.container import decode_key_record
from gateway.vault.recipients import envelop, open_envelope
from gateway.vault.signer import verify_content, verify_statement, without_padding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate
    from pydicom.dataset import PrivateBlock

    from gateway.vault.recipients import RecipientKey
    from gateway.vault.record import KeyRecord
    from gateway.vault.signer import Signer

CREATOR: Final = "MIAD GATEWAY"
GROUP: Final = 0x0401
"""After group 0400: GDCM takes the first element for Modified Attributes."""

CONTENT_SIGNATURE: Final = 0x10
"""Element of the sequence's item, outside the envelope."""

VERSION: Final = b"1 "
LAYOUT: Final = (
    (0x0400, 0x0550, b"SQ"),  # Modified Attributes Sequence
    (GROUP, 0x0010, b"LO"),  # Private Creator
    (GROUP, 0x1001, b"IS"),  # version of this form
    (GROUP, 0x1002, b"UI"),  # SOP Instance UID of the protected object
    (GROUP, 0x1003, b"OB"),  # SHA-256 of the original
    (GROUP, 0x1004, b"UL"),  # octets of the key record, without padding
    (GROUP, 0x1005, b"OB"),  # key record
    (GROUP, 0x1006, b"OB"),  # SHA-256 of the signer's certificate
    (GROUP, 0x1007, b"OB"),  # signature over all before
)
"""Elements inside the envelope, in order: explicit VR, little endian."""

HEAD: Final = struct.Struct("<HH2sH")
LENGTH: Final = struct.Struct("<L")
LONG_VRS: Final = (b"OB", b"SQ")

NONE_ENCLOSED: Final = (
    "this object carries no key: it was not sent to recipients with keys, or the key "
    "was removed on the way; recover it with the vault of the site that protected it"
)
REFUSED: Final = (
    "the key in this object does not open: it is for other recipients, it or the "
    "object was altered, or another site signed it; try the key and certificate the "
    "sender was given, and the sender's own certificate, or ask for the object again"
)


@dataclass(frozen=True, kw_only=True)
class EnclosedKey:
    """What an object carried for its recipients, verified.

    Attributes
    ----------
    record
        Key record of the original.
    attributes
        Attributes of the original that may be put back.
    signer
        Certificate of the site that signed.
    """

    record: KeyRecord
    attributes: Dataset = field(repr=False)
    signer: Certificate


def enclose(
    dataset: Dataset,
    record_octets: bytes,
    *,
    original: Dataset,
    recipients: Sequence[Certificate],
    signer: Signer,
) -> None:
    """Put the key of a protected object into it, for its recipients.

    Parameters
    ----------
    dataset
        The protected object as it is sent.
    record_octets
        Its key record, from `encode_record`.
    original
        Attributes that may be put back: see `attributes_to_put_back`.
    recipients
        From `load_recipients`; at least one.
    signer
        Of this site.

    Raises
    ------
    InvalidSeal
        The record is of another object.
    """
    uid = str(dataset.SOPInstanceUID)
    record = decode_key_record(record_octets)
    if uid not in _objects_of(record):
        raise InvalidSeal(f"the key record is of another object than {uid}")
    statement = _statement(uid, record, record_octets, original, signer)
    signature = _element(LAYOUT[-1], signer.sign_statement(statement))
    content = envelop(statement + signature, recipients)
    item = Dataset()
    item.EncryptedContentTransferSyntaxUID = ExplicitVRLittleEndian
    item.EncryptedContent = _even(content)
    block = item.private_block(GROUP, CREATOR, create=True)
    block.add_new(CONTENT_SIGNATURE, "OB", _even(signer.sign_content(content)))
    dataset.EncryptedAttributesSequence = [item]


def open_enclosed(
    part10: bytes, key: RecipientKey, *, trusted_signer: Certificate | None = None
) -> EnclosedKey:
    """Open the key that travels in a protected object.

    Parameters
    ----------
    part10
        The protected object as a Part 10 file.
    key
        Private key and certificate of one recipient.
    trusted_signer
        Certificate that must have signed; None: any, and the caller shows which.

    Raises
    ------
    KeyNotEnclosed
        The object carries none.
    InvalidSeal
        It does not open; the message is the same whatever the reason.
    Unprotectable
        This is no readable Part 10 file.
    """
    start, syntax = data_set_offset(part10)
    with lenient():
        dataset = parse_object(part10[start:], syntax).dataset
        try:
            item, block = _item_with_key(dataset)
            uid = text(dataset, "SOPInstanceUID")
            return _opened(uid, item, block, key, trusted_signer)
        except KeyNotEnclosed:
            raise
        except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
            # Not chained: which step failed is nobody's business.
            raise InvalidSeal(REFUSED) from None


def _objects_of(record: KeyRecord) -> frozenset[str]:
    """SOP Instance UIDs of the protected objects a record is of."""
    return frozenset(part.uid for part in record.parts)


def _statement(
    uid: str, record: KeyRecord, record_octets: bytes, original: Dataset, signer: Signer
) -> bytes:
    """Octets inside the envelope up to the signature."""
    sequence = Dataset()
    sequence.ModifiedAttributesSequence = [original]
    stream = BytesIO()
    dcmwrite(stream, sequence, implicit_vr=False, little_endian=True)
    values = (
        CREATOR.encode(),
        VERSION,
        uid.encode("ascii"),
        bytes.fromhex(record.original_sha256),
        LENGTH.pack(len(record_octets)),
        record_octets,
        # No signature covers all of the certificate that comes with this one.
        _digest(signer.certificate),
    )
    private = map(_element, LAYOUT[1:-1], values)
    return b"".join([stream.getvalue(), *private])


def _digest(certificate: Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


def _element(kind: tuple[int, int, bytes], octets: bytes) -> bytes:
    group, element, vr = kind
    padded = _even(octets)
    if vr in LONG_VRS:
        return HEAD.pack(group, element, vr, 0) + LENGTH.pack(len(padded)) + padded
    return HEAD.pack(group, element, vr, len(padded)) + padded


def _even(octets: bytes) -> bytes:
    return octets + b"\0" * (len(octets) % 2)


def _item_with_key(dataset: Dataset) -> tuple[Dataset, PrivateBlock]:
    for item in items(dataset, "EncryptedAttributesSequence"):
        try:
            return item, item.private_block(GROUP, CREATOR)
        except KeyError:
            continue  # of another application
    raise KeyNotEnclosed(NONE_ENCLOSED)


def _opened(
    uid: str,
    item: Dataset,
    block: PrivateBlock,
    key: RecipientKey,
    trusted: Certificate | None,
) -> EnclosedKey:
    _require(text(item, "EncryptedContentTransferSyntaxUID") == ExplicitVRLittleEndian)
    content = without_padding(_octets(value(item, "EncryptedContent")))
    content_signature = _octets(block[CONTENT_SIGNATURE].value)
    if trusted is not None:  # then nothing is decrypted that is not the site's
        verify_content(content, content_signature, trusted)
    octets = open_envelope(content, key)
    values, end = _split(octets)
    signer = verify_statement(octets[:end], without_padding(values[-1]))
    _require(trusted is None or signer == trusted)
    verify_content(content, content_signature, signer)
    _, creator, version, signed_uid, digest, size, encoded, certificate, _ = values
    record = decode_key_record(encoded[: LENGTH.unpack(size)[0]])
    _require(
        (creator, version) == (CREATOR.encode(), VERSION)
        and signed_uid == _even(uid.encode())
        and uid in _objects_of(record)
        and digest.hex() == record.original_sha256
        and certificate == _digest(signer)
    )
    return EnclosedKey(record=record, attributes=_first_item(octets), signer=signer)


def _octets(found: object) -> bytes:
    if not isinstance(found, bytes):
        raise InvalidSeal(REFUSED)
    return found


def _split(octets: bytes) -> tuple[list[bytes], int]:
    """Values of the elements inside the envelope, and where the last one starts.

    Reads nothing but heads: the octets are not verified yet.
    """
    at, start, values = 0, 0, []
    for kind in LAYOUT:
        start = at
        *found, length = HEAD.unpack_from(octets, at)
        _require(tuple(found) == kind)
        at += HEAD.size
        if kind[-1] in LONG_VRS:
            _require(length == 0)
            (length,) = LENGTH.unpack_from(octets, at)
            at += LENGTH.size
        values.append(octets[at : at + length])
        at += length
    _require(at == len(octets))
    return values, start


def _first_item(octets: bytes) -> Dataset:
    inside = read_dataset(BytesIO(octets), False, True)
    found: Dataset = inside.ModifiedAttributesSequence[0]
    return found


def _require(holds: bool) -> None:
    if not holds:
        raise InvalidSeal(REFUSED)
