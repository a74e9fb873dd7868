"""What a condition may name: DICOM keywords and facts of the association.

Types follow the data dictionary (PS3.6), never the object at hand, so that a
condition means the same for every object:

* a keyword that may hold several values (VM not 1) is always a list,
* VR DS, FL, FD are double; IS, US, SS, UL, SL, UV, SV int; all others text,
* absent or empty: text is ``""``, a list is ``[]``, a number is ``null``.
"""

from __future__ import annotations

from typing import Literal

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]

from config.explain import nearest

Scalar = str | int | float | bool
Value = Scalar | list[Scalar] | None
Kind = Literal["text", "int", "double"]

FACTS = frozenset({"calling_ae", "called_ae", "peer_address"})
"""Facts of the association an instance came by; text."""

RECEIVED_AT = "received_at"
"""When an original came; text, of the conditions of grants only."""

_DOUBLE = frozenset({"DS", "FL", "FD"})
_INT = frozenset({"IS", "US", "SS", "UL", "SL", "UV", "SV", "US or SS"})
_TEXT = frozenset(
    {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN"}
    | {"SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_DICTIONARY = {entry[4]: entry for entry in DicomDictionary.values() if entry[4]}
_TAGS = {entry[4]: tag for tag, entry in DicomDictionary.items() if entry[4]}


def tag_of(keyword: str) -> int:
    """Return the tag of a known keyword."""
    return _TAGS[keyword]


def kind_of(keyword: str) -> Kind | None:
    """Return the type of a keyword's values; None: no condition may name it."""
    if keyword in FACTS or keyword == RECEIVED_AT:
        return "text"
    entry = _DICTIONARY.get(keyword)
    vr = entry[0] if entry is not None else ""
    if vr in _DOUBLE:
        return "double"
    if vr in _INT:
        return "int"
    return "text" if vr in _TEXT else None


def is_list(keyword: str) -> bool:
    """Say whether a keyword may hold several values and so is a list."""
    if keyword in FACTS or keyword == RECEIVED_AT:
        return False
    return _DICTIONARY[keyword][1] != "1"


def absent(keyword: str) -> Value:
    """Return what a condition sees when the attribute is absent or empty."""
    if is_list(keyword):
        return []
    return "" if kind_of(keyword) == "text" else None


def refusal(name: str) -> str | None:
    """Return why a condition may not name this, or None when it may."""
    if kind_of(name) is not None and name != RECEIVED_AT:
        return None
    if name in _DICTIONARY:
        return (
            f"{name} is a sequence or binary (VR {_DICTIONARY[name][0]});"
            " conditions see plain attributes only"
        )
    known = [*FACTS, *_DICTIONARY]
    return f"{name} is no DICOM keyword or association fact{nearest(name, known)}"
