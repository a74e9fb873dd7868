"""Attributes taken over from a source, made valid on the way.

What is written has to be valid even where what was received is not: a value
that its value representation does not allow is repaired where its meaning is
certain, and left out where it is not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydicom.datadict import (
    dictionary_VM,
    dictionary_VR,
    keyword_for_tag,
    tag_for_keyword,
)
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import MAX_VALUE_LEN, STR_VR, format_number_as_ds

from gateway.dicom.lenient import value

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
PATTERNS: Final = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{1,16}"),
    "DA": re.compile(r"(\d{4})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "DS": re.compile(r" *[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})? *"),
    "DT": re.compile(r"\d{4}(\d{2}){0,5}(\.\d{1,6})?([+-]\d{4})?"),
    "IS": re.compile(r" *[+-]?\d{1,10} *"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"),
    "UI": re.compile(r"[012](\.(0|[1-9]\d*))+"),
}
DIGITS_ONLY: Final = ("DA", "TM")
UPPER_CASE: Final = ("AS", "CS")
PICTURES: Final = (
    "IconImageSequence",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelDataProviderURL",
    "EncapsulatedDocument",
)
"""What may show the original, at whatever depth: never taken over."""

FREE_TEXT: Final = ("LT", "ST", "UT", "UC")
NAME_GROUP_LENGTH: Final = 64


def valid_text(vr: str, raw: str) -> str | None:
    """Repair a string to what its value representation allows (PS3.5 6.2).

    Parameters
    ----------
    vr
        Value representation.
    raw
        One value as received.

    Returns
    -------
    str or None
        The value, repaired where its meaning is certain; None where it is not.
    """
    cleaned = raw if vr in FREE_TEXT else CONTROL.sub("", raw).strip()
    cleaned = cleaned.replace("\0", "")
    if vr in DIGITS_ONLY:
        # Dates and times of ACR-NEMA have dots and colons (PS3.5 6.2).
        separator = "." if vr == "DA" else ":"
        cleaned = cleaned.replace(separator, "")
    if vr in UPPER_CASE:
        cleaned = cleaned.upper()
    pattern = PATTERNS.get(vr)
    if pattern is not None:
        return _fitting(vr, cleaned) if pattern.fullmatch(cleaned) else None
    if vr == "PN":
        return _valid_name(cleaned)
    return cleaned[: MAX_VALUE_LEN.get(vr, len(cleaned))]


def _fitting(vr: str, cleaned: str) -> str | None:
    if len(cleaned) <= MAX_VALUE_LEN.get(vr, 64):
        return cleaned
    # Equipment writes decimals with more digits than the 16 octets allowed.
    return format_number_as_ds(float(cleaned)) if vr == "DS" else None


def _valid_name(raw: str) -> str:
    groups = raw.split("=")[:3]
    return "=".join(
        "^".join(group.split("^")[:5])[:NAME_GROUP_LENGTH] for group in groups
    )


def copy_attributes(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Take attributes over, valid; those without a valid value are left out.

    Parameters
    ----------
    source, target
        From and to.
    keywords
        Which attributes; sequences are taken over with valid items only.
    """
    for keyword in keywords:
        copied = valid_value(source, keyword)
        if copied is not None:
            setattr(target, keyword, copied)


def valid_value(source: Dataset, keyword: str) -> object | None:
    """Value of an attribute if it has a valid one, repaired if need be.

    Returns
    -------
    object or None
        None where it is absent, empty or cannot be repaired.
    """
    found = value(source, keyword)
    tag = tag_for_keyword(keyword)
    if found is None or tag is None:
        return None
    vr = dictionary_VR(tag)
    if vr == "SQ":
        copied = [_valid_item(item) for item in found if isinstance(item, Dataset)]
        return [item for item in copied if len(item)] or None
    values = list(found) if isinstance(found, MultiValue) else [found]
    if vr in STR_VR:
        values = [_valid_string(vr, each) for each in values]
    if not values or any(each is None or each == "" for each in values):
        return None
    vm = dictionary_VM(tag)
    if vm.isdigit() and int(vm) != len(values):
        return None
    return values if len(values) > 1 else values[0]


def _valid_string(vr: str, raw: object) -> str | None:
    return None if isinstance(raw, bytes) else valid_text(vr, str(raw))


def _valid_item(item: Dataset) -> Dataset:
    copied = Dataset()
    # Private and unknown attributes have no keyword and are left behind.
    keywords = {keyword_for_tag(element.tag) for element in item.elements()}
    copy_attributes(item, copied, sorted(keywords - {"", *PICTURES}))
    return copied
