"""The key in the object: who opens it, and everything that must not."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from gateway.dicom.enclosed import (
    CONTENT_SIGNATURE,
    CREATOR,
    GROUP,
    enclose,
    open_enclosed,
)
from gateway.dicom.put_back import attributes_to_put_back
from gateway.dicom.restore import restore
from gateway.errors import InvalidSeal, KeyNotEnclosed, Unprotectable
from gateway.vault.container import encode_record
from gateway.vault.recipients import envelop, open_envelope
from gateway.vault.signer import fingerprint, without_padding
from tests.gateway.object_cases import as_file, corpus_file, only
from tests.gateway.recipient_cases import (
    edited_file,
    item_of,
    made,
    odd_record,
    recipient,
    site_signer,
    with_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.vault.signer import Signer

TWO = with_key("anna", "ben")


def content_of(part10: bytes) -> bytes:
    return bytes(item_of(dcmread(BytesIO(part10))).EncryptedContent)


def replaced(part10: bytes, content: bytes, signature: bytes | None = None) -> bytes:
    """The object with other encrypted content, and maybe a signature over it."""

    def edit(dataset: Dataset) -> None:
        item = item_of(dataset)
        item.EncryptedContent = content + b"\0" * (len(content) % 2)
        if signature is not None:
            block = item.private_block(GROUP, CREATOR)
            block[CONTENT_SIGNATURE].value = signature

    return edited_file(part10, edit)


def forged(statement: bytes, signer: Signer) -> bytes:
    """The object with octets of an attacker's choice, signed over by ``signer``."""
    content = envelop(statement, [recipient("anna").certificate])
    return replaced(TWO, content, signer.sign_content(content))


@pytest.mark.parametrize("name", ["anna", "ben"])
def test_each_recipient_rebuilds_the_original(name: str) -> None:
    opened = open_enclosed(
        TWO, recipient(name), trusted_signer=site_signer().certificate
    )
    assert encode_record(opened.record) == encode_record(made().record)
    assert restore(only(TWO), opened.record) == corpus_file("MR_small.dcm").read_bytes()
    assert opened.signer == site_signer().certificate
    original = dcmread(corpus_file("MR_small.dcm"))
    assert opened.attributes.SOPInstanceUID == original.SOPInstanceUID
    assert opened.attributes.SeriesInstanceUID == original.SeriesInstanceUID


def test_without_a_trusted_signer_the_caller_learns_who_signed() -> None:
    signer = open_enclosed(TWO, recipient("anna")).signer
    assert fingerprint(signer) == fingerprint(site_signer().certificate)
    assert len(fingerprint(signer)) == 95


def test_records_of_odd_length_come_back() -> None:
    octets = odd_record(made())
    dataset = dcmread(BytesIO(made().part10))
    enclose(
        dataset,
        octets,
        original=Dataset(),
        recipients=[recipient("anna").certificate],
        signer=site_signer(),
    )
    opened = open_enclosed(as_file(dataset), recipient("anna"))
    assert encode_record(opened.record) == octets


def test_attributes_taken_away_are_put_back() -> None:
    part10 = with_key("anna", PatientName="", PatientID="X1", StudyDate="")
    original = dcmread(corpus_file("MR_small.dcm"))
    attributes = open_enclosed(part10, recipient("anna")).attributes
    for keyword in ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID"):
        assert attributes[keyword].value == original[keyword].value
    assert "PatientSex" not in attributes  # was left in the object
    assert str(original.PatientName).encode() not in part10


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 100", "Ярослав"),  # not in the declared set
        (None, "Müller^Jörg"),
        ("ISO_IR 192", "田中^太郎"),
    ],
)
def test_names_come_back_in_any_script(declared: str | None, name: str) -> None:
    original = dcmread(corpus_file("MR_small.dcm"))
    original.SpecificCharacterSet = declared or ""
    original.PatientName = name
    dataset = dcmread(BytesIO(made().part10))
    dataset.PatientName = ""
    enclose(
        dataset,
        encode_record(made().record),
        original=attributes_to_put_back(original, dataset),
        recipients=[recipient("anna").certificate],
        signer=site_signer(),
    )
    opened = open_enclosed(as_file(dataset), recipient("anna"))
    assert str(opened.attributes.PatientName) == name


