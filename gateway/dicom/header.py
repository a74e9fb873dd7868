"""The identifying attributes of a received data set, for the index.

Only the head of the data set is read, never pixels, and values are cut to the
width of their columns: a strange value never keeps an object out, only missing
or wrong identifiers do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID
from sqlalchemy import String

from gateway.dicom.elements import (
    CHARACTER_SET,
    DEEPEST,
    Elements,
    read_elements,
)
from gateway.errors import IdentifierMismatch, InvalidObject
from gateway.store.part10 import check_uid, read_head
from gateway.store.rows import Attributes
from gateway.store.schema import instances

LAST_KEYWORD = "InstanceNumber"  # the highest tag of these
UIDS = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
}
TEXTS = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_description": "StudyDescription",
    "referring_physician_name": "ReferringPhysicianName",
    "modality": "Modality",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
    "body_part_examined": "BodyPartExamined",
    "instance_number": "InstanceNumber",
}
WANTED = frozenset(
    {CHARACTER_SET}
    | {tag_for_keyword(keyword) or 0 for keyword in (*UIDS.values(), *TEXTS.values())}
)
DATES = frozenset({"patient_birth_date", "study_date"})
WIDTHS = {
    column: kind.length
    for column in TEXTS
    if isinstance(kind := instances.c[column].type, String)
}
LAST_TAG = tag_for_keyword(LAST_KEYWORD) or 0


def read_attributes(
    part10: BinaryIO, transfer_syntax_uid: str, max_depth: int = DEEPEST
) -> Attributes:
    """Read what the index keeps of the data set in a Part 10 file.

    Parameters
    ----------
    part10
        The file, at its start; it can seek.
    transfer_syntax_uid
        How its data set is encoded.
    max_depth
        Sequences within sequences.

    Raises
    ------
    InvalidObject
        The data set cannot be read, or one of the four identifying UIDs is
        no UID.
    IdentifierMismatch
        One of them is missing.
    """
    read_head(part10)
    syntax = _syntax(transfer_syntax_uid)
    elements = read_elements(
        part10, syntax, LAST_TAG, wanted=WANTED, max_depth=max_depth
    )
    if not elements.values:
        raise InvalidObject("The bytes are no data set")
    uids = {column: _identifier(elements, keyword) for column, keyword in UIDS.items()}
    texts = {c: _fit(c, elements.text(keyword)) for c, keyword in TEXTS.items()}
    return Attributes(**uids, **texts)


def _identifier(elements: Elements, keyword: str) -> str:
    value = elements.uid(keyword)
    if not value:
        raise IdentifierMismatch(f"{keyword} is missing")
    return check_uid(value, keyword)


def _fit(column: str, text: str) -> str:
    """Normalise a value and cut it to the width of its column."""
    if column in DATES:
        text = text.replace(".", "")  # 1999.12.31 of ACR-NEMA (PS3.5 6.2)
    if column == "study_time":
        text = text.replace(":", "")
    return text[: WIDTHS.get(column)]


@lru_cache(maxsize=256)
def _syntax(uid: str) -> UID:
    """Make a UID of what is always one of a few: pydicom checks each anew."""
    return UID(uid)
