"""Deciding grants for originals: once per study, not once per object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.sql.elements import KeyedColumnElement

from gateway.access.grants import HeldGrant
from gateway.route.conditions import ConditionError
from gateway.route.granting import COLUMNS, MODALITIES
from gateway.route.keywords import RECEIVED_AT, Value
from gateway.store.many import one_of
from gateway.store.rows import Instance
from gateway.store.schema import instances

LOG = structlog.get_logger(component="access")

Rows = list[dict[str, Any]]
Run = Callable[[Select[Any]], Rows]

STUDY: Final = "study_instance_uid"
ALWAYS: Final = "true"
DATE_LENGTH: Final = len("2026-11-26")


class Evaluation:
    """Decides whether one of some grants admits an original.

    What the conditions read is the same for most objects of a study; each
    different set of values is decided once.

    Parameters
    ----------
    held
        The grants that hold.
    """

    def __init__(self, held: Sequence[HeldGrant]) -> None:
        self._held = tuple(held)
        self._decided: dict[tuple[object, ...], bool] = {}

    @property
    def held(self) -> tuple[HeldGrant, ...]:
        """The grants."""
        return self._held

    @property
    def is_empty(self) -> bool:
        """Whether nothing is admitted."""
        return not self._held

    @cached_property
    def is_unrestricted(self) -> bool:
        """Whether everything is admitted."""
        return any(h.grant.when.strip() == ALWAYS for h in self._held)

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """What the conditions read of a row, in a stable order."""
        read = frozenset().union(*(held.condition.keywords for held in self._held))
        return tuple(sorted(read & set(COLUMNS)))

    @cached_property
    def reads_modalities(self) -> bool:
        """Whether a condition reads what modalities a study has."""
        return any(MODALITIES in held.condition.keywords for held in self._held)

    def admits_all(
        self, rows: Sequence[Instance], run: Run, dialect: str
    ) -> list[bool]:
        """Decide for each row.

        Parameters
        ----------
        rows
            Originals.
        run
            Runs a statement, for what their studies hold.
        dialect
            Of the database.
        """
        if self.is_unrestricted:
            return [True] * len(rows)
        modalities: Mapping[str, tuple[str, ...]] = {}
        if self.reads_modalities:
            studies = sorted({row.study_instance_uid for row in rows})
            concerned = one_of(instances.c.study_instance_uid, studies, dialect)
            modalities = self._modalities(run, concerned)
        return [
            self._admits(self._values(row), modalities.get(row.study_instance_uid, ()))
            for row in rows
        ]

    def condition(
        self, run: Run, studies: Select[Any], dialect: str
    ) -> ColumnElement[bool]:
        """Return the rows that are admitted of some studies, as SQL.

        Sound on the snapshot it was made from only.
        """
        study: KeyedColumnElement[Any] = instances.c.study_instance_uid
        concerned = study.in_(studies) if studies.whereclause is not None else None
        modalities = self._modalities(run, concerned)
        decided: dict[str, set[bool]] = {}
        classes = self._classes(study, distinct=True)
        if concerned is not None:
            classes = classes.where(concerned)
        for row in run(classes):
            verdict = self._verdict(row, modalities)
            decided.setdefault(row[STUDY], set()).add(verdict)
        whole = [uid for uid, verdicts in decided.items() if verdicts == {True}]
        mixed = [uid for uid, verdicts in decided.items() if len(verdicts) > 1]
        admitted = one_of(study, whole, dialect)
        if not mixed:
            return admitted
        within = self._classes(study, distinct=False).where(
            one_of(study, mixed, dialect)
        )
        ids = [row["id"] for row in run(within) if self._verdict(row, modalities)]
        return admitted | one_of(instances.c.id, ids, dialect)

    def _classes(
        self, study: KeyedColumnElement[Any], *, distinct: bool
    ) -> Select[Any]:
        """Select what the conditions read; each different set once if asked."""
        columns = [_column(keyword).label(keyword) for keyword in self.keywords]
        if distinct:
            return select(study.label(STUDY), *columns).distinct()
        return select(instances.c.id, study.label(STUDY), *columns)

    def _modalities(
        self, run: Run, concerned: ColumnElement[bool] | None
    ) -> Mapping[str, tuple[str, ...]]:
        if not self.reads_modalities:
            return {}
        chosen = select(instances.c.study_instance_uid, instances.c.modality)
        if concerned is not None:
            chosen = chosen.where(concerned)
        found: dict[str, list[str]] = {}
        for row in run(chosen.distinct().order_by(instances.c.modality)):
            if row["modality"]:
                found.setdefault(row[STUDY], []).append(row["modality"])
        return {study: tuple(values) for study, values in found.items()}

    def _verdict(
        self, row: Mapping[str, Any], modalities: Mapping[str, tuple[str, ...]]
    ) -> bool:
        values = tuple(_value(keyword, row[keyword]) for keyword in self.keywords)
        return self._admits(values, modalities.get(row[STUDY], ()))

    def _values(self, row: Instance) -> tuple[str, ...]:
        return tuple(_value(k, getattr(row, COLUMNS[k])) for k in self.keywords)

    def _admits(self, values: tuple[str, ...], modalities: Iterable[str]) -> bool:
        listed = tuple(modalities)
        key = (values, listed)
        if key not in self._decided:
            attributes: dict[str, Value] = dict(zip(self.keywords, values, strict=True))
            attributes[MODALITIES] = list(listed)
            self._decided[key] = any(_holds(h, attributes) for h in self._held)
        return self._decided[key]


def _holds(held: HeldGrant, attributes: Mapping[str, Value]) -> bool:
    """Decide one grant; what cannot be decided admits nothing."""
    try:
        return held.condition.evaluate(attributes)
    except ConditionError:  # its text may quote a value: not logged
        LOG.warning("grant not decided", grant=held.grant.name)
        return False


def _column(keyword: str) -> ColumnElement[Any]:
    column = instances.c[COLUMNS[keyword]]
    if keyword == RECEIVED_AT:  # by day, so that a study's objects are alike
        return func.substr(column, 1, DATE_LENGTH)
    return column


def _value(keyword: str, value: str) -> str:
    if keyword == RECEIVED_AT:
        return value[:DATE_LENGTH].replace("-", "")
    return value
