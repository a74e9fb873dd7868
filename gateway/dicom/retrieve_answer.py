"""Identifiers of C-FIND, C-MOVE and C-GET responses, encoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import UID

from gateway.dicom.retrieve_header import CHARACTER_SET, one_lenient
from gateway.dicom.retrieve_identifier import BULK_VRS, NOT_KEYS, Query
from gateway.dicom.retrieve_match import element_of, matching_items
from gateway.store.find import UNIQUE_KEY

LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT"})
UTF_8 = "ISO_IR 192"


def encode_answer(
    query: Query,
    found: tuple[Mapping[str, Any], Dataset],
    retrieve_ae: str,
    transfer_syntax: UID,
) -> bytes:
    """Encode the identifier of one match.

    Every requested key is there, empty where it is not known (PS3.4 C.2.2.1).

    Parameters
    ----------
    query
        What was asked.
    found
        What the index says of the match, by keyword; and the attributes of
        its first object that were asked for beside those.
    retrieve_ae
        The AE title it can be retrieved from.
    transfer_syntax
        Of the answer: one of the uncompressed ones.
    """
    row, header = found
    values = {
        tag: _text_of(row.get(keyword, ""))
        for tag, keyword in query.requested.items()
        if keyword not in NOT_KEYS
    }
    unique = UNIQUE_KEY[query.level]
    always = {
        "QueryRetrieveLevel": query.level.value,
        "RetrieveAETitle": retrieve_ae,
        "InstanceAvailability": "ONLINE",
        unique: _text_of(row[unique]),
    }
    values |= {Tag(keyword): text for keyword, text in always.items()}
    further = list(answered(query.header, header))
    ascii_only = all(text.isascii() for text in values.values())
    if not (ascii_only and all(_is_ascii(element) for element in further)):
        values[CHARACTER_SET] = UTF_8
    encoded = _encode_texts(values, transfer_syntax)
    encoded |= _encode_elements(further, header, transfer_syntax)
    return b"".join(encoded[tag] for tag in sorted(encoded))


def encode_failed(uids: Sequence[str], transfer_syntax: UID) -> bytes:
    """Encode the identifier that lists failed sub-operations (PS3.4 C.4.2.1.4)."""
    tag = Tag("FailedSOPInstanceUIDList")
    return _encode_texts({tag: "\\".join(uids)}, transfer_syntax)[tag]


def answered(keys: Dataset, header: Dataset) -> Iterator[DataElement]:
    """Yield what an object has of the keys; of sequences what was asked."""
    for key in keys:
        found = element_of(header, key.tag)
        if found is None:
            yield DataElement(key.tag, key.VR, None)
            continue
        if key.VR != "SQ" or found.VR != "SQ":
            yield found
            continue
        asked = key.value[0] if key.value else Dataset()
        items = [_part(item, asked) for item in matching_items(key, found)]
        yield DataElement(key.tag, "SQ", Items(items))


def _part(item: Dataset, asked: Dataset) -> Dataset:
    """Return what was asked of an item; where nothing was named, all but bulk."""
    part = Dataset()
    for element in asked or item:
        if element.tag == CHARACTER_SET:
            continue  # the answer has one for all its items
        if element.VR in BULK_VRS:
            continue
        known = element_of(item, element.tag)
        if known is None:
            known = DataElement(element.tag, element.VR, None)
        elif known.VR == "SQ":
            inner = element.value[0] if asked and element.value else Dataset()
            parts = [_part(one, inner) for one in known.value]
            known = DataElement(known.tag, "SQ", Items(parts))
        part.add(known)
    return part


def _is_ascii(element: DataElement) -> bool:
    if element.VR == "SQ":
        return all(_is_ascii(inner) for item in element.value for inner in item)
    return isinstance(element.value, bytes) or str(element.value).isascii()


def _encode_elements(
    elements: Sequence[DataElement], header: Dataset, transfer_syntax: UID
) -> dict[int, bytes]:
    """Encode what was read from an object; what cannot be is left empty."""
    encoded: dict[int, bytes] = {}
    for element in elements:
        target = DicomBytesIO()
        target.is_implicit_VR = transfer_syntax.is_implicit_VR
        target.is_little_endian = transfer_syntax.is_little_endian
        try:
            with one_lenient():
                settled = correct_ambiguous_vr_element(
                    element, header, transfer_syntax.is_little_endian
                )
                write_data_element(target, settled, ["utf_8"])
        except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
            encoded |= _encode_texts({element.tag: ""}, transfer_syntax)
        else:
            encoded[element.tag] = target.getvalue()
    return encoded


def _encode_texts(values: Mapping[int, str], transfer_syntax: UID) -> dict[int, bytes]:
    """Encode text elements in one of the uncompressed transfer syntaxes."""
    order = "<" if transfer_syntax.is_little_endian else ">"
    encoded: dict[int, bytes] = {}
    for tag, text in values.items():
        vr = _vr(tag)
        value = text.encode("utf-8")
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
        if transfer_syntax.is_implicit_VR:
            head += struct.pack(f"{order}L", len(value))
        elif vr in LONG_VRS or len(value) > 0xFFFF:
            # Above 64 KiB only as UN (PS3.5 6.2.2 note 2)
            long_vr = vr if vr in LONG_VRS else "UN"
            head += long_vr.encode() + struct.pack(f"{order}HL", 0, len(value))
        else:
            head += vr.encode() + struct.pack(f"{order}H", len(value))
        encoded[tag] = head + value
    return encoded


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag).split(" ")[0]
    except KeyError:
        return "UN"


def _text_of(value: object) -> str:
    return "\\".join(value) if isinstance(value, list) else str(value)
