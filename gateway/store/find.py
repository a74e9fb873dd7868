"""Query keys of C-FIND and C-MOVE as SQL (PS3.4 C.2.2.2, C.6).

Originals are what is found; the UIDs of a query may be those of the originals
or of the objects protected from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, distinct, func, or_, select, true
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


PATIENT_COLUMNS: dict[str, Column] = {
    "PatientName": instances.c.patient_name,
    "PatientID": instances.c.patient_id,
    "PatientBirthDate": instances.c.patient_birth_date,
    "PatientSex": instances.c.patient_sex,
}
STUDY_COLUMNS: dict[str, Column] = {
    "StudyInstanceUID": instances.c.study_instance_uid,
    "StudyDate": instances.c.study_date,
    "StudyTime": instances.c.study_time,
    "AccessionNumber": instances.c.accession_number,
    "StudyID": instances.c.study_id,
    "StudyDescription": instances.c.study_description,
    "ReferringPhysicianName": instances.c.referring_physician_name,
}
SERIES_COLUMNS: dict[str, Column] = {
    "SeriesInstanceUID": instances.c.series_instance_uid,
    "Modality": instances.c.modality,
    "SeriesNumber": instances.c.series_number,
    "SeriesDescription": instances.c.series_description,
    "BodyPartExamined": instances.c.body_part_examined,
}
IMAGE_COLUMNS: dict[str, Column] = {
    "SOPInstanceUID": instances.c.sop_instance_uid,
    "SOPClassUID": instances.c.sop_class_uid,
    "InstanceNumber": instances.c.instance_number,
    "AvailableTransferSyntaxUID": instances.c.transfer_syntax_uid,
}
COLUMNS_OF_LEVEL: Mapping[Level, Mapping[str, Column]] = {
    Level.PATIENT: PATIENT_COLUMNS,
    Level.STUDY: PATIENT_COLUMNS | STUDY_COLUMNS,
    Level.SERIES: PATIENT_COLUMNS | STUDY_COLUMNS | SERIES_COLUMNS,
    Level.IMAGE: PATIENT_COLUMNS | STUDY_COLUMNS | SERIES_COLUMNS | IMAGE_COLUMNS,
}
UNIQUE_KEY: Mapping[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
# One value in the index per study or series, several in the answer.
LISTS_OF_STUDY: Mapping[str, Column] = {
    "ModalitiesInStudy": instances.c.modality,
    "SOPClassesInStudy": instances.c.sop_class_uid,
}
COUNTS_OF_LEVEL: Mapping[Level, Mapping[str, Column]] = {
    Level.PATIENT: {
        "NumberOfPatientRelatedStudies": instances.c.study_instance_uid,
        "NumberOfPatientRelatedSeries": instances.c.series_instance_uid,
        "NumberOfPatientRelatedInstances": instances.c.id,
    },
    Level.STUDY: {
        "NumberOfStudyRelatedSeries": instances.c.series_instance_uid,
        "NumberOfStudyRelatedInstances": instances.c.id,
    },
    Level.SERIES: {"NumberOfSeriesRelatedInstances": instances.c.id},
    Level.IMAGE: {},
}
MATCHED_COLUMNS: Mapping[str, Column] = {
    **COLUMNS_OF_LEVEL[Level.IMAGE],
    **LISTS_OF_STUDY,
}
PROTECTED_COLUMNS: Mapping[str, Column] = {
    "StudyInstanceUID": protected.c.study_instance_uid,
    "SeriesInstanceUID": protected.c.series_instance_uid,
    "SOPInstanceUID": protected.c.sop_instance_uid,
}
PERSON_NAMES = frozenset({"PatientName", "ReferringPhysicianName"})
RANGES = frozenset({"PatientBirthDate", "StudyDate", "StudyTime"})
UIDS = frozenset({*PROTECTED_COLUMNS, "SOPClassUID", "SOPClassesInStudy"})
AFTER_ALL_DIGITS = "~"


def supported_keys(level: Level) -> frozenset[str]:
    """Return the keywords that a query at a level may match or ask for."""
    keys = {*COLUMNS_OF_LEVEL[level], *COUNTS_OF_LEVEL[level]}
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


def find_statement(keys: FindKeys, level: Level) -> FindStatement:
    """Build the statements for a query.

    An entity matches when one of its objects does; its counts and lists are
    of all its objects.
    """
    unique = COLUMNS_OF_LEVEL[level][UNIQUE_KEY[level]]
    matched = select(unique).where(_conditions(keys)).distinct()
    of_matched = unique.in_(matched) & (unique != "")
    single = {
        keyword: func.max(column).label(keyword)
        for keyword, column in COLUMNS_OF_LEVEL[level].items()
    }
    counts = [
        func.count(distinct(column)).label(keyword)
        for keyword, column in COUNTS_OF_LEVEL[level].items()
    ]
    matches = (
        select(*single.values(), *counts)
        .where(of_matched)
        .group_by(unique)
        .order_by(unique)
    )
    lists = {
        keyword: select(unique.label("key"), column.label("value"))
        .where(of_matched)
        .distinct()
        .order_by(column)
        for keyword, column in LISTS_OF_STUDY.items()
        if level is Level.STUDY
    }
    return FindStatement(level, matches, lists)


def matching_instances(keys: FindKeys) -> Select[Any]:
    """Select the row ids of the objects that keys match."""
    return select(instances.c.id).where(_conditions(keys))


def _conditions(keys: FindKeys) -> ColumnElement[bool]:
    conditions = [
        _condition(keyword, list(values))
        for keyword, values in keys.values.items()
        if keyword in MATCHED_COLUMNS
    ]
    return and_(true(), *conditions)


def _condition(keyword: str, values: list[str]) -> ColumnElement[bool]:
    column = MATCHED_COLUMNS[keyword]
    if keyword in PROTECTED_COLUMNS:
        return column.in_(values) | _through_protected(keyword, values)
    if keyword in UIDS:
        return column.in_(values)
    if keyword in RANGES:
        return or_(*(_range(column, value) for value in values))
    if keyword in PERSON_NAMES:
        return or_(*(_person_name(column, value) for value in values))
    return or_(*(_text(column, value) for value in values))


def _through_protected(keyword: str, values: list[str]) -> ColumnElement[bool]:
    sources = select(protected.c.instance_id).where(
        PROTECTED_COLUMNS[keyword].in_(values)
    )
    return instances.c.id.in_(sources)


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