def test_the_object_may_be_stored_in_another_syntax() -> None:
    dataset = dcmread(BytesIO(TWO))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    again = BytesIO()
    dataset.save_as(again, implicit_vr=True, little_endian=True)
    opened = open_enclosed(again.getvalue(), recipient("anna"))
    assert encode_record(opened.record) == encode_record(made().record)


def test_an_item_of_another_application_does_not_disturb() -> None:
    def add(dataset: Dataset) -> None:
        other = Dataset()
        other.EncryptedContentTransferSyntaxUID = ImplicitVRLittleEndian
        other.EncryptedContent = b"theirs"
        dataset.EncryptedAttributesSequence.insert(0, other)

    opened = open_enclosed(edited_file(TWO, add), recipient("ben"))
    assert opened.record.protected_uid == made().record.protected_uid


def test_objects_without_a_key_say_so() -> None:
    with pytest.raises(KeyNotEnclosed, match="carries no key"):
        open_enclosed(made().part10, recipient("anna"))


def test_nothing_of_the_key_is_readable() -> None:
    assert b"logo_sha256" not in TWO
    assert b"MIAD Gateway signer" not in TWO


def test_a_record_of_another_object_is_not_enclosed() -> None:
    dataset = dcmread(BytesIO(made().part10))
    dataset.SOPInstanceUID = "2.25.7"
    with pytest.raises(InvalidSeal, match=r"another object than 2\.25\.7"):
        enclose(
            dataset,
            encode_record(made().record),
            original=Dataset(),
            recipients=[recipient("anna").certificate],
            signer=site_signer(),
        )
    assert "EncryptedAttributesSequence" not in dataset


