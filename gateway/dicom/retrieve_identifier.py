"""Identifiers of C-FIND and C-MOVE: read into keys, and built for answers.

Hierarchical queries (PS3.4 C.4.1.3.1): the unique keys above the level are
given, each a single value, unless relational queries were negotiated.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import Tag
from pydicom.uid import UID

from gateway.dicom.contexts import PATIENT_ROOT_MODELS
from gateway.dicom.elements import Elements, read_elements
from gateway.errors import InvalidObject, InvalidQuery
from gateway.store.find import (
    MATCHED_COLUMNS,
    RANGES,
    UIDS,
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
LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT"})
UTF_8 = "ISO_IR 192"


@dataclass(frozen=True)
class Query:
    """What a C-FIND or C-MOVE identifier asks for.

    Attributes
    ----------
    level
        Query/Retrieve Level.
    keys
        What must match.
    requested
        Keyword (empty for a private or unknown tag) by tag of every key
        present.
    complete
        False where a key is not supported: then answers say so (0xFF01).
    """

    level: Level
    keys: FindKeys
    requested: Mapping[int, str]
    complete: bool


def read_identifier(encoded: io.BytesIO | None, transfer_syntax: UID) -> Elements:
    """Decode an identifier.

    Raises
    ------
    InvalidObject
        It cannot be decoded.
    """
    if encoded is None:
        raise InvalidObject("The request has no identifier")
    encoded.seek(0)
    return read_elements(encoded, transfer_syntax)


def parse_find(identifier: Elements, model: str, relational: bool) -> Query:
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


def parse_move(identifier: Elements, model: str) -> Query:
    """Read a C-MOVE identifier.

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
        raise InvalidQuery(f"C-MOVE at {query.level.value} level needs {keyword}")
    unique = {UNIQUE_KEY[level] for level in LEVELS}
    keys = {k: v for k, v in query.keys.values.items() if k in unique}
    if any(c in value for values in keys.values() for value in values for c in "*?"):
        raise InvalidQuery("C-MOVE takes no wildcards")
    return Query(query.level, FindKeys(keys), query.requested, query.complete)


def encode_answer(
    query: Query, row: Mapping[str, Any], retrieve_ae: str, transfer_syntax: UID
) -> bytes:
    """Encode the identifier of one match.

    Every requested key is there, empty where it is not known (PS3.4 C.2.2.1).
    """
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
    if not all(text.isascii() for text in values.values()):
        values[Tag("SpecificCharacterSet")] = UTF_8
    return encode_identifier(values, transfer_syntax)


def encode_failed(uids: Sequence[str], transfer_syntax: UID) -> bytes:
    """Encode the identifier that lists failed sub-operations (PS3.4 C.4.2.1.4)."""
    tag = Tag("FailedSOPInstanceUIDList")
    return encode_identifier({tag: "\\".join(uids)}, transfer_syntax)


def encode_identifier(values: Mapping[int, str], transfer_syntax: UID) -> bytes:
    """Encode text elements in one of the uncompressed transfer syntaxes."""
    order = "<" if transfer_syntax.is_little_endian else ">"
    encoded = bytearray()
    for tag in sorted(values):
        vr = _vr(tag)
        value = values[tag].encode("utf-8")
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        encoded += struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
        if transfer_syntax.is_implicit_VR:
            encoded += struct.pack(f"{order}L", len(value))
        elif vr in LONG_VRS or len(value) > 0xFFFF:
            # Above 64 KiB only as UN (PS3.5 6.2.2 note 2)
            long_vr = vr if vr in LONG_VRS else "UN"
            encoded += long_vr.encode() + struct.pack(f"{order}HL", 0, len(value))
        else:
            encoded += vr.encode() + struct.pack(f"{order}H", len(value))
        encoded += value
    return bytes(encoded)


def _parse(identifier: Elements, model: str) -> Query:
    level = _level(identifier, model)
    requested = {tag: keyword_for_tag(tag) for tag in identifier.values}
    asked = set(requested.values()) - NOT_KEYS
    keys = {
        keyword: values
        for keyword in sorted(asked & set(MATCHED_COLUMNS))
        if (values := _values(keyword, identifier.text(keyword)))
    }
    complete = asked <= supported_keys(level)
    return Query(level, FindKeys(keys), requested, complete)


def _level(identifier: Elements, model: str) -> Level:
    value = identifier.text("QueryRetrieveLevel")
    for level in _levels(model):
        if level.value == value:
            return level
    raise InvalidQuery("Query/Retrieve Level is none of this information model")


def _levels(model: str) -> tuple[Level, ...]:
    return LEVELS if model in PATIENT_ROOT_MODELS else LEVELS[1:]


def _check_single(query: Query, keyword: str) -> None:
    values = query.keys.values.get(keyword, ())
    if len(values) != 1 or "*" in values[0] or "?" in values[0]:
        raise InvalidQuery(
            f"A query at {query.level.value} level needs a single {keyword}; "
            "negotiate relational queries to leave it out"
        )


def _values(keyword: str, text: str) -> list[str]:
    """Return the matching values of a key; none for universal matching."""
    if not text.strip("*"):
        return []
    if keyword in UIDS:
        return [uid for uid in text.split("\\") if uid]
    if keyword in RANGES:  # the punctuation of ACR-NEMA dates and times
        return [text.replace(".", "") if "Date" in keyword else text.replace(":", "")]
    return [text]


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag).split(" ")[0]
    except KeyError:
        return "UN"


def _text_of(value: object) -> str:
    return "\\".join(value) if isinstance(value, list) else str(value)
