"""Which attributes of an original its authorised receiver may put back."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Final

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.valuerep import STR_VR

from gateway.dicom.derived_attributes import MAYBE_EMPTY, TAKEN_OVER
from gateway.dicom.lenient import lenient
from gateway.dicom.repair import copy_attributes, valid_value

UIDS: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)
UTF8: Final = "ISO_IR 192"


def attributes_to_put_back(original: Dataset, sent: Dataset) -> Dataset:
    """Identity of an original, and what de-identification took from an object.

    Parameters
    ----------
    original
        What was received.
    sent
        The protected object as it is sent.

    Returns
    -------
    Dataset
        Valid values only: the original's UIDs, and of the attributes a
        protected object takes over those that `sent` lacks or has otherwise.
    """
    target = Dataset()
    with lenient():
        copy_attributes(original, target, UIDS)
        changed = [
            keyword
            for keyword in (*MAYBE_EMPTY, *TAKEN_OVER)
            if valid_value(original, keyword) != valid_value(sent, keyword)
        ]
        copy_attributes(original, target, changed)
        _say_character_set(target, original)
    return target


def _say_character_set(target: Dataset, original: Dataset) -> None:
    """Keep the original's character set if it holds all text, else take UTF-8."""
    texts = [str(each.value) for each in target.iterall() if each.VR in STR_VR]
    if all(each.isascii() for each in texts):
        return
    target.SpecificCharacterSet = valid_value(original, "SpecificCharacterSet") or UTF8
    if not _encodes(target):
        target.SpecificCharacterSet = UTF8


def _encodes(target: Dataset) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dcmwrite(BytesIO(), target, implicit_vr=False, little_endian=True)
    except (UserWarning, UnicodeError, LookupError):
        return False
    return True
