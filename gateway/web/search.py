"""QIDO-RS (PS3.18 10.6): parameters read into a query, matches as DICOM JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

from gateway.dicom.retrieve_answer import answered
from gateway.dicom.retrieve_find import OpenFirst, first_header
from gateway.dicom.retrieve_header import one_lenient
from gateway.dicom.retrieve_identifier import NOT_KEYS, Query, query_of
from gateway.dicom.retrieve_match import is_universal, matches
from gateway.errors import BadRequest
from gateway.store.find import (
    HIERARCHY_UIDS,
    KEYS_OF_LEVEL,
    UNIQUE_KEY,
    Level,
    supported_keys,
)
from gateway.store.part10 import check_uid
from gateway.web.dicomjson import element_of_text, encode_json

MOST_ANSWERS: Final = 1000
MOST_PARAMETERS: Final = 100
LONGEST_PARAMETER: Final = 4096
DEEPEST_KEY: Final = 4
RETRIEVE_URL: Final = 0x00081190
INSTANCE_AVAILABILITY: Final = 0x00080056

# Returned unasked (PS3.18 Tables 10.6.3-3, -4 and -5), if the index has them.
_ALWAYS: Final[Mapping[Level, frozenset[str]]] = {
    Level.STUDY: supported_keys(Level.STUDY) - {"SOPClassesInStudy"},
    Level.SERIES: frozenset(
        {"Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber"}
        | {"NumberOfSeriesRelatedInstances", "StudyInstanceUID"}
    ),
    Level.IMAGE: frozenset(
        {"SOPClassUID", "SOPInstanceUID", "InstanceNumber"}
        | {"StudyInstanceUID", "SeriesInstanceUID", "AvailableTransferSyntaxUID"}
    ),
}
_ALWAYS_OF_IMAGES: Final = ("Rows", "Columns", "BitsAllocated", "NumberOfFrames")
_ABOUT_THE_SEARCH: Final = frozenset(
    {"limit", "offset", "fuzzymatching", "includefield", "accept"}
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a client looks for.

    Attributes
    ----------
    query
        The keys.
    limit, offset
        Which of the matches, in the order of their UIDs.
    remarks
        What of the request is not done, for the Warning header.
    """

    query: Query
    limit: int
    offset: int
    remarks: Sequence[str]


def parse_search(
    parameters: Sequence[tuple[str, str]], level: Level, path: Mapping[str, str]
) -> Search:
    """Read the parameters of a search.

    Parameters
    ----------
    parameters
        Names and values, decoded.
    level
        Of what is looked for.
    path
        Keyword -> UID of what stands in the path.

    Raises
    ------
    BadRequest
        A parameter is unknown or has no such value; the message names it,
        never the value.
    """
    if len(parameters) > MOST_PARAMETERS:
        raise BadRequest("There are too many parameters")
    about = _about_the_search(parameters)
    keys = _Keys(path)
    for name, value in parameters:
        if name not in _ABOUT_THE_SEARCH:
            keys.match(name, value)
    everything = False
    for name in _included(parameters):
        everything = everything or name == "all"
        if name != "all":
            keys.ask(name)
    for keyword in _unasked(level, everything):
        keys.ask(keyword)
    query = query_of(level, keys.dataset, keys.text)
    return Search(
        query=query,
        limit=min(_count(about, "limit", MOST_ANSWERS), MOST_ANSWERS),
        offset=_count(about, "offset", 0),
        remarks=tuple(_remarks(about, query)),
    )


def answers(
    search: Search, found: Sequence[dict[str, Any]], open_first: OpenFirst, base: str
) -> Iterator[bytes]:
    """Yield the matches as DICOM JSON objects; one more than `limit`, if there is.

    Parameters
    ----------
    search
        What was asked.
    found
        What the index says matches, as far as it can tell.
    open_first
        Opens the first object of what was found.
    base
        URL of the service, without a slash at its end.
    """
    query, first, after = search.query, search.offset, search.offset + search.limit + 1
    if all(is_universal(key) for key in query.header):
        found, first, after = found[first:after], 0, search.limit + 1
    headers = ((row, first_header(open_first, query, row)) for row in found)
    matching = ((row, h) for row, h in headers if matches(query.header, h))
    for row, header in islice(matching, first, after):
        yield _answer(query, row, header, base)


