"""Membership in long lists: one parameter, whatever their length."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Integer,
    String,
    Text,
    cast,
    false,
    func,
    literal,
    select,
)
from sqlalchemy.sql.elements import KeyedColumnElement


def one_of(
    column: KeyedColumnElement[Any], values: Iterable[str | int], dialect: str
) -> ColumnElement[bool]:
    """Match a column that holds one of many values.

    Databases bound how many parameters a statement has; a list in JSON is one.

    Parameters
    ----------
    column
        Of text or integers.
    values
        Any number of them.
    dialect
        ``sqlite`` or ``postgresql``.
    """
    listed = list(values)
    if not listed:
        return false()
    text = literal(json.dumps(listed), Text())
    if dialect == "sqlite":
        return column.in_(select(func.json_each(text).table_valued("value").c.value))
    kind = Integer() if isinstance(column.type, Integer) else String()
    elements = func.json_array_elements_text(cast(text, JSON)).table_valued("value")
    return column.in_(select(cast(elements.c.value, kind)))