# What must not open


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_octet_of_the_content_is_noticed(data: st.DataObject) -> None:
    """Also in what addresses the other recipient, which decryption never reads."""
    content = bytearray(content_of(TWO))
    length = len(without_padding(bytes(content)))
    at = data.draw(st.integers(0, length - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    altered = replaced(TWO, bytes(content))
    with pytest.raises(InvalidSeal):
        open_enclosed(altered, recipient("anna"))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_changed_octet_of_the_sequence_gives_another_record(
    data: st.DataObject,
) -> None:
    """Heads of elements may be written otherwise; values may not."""
    content = content_of(TWO)
    start = TWO.index(b"\x00\x04\x00\x05")  # (0400,0500)
    end = TWO.index(b"\xe0\x7f\x10\x00")  # Pixel Data
    assert start < TWO.index(content) < end
    inside = TWO.index(content)
    at = data.draw(
        st.integers(start, inside - 1) | st.integers(inside + len(content), end - 1)
    )
    altered = bytearray(TWO)
    altered[at] ^= data.draw(st.integers(1, 255))
    try:
        opened = open_enclosed(bytes(altered), recipient("anna"))
    except (InvalidSeal, KeyNotEnclosed, Unprotectable):
        return  # the last: the object itself cannot be read any more
    assert encode_record(opened.record) == encode_record(made().record)
    assert opened.signer == site_signer().certificate


@given(st.integers(0, 254), st.integers(1, 255))
def test_any_changed_octet_of_the_outer_signature_is_noticed(
    at: int, flip: int
) -> None:
    block = item_of(dcmread(BytesIO(TWO))).private_block(GROUP, CREATOR)
    signature = bytearray(without_padding(block[CONTENT_SIGNATURE].value))
    signature[at % len(signature)] ^= flip
    padded = bytes(signature) + b"\0" * (len(signature) % 2)
    with pytest.raises(InvalidSeal):
        open_enclosed(replaced(TWO, content_of(TWO), padded), recipient("anna"))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_octet_inside_is_taken_even_if_the_envelope_is_new(
    data: st.DataObject,
) -> None:
    """Whoever has the certificate can make an envelope, not what is in it."""
    inside = bytearray(
        open_envelope(without_padding(content_of(TWO)), recipient("anna"))
    )
    at = data.draw(st.integers(0, len(inside) - 2))  # the last may be padding
    inside[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidSeal):
        open_enclosed(forged(bytes(inside), site_signer()), recipient("anna"))


def test_keys_do_not_move_between_objects() -> None:
    other = with_key("anna", source="CT_small.dcm")

    def move(dataset: Dataset) -> None:
        dataset.EncryptedAttributesSequence = [item_of(dcmread(BytesIO(other)))]

    with pytest.raises(InvalidSeal):
        open_enclosed(edited_file(TWO, move), recipient("anna"))


def test_another_uid_on_the_object_is_noticed() -> None:
    def rename(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = "2.25.99"
        dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.99"

    with pytest.raises(InvalidSeal):
        open_enclosed(edited_file(TWO, rename), recipient("anna"))


def test_another_site_is_not_taken_for_the_trusted_one() -> None:
    theirs = with_key("anna", signer=site_signer("other"))
    assert open_enclosed(theirs, recipient("anna")).signer != site_signer().certificate
    with pytest.raises(InvalidSeal):
        open_enclosed(
            theirs, recipient("anna"), trusted_signer=site_signer().certificate
        )


def test_another_site_cannot_sign_over_what_a_site_signed() -> None:
    other = site_signer("other")
    content = without_padding(content_of(TWO))
    with pytest.raises(InvalidSeal):
        open_enclosed(
            replaced(TWO, content, other.sign_content(content)), recipient("anna")
        )


def test_a_foreign_key_opens_nothing() -> None:
    with pytest.raises(InvalidSeal):
        open_enclosed(TWO, recipient("carl"))


def _without_signature(dataset: Dataset) -> None:
    del item_of(dataset)[(GROUP, 0x1000 + CONTENT_SIGNATURE)]


def _number_for_signature(dataset: Dataset) -> None:
    block = item_of(dataset).private_block(GROUP, CREATOR)
    del block[CONTENT_SIGNATURE]
    block.add_new(CONTENT_SIGNATURE, "UL", 4_000_000_000)


def _without_content(dataset: Dataset) -> None:
    del item_of(dataset).EncryptedContent


def _short_content(dataset: Dataset) -> None:
    item_of(dataset).EncryptedContent = b"0"


def _another_syntax(dataset: Dataset) -> None:
    item_of(dataset).EncryptedContentTransferSyntaxUID = ImplicitVRLittleEndian


@pytest.mark.parametrize(
    "edit",
    [
        _without_signature,
        _number_for_signature,
        _without_content,
        _short_content,
        _another_syntax,
    ],
)
def test_what_is_missing_is_refused(edit: Callable[[Dataset], None]) -> None:
    with pytest.raises(InvalidSeal):
        open_enclosed(edited_file(TWO, edit), recipient("anna"))


def test_every_failure_says_the_same() -> None:
    content = content_of(TWO)
    attempts = (
        (TWO, "carl", None),
        (TWO, "anna", site_signer("other").certificate),
        (edited_file(TWO, _without_content), "anna", None),
        (replaced(TWO, content[:900] + b"!" + content[901:]), "anna", None),
        (forged(b"nothing", site_signer()), "anna", None),
    )
    messages = set()
    for part10, name, trusted in attempts:
        with pytest.raises(InvalidSeal) as refused:
            open_enclosed(part10, recipient(name), trusted_signer=trusted)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__
        messages.add(str(refused.value))
    assert len(messages) == 1
