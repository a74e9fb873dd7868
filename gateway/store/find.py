"""Query keys of C-FIND, C-MOVE and C-GET as SQL (PS3.4 C.2.2.2, C.6).

A query runs over one catalogue: the originals, which UIDs of the objects
protected from them find as well, or the protected objects. Never over both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    Table,
    and_,
    distinct,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.sql.elements import KeyedColumnElement

from gateway.store.schema import instances, protected

Rows = Callable[[Select[Any]], list[dict[str, Any]]]
Column = KeyedColumnElement[Any]


class Level(Enum):
    """Query/Retrieve Level (0008,0052)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


@dataclass(frozen=True)
class FindKeys:
    """The non-empty matching keys of a query by DICOM keyword.

    ``values`` holds the encoded text of each: several for a list of UIDs.
    Wildcards and ranges stand in it as the standard writes them.
    """

    values: Mapping[str, Sequence[str]]


# DICOM keyword -> column, the same in every table of objects.
PATIENT_KEYS: dict[str, str] = {
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
}
STUDY_KEYS: dict[str, str] = {
    "StudyInstanceUID": "study_instance_uid",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "AccessionNumber": "accession_number",
    "StudyID": "study_id",
    "StudyDescription": "study_description",
    "ReferringPhysicianName": "referring_physician_name",
}
SERIES_KEYS: dict[str, str] = {
    "SeriesInstanceUID": "series_instance_uid",
    "Modality": "modality",
    "SeriesNumber": "series_number",
    "SeriesDescription": "series_description",
    "BodyPartExamined": "body_part_examined",
}
IMAGE_KEYS: dict[str, str] = {
    "SOPInstanceUID": "sop_instance_uid",
    "SOPClassUID": "sop_class_uid",
    "InstanceNumber": "instance_number",
    "AvailableTransferSyntaxUID": "transfer_syntax_uid",
}
KEYS_OF_LEVEL: Mapping[Level, Mapping[str, str]] = {
    Level.PATIENT: PATIENT_KEYS,
    Level.STUDY: PATIENT_KEYS | STUDY_KEYS,
    Level.SERIES: PATIENT_KEYS | STUDY_KEYS | SERIES_KEYS,
    Level.IMAGE: PATIENT_KEYS | STUDY_KEYS | SERIES_KEYS | IMAGE_KEYS,
}
UNIQUE_KEY: Mapping[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
# One value in the index per study or series, several in the answer.
LISTS_OF_STUDY: Mapping[str, str] = {
    "ModalitiesInStudy": "modality",
    "SOPClassesInStudy": "sop_class_uid",
}
COUNTS_OF_LEVEL: Mapping[Level, Mapping[str, str]] = {
    Level.PATIENT: {
        "NumberOfPatientRelatedStudies": "study_instance_uid",
        "NumberOfPatientRelatedSeries": "series_instance_uid",
        "NumberOfPatientRelatedInstances": "id",
    },
    Level.STUDY: {
        "NumberOfStudyRelatedSeries": "series_instance_uid",
        "NumberOfStudyRelatedInstances": "id",
    },
    Level.SERIES: {"NumberOfSeriesRelatedInstances": "id"},
    Level.IMAGE: {},
}
MATCHED_KEYS: Mapping[str, str] = {**KEYS_OF_LEVEL[Level.IMAGE], **LISTS_OF_STUDY}
INDEXED_KEYS = frozenset(MATCHED_KEYS).union(*COUNTS_OF_LEVEL.values())
"""Keywords that the index alone answers for, each at its levels."""
HIERARCHY_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
PATH = "path"
"""In a row of an answer: where the first object of the entity is stored."""
PERSON_NAMES = frozenset({"PatientName", "ReferringPhysicianName"})
RANGES = frozenset({"PatientBirthDate", "StudyDate", "StudyTime"})
UIDS = frozenset({*HIERARCHY_UIDS, "SOPClassUID", "SOPClassesInStudy"})
AFTER_ALL_DIGITS = "~"
NEWEST_OBJECTS = 100_000


@dataclass(frozen=True)
class Catalogue:
    """The objects that one AE title lists.

    Attributes
    ----------
    table
        A row per object; its attributes and UIDs are what answers show.
    by_protected
        Whether UIDs of objects protected from these find them, too.
    """

    table: Table
    by_protected: bool

    def column(self, name: str) -> Column:
        """Return a column of the table."""
        return self.table.c[name]


ORIGINALS = Catalogue(instances, by_protected=True)
PROTECTED = Catalogue(protected, by_protected=False)


def supported_keys(level: Level) -> frozenset[str]:
    """Return the keywords that the index answers for at a level."""
    keys = {*KEYS_OF_LEVEL[level], *COUNTS_OF_LEVEL[level]}
    return frozenset(keys | (set(LISTS_OF_STUDY) if level is Level.STUDY else set()))


@dataclass(frozen=True)
class FindStatement:
    """The statements that answer one query."""

    level: Level
    matches: Select[Any]
    lists: Mapping[str, Select[Any]]

    def rows(self, run: Rows) -> list[dict[str, Any]]:
        """Run the statements and put their answers together."""
        found = run(self.matches)
        key = UNIQUE_KEY[self.level]
        for keyword, statement in self.lists.items():
            values: dict[str, list[str]] = {}
            for row in run(statement):
                values.setdefault(row["key"], []).append(row["value"])
            for row in found:
                row[keyword] = [v for v in values.get(row[key], []) if v]
        return found


def find_statement(
    keys: FindKeys,
    level: Level,
    catalogue: Catalogue = ORIGINALS,
    only: ColumnElement[bool] | None = None,
) -> FindStatement:
    """Build the statements for a query.

    An entity matches when one of its objects does. What is said of it is what
    its first object says; its counts and lists are of all its objects. Objects
    outside ``only`` are as if they were not there.
    """
    seen = true() if only is None else only
    unique = catalogue.column(KEYS_OF_LEVEL[level][UNIQUE_KEY[level]])
    matching = _conditions(keys, catalogue) & seen
    matched = select(unique).where(matching).distinct()
    of_matched = unique.in_(matched) & (unique != "") & seen
    entities = _entities(level, catalogue, unique, of_matched)
    single = [
        catalogue.column(name).label(keyword)
        for keyword, name in KEYS_OF_LEVEL[level].items()
    ]
    counts = [entities.c[keyword] for keyword in COUNTS_OF_LEVEL[level]]
    matches = (
        select(*single, *counts, catalogue.column(PATH))
        .join(entities, catalogue.column("id") == entities.c.first)
        .order_by(unique)
    )
    lists = {
        keyword: select(unique.label("key"), catalogue.column(name).label("value"))
        .where(of_matched)
        .distinct()
        .order_by(catalogue.column(name))
        for keyword, name in LISTS_OF_STUDY.items()
        if level is Level.STUDY
    }
    return FindStatement(level, matches, lists)


def studies_concerned(keys: FindKeys, level: Level) -> Select[Any]:
    """Select the studies of originals that the answer to a query may speak of."""
    unique = ORIGINALS.column(KEYS_OF_LEVEL[level][UNIQUE_KEY[level]])
    study = ORIGINALS.column("study_instance_uid")
    chosen = select(study).distinct()
    if not any(keyword in MATCHED_KEYS for keyword in keys.values):
        return chosen
    matched = select(unique).where(_conditions(keys, ORIGINALS))
    return chosen.where(unique.in_(matched))


def matching_objects(keys: FindKeys, catalogue: Catalogue) -> Select[Any]:
    """Select the row ids of the objects that keys match."""
    return select(catalogue.column("id")).where(_conditions(keys, catalogue))


def syntaxes_held(catalogue: Catalogue) -> Select[Any]:
    """Select the transfer syntaxes of each SOP class, the most frequent first.

    Of the newest objects only, so that the time this takes is bounded.
    """
    names = ("sop_class_uid", "transfer_syntax_uid")
    row, number = catalogue.column("id"), func.count()
    newest = select(func.coalesce(func.max(row), 0)).scalar_subquery()
    return (
        select(*(catalogue.column(name) for name in names))
        .where(row > newest - NEWEST_OBJECTS)
        .group_by(*(catalogue.column(name) for name in names))
        .order_by(number.desc(), catalogue.column(names[1]))
    )


def _entities(
    level: Level,
    catalogue: Catalogue,
    unique: Column,
    condition: ColumnElement[bool],
) -> Subquery:
    """Select the first object and the counts of every entity."""
    counts = [
        func.count(distinct(catalogue.column(name))).label(keyword)
        for keyword, name in COUNTS_OF_LEVEL[level].items()
    ]
    first = func.min(catalogue.column("id")).label("first")
    return select(first, *counts).where(condition).group_by(unique).subquery()


def _conditions(keys: FindKeys, catalogue: Catalogue) -> ColumnElement[bool]:
    conditions = [
        _condition(catalogue, keyword, list(values))
        for keyword, values in keys.values.items()
        if keyword in MATCHED_KEYS
    ]
    return and_(true(), *conditions)


def _condition(
    catalogue: Catalogue, keyword: str, values: list[str]
) -> ColumnElement[bool]:
    column = catalogue.column(MATCHED_KEYS[keyword])
    if keyword in HIERARCHY_UIDS and catalogue.by_protected:
        return column.in_(values) | _through_protected(column, values)
    if keyword in UIDS:
        return column.in_(values)
    if keyword in RANGES:
        return or_(*(_range(column, value) for value in values))
    if keyword in PERSON_NAMES:
        return or_(*(_person_name(column, value) for value in values))
    return or_(*(_text(column, value) for value in values))


def _through_protected(column: Column, values: list[str]) -> ColumnElement[bool]:
    """Match what an object under one of these UIDs was protected from."""
    chosen = protected.c[column.name].in_(values)
    return instances.c.id.in_(select(protected.c.instance_id).where(chosen))


def _range(column: Column, value: str) -> ColumnElement[bool]:
    """Match a date or time, or a range of them (PS3.4 C.2.2.2.5).

    An upper bound given to the minute includes that whole minute.
    """
    if "-" not in value:
        return column.like(f"{_escape(value)}%", escape="\\")
    first, last = value.split("-", 1)
    bounds = [column != ""]
    if first:
        bounds.append(column >= first)
    if last:
        bounds.append(column <= last + AFTER_ALL_DIGITS)
    return and_(*bounds)


def _person_name(column: Column, value: str) -> ColumnElement[bool]:
    """Match one component group of a name, in any case (PS3.4 C.2.2.2.1)."""
    name = func.lower(column)
    pattern = func.lower(_pattern(value.rstrip("^")))
    forms = [name.like(pattern, escape="\\")]
    for before, after in (("", "=%"), ("%=", ""), ("%=", "=%")):
        forms.append(name.like(before + pattern + after, escape="\\"))
    return or_(*forms)


def _text(column: Column, value: str) -> ColumnElement[bool]:
    if "*" in value or "?" in value:
        return column.like(_pattern(value), escape="\\")
    return column == value


def _pattern(value: str) -> str:
    """Translate ``*`` and ``?`` to SQL (PS3.4 C.2.2.2.4)."""
    return _escape(value).replace("*", "%").replace("?", "_")


def _escape(value: str) -> str:
    for special in ("\\", "%", "_"):
        value = value.replace(special, "\\" + special)
    return value
