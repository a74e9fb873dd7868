"""A received data set made anew: valid values, no private attributes, no pictures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.valuerep import STR_VR

from gateway.dicom.follow_classes import OWN_PIXELS, PRESENTATION_STATES
from gateway.dicom.repair import valid_text

if TYPE_CHECKING:
    from pydicom.tag import BaseTag

PIXEL_DATA: Final = 0x7FE00010
DATA_SET_START: Final = 0x00080000
"""Command, file meta and directory elements come before it."""
PADDING_GROUP: Final = 0xFFFC
CURVES: Final = 0x5000
OVERLAYS: Final = 0x6000
REPEATING: Final = 0xFF00

PICTURES: Final = (
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "IconImageSequence",
    "PixelDataProviderURL",
)
FORMER_STATES: Final = (
    # What the object was before, or where originals can be had.
    "OriginalAttributesSequence",
    "SOPInstanceUIDOfConcatenationSource",
    "EncryptedAttributesSequence",
    "RetrieveAETitle",
    "RetrieveURI",
    "RetrieveURL",
    "RetrieveLocationUID",
    "StorageMediaFileSetID",
    "StorageMediaFileSetUID",
    "DICOMRetrievalSequence",
    "DICOMMediaRetrievalSequence",
    "WADORetrievalSequence",
    "WADORSRetrievalSequence",
    "XDSRetrievalSequence",
)
SIGNATURES: Final = (
    # No longer true of a changed object (PS3.3 C.12.1.1.3).
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "ReferencedDigitalSignatureSequence",
    "ReferencedSOPInstanceMACSequence",
)
LEFT_BEHIND: Final = frozenset(
    tag
    for keyword in (*PICTURES, *FORMER_STATES, *SIGNATURES)
    if (tag := tag_for_keyword(keyword)) is not None
)
RESOLVED: Final = frozenset(
    Tag(keyword)
    for keyword in (
        "ReferencedSOPClassUID",
        "ReferencedSOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
    )
)
"""Rewritten next, and found by what is there: an invalid UID is one to find."""
PLAIN_DECIMALS: Final = re.compile(
    rb"(?:(?=[-.\d]{1,16}(?:\\| ?$))-?\d+(?:\.\d+)?(?:\\| ?$))+"
)
"""Decimal strings (PS3.5 6.2) without exponents and blanks between."""
TEXT_VRS: Final = frozenset(STR_VR) | {"UR"}


def copied(source: Dataset, sop_class_uid: str) -> Dataset:
    """Take over what may leave of a data set without pictures.

    Private and unknown attributes, icons, nested pixel data, digital signatures,
    former values and pointers to archives are left behind. Overlays stay in
    presentation states alone, pixel data where they are labels or doses. A
    string that its value representation does not allow is repaired, or written
    empty where its meaning is not certain.

    Parameters
    ----------
    source
        The data set, as read.
    sop_class_uid
        Its class.
    """
    overlays = sop_class_uid in PRESENTATION_STATES
    target = _copied_item(source, overlays=overlays)
    if sop_class_uid in OWN_PIXELS and PIXEL_DATA in source:
        target[PIXEL_DATA] = source[PIXEL_DATA]
    return target


def _copied_item(source: Dataset, *, overlays: bool) -> Dataset:
    target = Dataset()
    for tag in sorted(source.keys()):
        if not _may_stay(tag, overlays=overlays):
            continue
        element = _copied_element(source, tag, overlays=overlays)
        if element is not None:
            target[tag] = element
    return target


def _may_stay(tag: BaseTag, *, overlays: bool) -> bool:
    if tag < DATA_SET_START or tag.is_private or tag.group == PADDING_GROUP:
        return False
    if tag in LEFT_BEHIND or tag.group & REPEATING == CURVES:
        return False
    if tag.group & REPEATING == OVERLAYS:
        return overlays and bool(keyword_for_tag(tag))
    # Group lengths and what the dictionary does not know have no keyword.
    return bool(keyword_for_tag(tag))


def _copied_element(
    source: Dataset, tag: BaseTag, *, overlays: bool
) -> DataElement | RawDataElement | None:
    try:
        raw: Any = source.get_item(tag)
        if isinstance(raw, RawDataElement) and _plain_decimals(tag, raw):
            return raw._replace(VR="DS")
        element = source[tag]
        found = element.value
    except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
        return None
    if isinstance(found, Sequence):
        if dictionary_VR(tag) != "SQ":
            return None
        items = [_copied_item(item, overlays=overlays) for item in found]
        return DataElement(tag, "SQ", Sequence(items))
    vr = _agreed_vr(tag, element.VR)
    if vr is None:
        return None
    as_is = vr not in TEXT_VRS or tag in RESOLVED
    return DataElement(tag, vr, found if as_is else _valid(vr, found))


def _plain_decimals(tag: BaseTag, raw: RawDataElement) -> bool:
    """Whether values need neither reading nor repair: contours have millions."""
    decimals = dictionary_VR(tag) == "DS" and raw.VR in (None, "DS")
    return decimals and bool(raw.value and PLAIN_DECIMALS.fullmatch(raw.value))


def _agreed_vr(tag: BaseTag, vr: str) -> str | None:
    """Value representation to write with; None: the value is of another kind."""
    known = dictionary_VR(tag)
    if vr in known.split(" or "):
        return vr
    return known if vr in TEXT_VRS and known in TEXT_VRS else None


def _valid(vr: str, found: Any) -> Any:  # noqa: ANN401
    """All values of a string, repaired; empty if one cannot be."""
    if found is None:
        return ""
    values = list(found) if isinstance(found, MultiValue | list) else [found]
    repaired = [
        None
        if isinstance(each, bytes)
        else valid_text(vr, str(each))
        if str(each)
        else ""
        for each in values
    ]
    if any(each is None for each in repaired):
        return ""
    return repaired if len(repaired) > 1 else repaired[0]
