"""Matching of keys against a data set (PS3.4 C.2.2.2), where SQL cannot.

The rules are those that ``gateway.store.find`` writes as SQL for the attributes
of the index, and sequence matching besides.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from gateway.store.find import AFTER_ALL_DIGITS

PUNCTUATION = {"DA": ".", "TM": ":"}  # of ACR-NEMA dates and times (PS3.5 6.2)
DATES_AND_TIMES = frozenset({"DA", "TM", "DT"})
NUMBERS = frozenset(
    {"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "US or SS"}
)


def matches(keys: Dataset, dataset: Dataset) -> bool:
    """Say whether a data set matches every key.

    An attribute with several values matches where one of them does (C.2.2.3),
    one without a value only universally. Several values of a key are
    alternatives.
    """
    return all(_matches_key(key, element_of(dataset, key.tag)) for key in keys)


def element_of(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """Return an element of a data set; None where it has none."""
    found: DataElement | None = dataset.get(tag, None)
    return found


def is_universal(key: DataElement) -> bool:
    """Say whether a key matches everything (C.2.2.2.3, C.2.2.2.6)."""
    if key.VR == "SQ":
        return all(is_universal(inner) for item in key.value[:1] for inner in item)
    return not any(text.strip("*") for text in texts(key))


def matching_items(key: DataElement, found: DataElement | None) -> list[Dataset]:
    """Return the items of a sequence that match the item of its key."""
    if found is None or found.VR != "SQ":
        return []
    items = list(found.value)
    if is_universal(key):
        return items
    return [item for item in items if matches(key.value[0], item)]


def texts(element: DataElement) -> list[str]:
    """Return the values of an element as text, without padding."""
    value = element.value
    if value is None:
        return []
    if isinstance(value, bytes):
        return _nonempty([value.decode("latin-1")])
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return _nonempty([str(one) for one in values])


def _nonempty(values: list[str]) -> list[str]:
    stripped = [value.strip(" \0") for value in values]
    return [value for value in stripped if value]


def _matches_key(key: DataElement, found: DataElement | None) -> bool:
    if is_universal(key):
        return True
    if found is None:
        return False
    if key.VR == "SQ":
        return bool(matching_items(key, found))
    return any(
        _matches_value(key.VR, wanted, value)
        for wanted in texts(key)
        for value in texts(found)
    )


def _matches_value(vr: str, wanted: str, value: str) -> bool:
    if vr == "UI":
        return wanted == value
    if vr in DATES_AND_TIMES:
        return _in_range(vr, wanted, value)
    if vr in NUMBERS:
        return _same_number(wanted, value)
    if vr == "PN":
        return _same_name(wanted, value)
    return _like(wanted, value)


def _in_range(vr: str, wanted: str, value: str) -> bool:
    """Match a date or time, or a range of them (C.2.2.2.5).

    An upper bound given to the minute includes that whole minute.
    """
    punctuation = PUNCTUATION.get(vr, "")
    if punctuation:
        wanted, value = wanted.replace(punctuation, ""), value.replace(punctuation, "")
    if "-" not in wanted:
        return value.startswith(wanted)
    first, last = (bound.strip() for bound in wanted.split("-", 1))
    return first <= value and (not last or value <= last + AFTER_ALL_DIGITS)


def _same_number(wanted: str, value: str) -> bool:
    try:
        return float(wanted) == float(value)
    except ValueError:
        return wanted == value


def _same_name(wanted: str, value: str) -> bool:
    """Match the whole of a name or one component group, in any case."""
    pattern, name = wanted.rstrip("^").casefold(), value.casefold()
    groups = [group.rstrip("^") for group in name.split("=")]
    return any(_like(pattern, one) for one in (name, *groups))


def _like(pattern: str, value: str) -> bool:
    """Match with ``*`` and ``?`` (C.2.2.2.4)."""
    return fnmatchcase(value, pattern.replace("[", "[[]"))
