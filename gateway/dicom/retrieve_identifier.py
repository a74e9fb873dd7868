"""Identifiers of C-FIND, C-MOVE and C-GET requests, read into keys.

Hierarchical queries (PS3.4 C.4.1.3.1): the unique keys above the level are
given, each a single value, unless relational queries were negotiated.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from gateway.dicom.contexts import COMPOSITE_ROOT_MODELS, PATIENT_ROOT_MODELS
from gateway.dicom.elements import (
    DEEPEST,
    Elements,
    read_elements,
    seems_implicit,
)
from gateway.dicom.retrieve_header import read_some
from gateway.dicom.structure import check_structure
from gateway.errors import InvalidObject, InvalidQuery
from gateway.store.find import (
    INDEXED_KEYS,
    MATCHED_KEYS,
    RANGES,
    UNIQUE_KEY,
    FindKeys,
    Level,
    supported_keys,
)

LEVELS = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE)
# Part of every answer, or about the query itself: never matched.
NOT_KEYS = frozenset(
    {
        "SpecificCharacterSet",
        "QueryRetrieveLevel",
        "RetrieveAETitle",
        "InstanceAvailability",
        "TimezoneOffsetFromUTC",
    }
)
BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "UN"})
FIRST_BULK_TAG = 0x7FE00000


@dataclass(frozen=True)
class Identifier:
    """A received identifier: its texts as sent, and all of it decoded."""

    elements: Elements
    dataset: Dataset


@dataclass(frozen=True)
class Query:
    """What an identifier asks for.

    Attributes
    ----------
    level
        Query/Retrieve Level.
    keys
        What must match in the index.
    header
        Keys that only stored objects can answer: to be matched, and returned.
    requested
        Keyword (empty for a private or unknown tag) by tag of every other key
        present.
    complete
        False where a key is not supported: then answers say so (0xFF01).
    """

    level: Level
    keys: FindKeys
    header: Dataset
    requested: Mapping[int, str]
    complete: bool


def read_identifier(encoded: io.BytesIO | None, transfer_syntax: UID) -> Identifier:
    """Decode an identifier.

    Raises
    ------
    InvalidObject
        It cannot be decoded.
    """
    if encoded is None:
        raise InvalidObject("The request has no identifier")
    encoded.seek(0)
    elements = read_elements(encoded, transfer_syntax)
    encoded.seek(0)
    check_structure(
        encoded.getvalue(),
        implicit=seems_implicit(encoded, transfer_syntax.is_implicit_VR),
        little=transfer_syntax.is_little_endian,
        max_depth=DEEPEST,
    )
    return Identifier(elements, read_some(encoded, transfer_syntax))


def parse_find(identifier: Identifier, model: str, relational: bool) -> Query:
    """Read a C-FIND identifier.

    Raises
    ------
    InvalidQuery
        The level is none of the model's, or a unique key above it is not
        given as a single value.
    """
    query = _parse(identifier, model)
    if not relational:
        for level in _levels(model):
            if level is query.level:
                break
            _check_single(query, UNIQUE_KEY[level])
    return query


def parse_retrieve(identifier: Identifier, model: str) -> Query:
    """Read a C-MOVE or C-GET identifier.

    The unique key of the level is needed; those above narrow it where given.

    Raises
    ------
    InvalidQuery
        The level is none of the model's, its unique key is missing, or a
        wildcard stands in one.
    """
    query = _parse(identifier, model)
    keyword = UNIQUE_KEY[query.level]
    if not query.keys.values.get(keyword):
        raise InvalidQuery(f"Retrieval at {query.level.value} level needs {keyword}")
    unique = {UNIQUE_KEY[level] for level in LEVELS}
    keys = {k: v for k, v in query.keys.values.items() if k in unique}
    if any(c in value for values in keys.values() for value in values for c in "*?"):
        raise InvalidQuery("Retrieval takes no wildcards")
    return Query(query.level, FindKeys(keys), Dataset(), {}, query.complete)


def _parse(identifier: Identifier, model: str) -> Query:
    level = _level(identifier.elements, model)
    return query_of(level, identifier.dataset, identifier.elements.text)


def query_of(level: Level, keys: Dataset, text_of: Callable[[str], str]) -> Query:
    """Sort keys into those of the index, those of stored objects, and others.

    Parameters
    ----------
    level
        Of the answers.
    keys
        Every key that is asked for, matching or not.
    text_of
        Returns the text of a key of the index as it was sent, by its keyword.
    """
    supported = supported_keys(level) | NOT_KEYS
    header, requested, complete = Dataset(), {}, True
    for element in keys:
        keyword = keyword_for_tag(element.tag)
        if element.tag.element == 0:
            continue  # group lengths (PS3.5 7.2)
        if keyword not in NOT_KEYS and _is_of_header(element.tag, keyword):
            header.add(element)
            continue
        requested[int(element.tag)] = keyword
        complete = complete and keyword in supported
    matched = {
        keyword: values
        for keyword in sorted(set(requested.values()) & set(MATCHED_KEYS))
        if (values := _values(keyword, text_of(keyword)))
    }
    return Query(level, FindKeys(matched), header, requested, complete)


def _is_of_header(tag: BaseTag, keyword: str) -> bool:
    """Whether only a stored object can say what a key's attribute is.

    Not those of the index: at a level above their own they say nothing.
    """
    if not keyword or keyword in INDEXED_KEYS or tag >= FIRST_BULK_TAG:
        return False
    return dictionary_VR(tag) not in BULK_VRS


def _level(identifier: Elements, model: str) -> Level:
    value = identifier.text("QueryRetrieveLevel")
    for level in _levels(model):
        if level.value == value:
            return level
    raise InvalidQuery("Query/Retrieve Level is none of this information model")


def _levels(model: str) -> tuple[Level, ...]:
    if model in COMPOSITE_ROOT_MODELS:
        return (Level.IMAGE,)  # no frames are taken out of objects (PS3.4 Y)
    return LEVELS if model in PATIENT_ROOT_MODELS else LEVELS[1:]


def _check_single(query: Query, keyword: str) -> None:
    values = query.keys.values.get(keyword, ())
    if len(values) != 1 or "*" in values[0] or "?" in values[0]:
        raise InvalidQuery(
            f"A query at {query.level.value} level needs a single {keyword}; "
            "negotiate relational queries to leave it out"
        )


def _values(keyword: str, text: str) -> list[str]:
    """Return the matching values of a key; none for universal matching.

    Several values are alternatives: of UIDs by the standard (PS3.4 C.2.2.2.2),
    of others as peers mean it when they ask for CT and MR in one key.
    """
    values = [value.strip() for value in text.split("\\")]
    values = [value for value in values if value]
    if not any(value.strip("*") for value in values):
        return []
    if keyword in RANGES:  # the punctuation of ACR-NEMA dates and times
        mark = "." if "Date" in keyword else ":"
        return [value.replace(mark, "") for value in values]
    return values