class _Keys:
    """Keys as they are collected: a data set, and the texts as given."""

    def __init__(self, path: Mapping[str, str]) -> None:
        self.dataset = Dataset()
        self._texts: dict[str, str] = {}
        for keyword, uid in path.items():
            self._texts[keyword] = check_uid(uid, keyword)
            self._add([tag_of(keyword)], uid)

    def text(self, keyword: str) -> str:
        """Return the text of a key as it was given."""
        return self._texts.get(keyword, "")

    def match(self, name: str, value: str) -> None:
        """Take a key with a value to be matched."""
        tags = _tags_of(name)
        if len(value) > LONGEST_PARAMETER or not value.isprintable():
            raise BadRequest(f"{name} has a value that cannot be matched")
        if _vr(tags[-1]) == "UI":  # a list (PS3.18 8.3.4.1)
            value = value.replace(",", "\\")
        keyword = _keyword_of(name)
        if keyword in self._texts:
            raise BadRequest(f"{keyword} is given more than once")
        if keyword in HIERARCHY_UIDS:
            for uid in filter(None, value.split("\\")):
                if set(uid) - set("*?"):
                    check_uid(uid, keyword)
        self._texts[keyword] = value
        self._add(tags, value)

    def ask(self, name: str) -> None:
        """Take a key that is to be returned, unless it is there."""
        tags = _tags_of(name)
        if len(tags) > 1 or tags[0] not in self.dataset:
            self._add(tags, "")

    def _add(self, tags: Sequence[int], value: str) -> None:
        """Put a key in; those of a sequence into its one item."""
        dataset = self.dataset
        with one_lenient():
            for tag in tags[:-1]:
                if tag not in dataset or not dataset[tag].value:
                    dataset[tag] = DataElement(tag, "SQ", Items([Dataset()]))
                dataset = dataset[tag].value[0]
            if value or tags[-1] not in dataset:
                dataset[tags[-1]] = _key(tags[-1], value)


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword.

    Raises
    ------
    BadRequest
        It is none of the standard's.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise BadRequest("A parameter names no attribute of the standard")
    return int(tag)


def _key(tag: int, value: str) -> DataElement:
    vr = _vr(tag)
    if vr == "SQ":
        return DataElement(tag, "SQ", Items([]))
    if not value:
        return DataElement(tag, vr, None)
    try:
        return DataElement(tag, vr, value)
    except Exception:  # noqa: BLE001 - a range, a wildcard: matched as text
        return DataElement(tag, "LO", value)


def _answer(query: Query, row: dict[str, Any], header: Dataset, base: str) -> bytes:
    elements = [
        element_of_text(tag, _vr(tag), _texts(row.get(keyword, "")))
        for tag, keyword in query.requested.items()
        if keyword and keyword not in NOT_KEYS
    ]
    elements += answered(query.header, header)
    elements.append(element_of_text(INSTANCE_AVAILABILITY, "CS", "ONLINE"))
    elements.append(element_of_text(RETRIEVE_URL, "UR", url_of(base, query.level, row)))
    return encode_json(elements)


def url_of(base: str, level: Level, row: Mapping[str, Any]) -> str:
    """Return where a study, series or instance can be retrieved."""
    url = f"{base}/studies/{row['StudyInstanceUID']}"
    if level is not Level.STUDY:
        url += f"/series/{row['SeriesInstanceUID']}"
    if level is Level.IMAGE:
        url += f"/instances/{row['SOPInstanceUID']}"
    return url


def _texts(value: object) -> str | list[str]:
    if isinstance(value, list):
        return [str(one) for one in value]
    return str(value)


def _unasked(level: Level, everything: bool) -> list[str]:
    keywords = sorted(_ALWAYS[level] | {UNIQUE_KEY[level]})
    if everything:
        keywords += sorted(set(KEYS_OF_LEVEL[level]) - set(keywords))
    if level is Level.IMAGE:
        keywords += _ALWAYS_OF_IMAGES
    return keywords


def _about_the_search(parameters: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parameters:
        if name in found:
            raise BadRequest(f"{name} is given more than once")
        if name in _ABOUT_THE_SEARCH and name != "includefield":
            found[name] = value
    return found


def _included(parameters: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, value in parameters:
        if name == "includefield":
            yield from filter(None, value.split(","))


def _count(about: Mapping[str, str], name: str, default: int) -> int:
    text = about.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise BadRequest(f"{name} is not a number")
    return int(text)


def _remarks(about: Mapping[str, str], query: Query) -> Iterator[str]:
    if about.get("fuzzymatching", "false") != "false":
        yield "The fuzzymatching parameter is not supported. Only literal matching"
    if not query.complete:
        yield "Some of the attributes are not supported at this level"


def _tags_of(name: str) -> list[int]:
    """Read an attribute id: tags or keywords, joined by dots into sequences."""
    parts = name.split(".")
    if len(parts) > DEEPEST_KEY:
        raise BadRequest("An attribute is named too deep within sequences")
    tags = [_tag(part) for part in parts]
    if any(_vr(tag) != "SQ" for tag in tags[:-1]):
        raise BadRequest("An attribute is named within one that is no sequence")
    return tags


def _tag(text: str) -> int:
    if len(text) == 8 and all(c in "0123456789abcdefABCDEF" for c in text):
        tag = int(text, 16)
        try:
            dictionary_VR(tag)
        except KeyError as error:
            raise BadRequest(
                "A parameter names no attribute of the standard"
            ) from error
        return tag
    return tag_of(text)


def _keyword_of(name: str) -> str:
    """Return one spelling of an attribute id."""
    tags = _tags_of(name)
    return ".".join(keyword_for_tag(tag) for tag in tags)


def _vr(tag: int) -> str:
    return dictionary_VR(Tag(tag)).split(" ")[0]
