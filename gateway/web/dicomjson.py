"""Data sets as DICOM JSON (PS3.18 Annex F), whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from gateway.dicom.retrieve_header import CHARACTER_SET, one_lenient
from gateway.dicom.retrieve_identifier import BULK_VRS, FIRST_BULK_TAG

LONGEST_VALUE_BYTES: Final = 1 << 16
"""Longer values are bulk data, whatever their VR."""


def encode_json(elements: Iterable[DataElement]) -> bytes:
    """Encode elements as one object, by tag; bulk data is left out.

    What JSON cannot say, as a value that its VR forbids, is left empty.
    """
    with one_lenient():
        known = {
            int(e.tag): e for e in elements if not _is_bulk(e) and e.tag.element != 0
        }
        # All text here is UTF-8; the received character set says nothing of it.
        known.pop(CHARACTER_SET, None)
        pairs = (f'"{tag:08X}":{_value(known[tag])}' for tag in sorted(known))
        return ("{" + ",".join(pairs) + "}").encode("utf-8")


def element_of_text(tag: int, vr: str, text: str | list[str]) -> DataElement:
    """Make an element of what the index says; empty where that is no such value."""
    with one_lenient():
        try:
            return DataElement(tag, vr, text or None)
        except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
            return DataElement(tag, vr, None)


def without_bulk(dataset: Dataset) -> Dataset:
    """Take the bulk data out of a data set and of the items in it."""
    for element in list(dataset):
        if _is_bulk(element):
            del dataset[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                without_bulk(item)
    return dataset


def _is_bulk(element: DataElement) -> bool:
    if element.VR in BULK_VRS or int(element.tag) >= FIRST_BULK_TAG:
        return True
    value = element.value
    return isinstance(value, str | bytes) and len(value) > LONGEST_VALUE_BYTES


def _value(element: DataElement) -> str:
    try:
        found: dict[str, Any] = element.to_json_dict(None, LONGEST_VALUE_BYTES)
        return json.dumps(found, ensure_ascii=False, allow_nan=False)
    except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
        return json.dumps({"vr": element.VR})
