"""Change fields of frozen parameter classes by name: ``epochs=32``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, TypeVar

from engine.errors import InvalidParameter

P = TypeVar("P")


def apply_settings(params: P, settings: Iterable[str]) -> P:
    """Copy a frozen dataclass with some fields changed.

    Parameters
    ----------
    params
        An instance of a frozen dataclass.
    settings
        Each ``field=value``; a dot reaches into a nested dataclass
        (``augmentation.mixup=0.2``). Values are read as JSON, and as text where
        that fails; a list stands for a tuple.

    Raises
    ------
    InvalidParameter
        If a field is unknown or the value is of another type than the present.
    """
    known = _fields(params)
    changes: dict[str, Any] = {}
    nested: dict[str, list[str]] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise InvalidParameter(f"{setting!r}: write FIELD=VALUE, e.g. epochs=32")
        head, dot, rest = key.strip().partition(".")
        if head not in known:
            raise InvalidParameter(
                f"{setting!r}: no field {head!r}; known are {', '.join(known)}"
            )
        if dot:
            nested.setdefault(head, []).append(f"{rest}={text}")
        else:
            changes[head] = _convert(text.strip(), known[head], setting)
    for head, inner in nested.items():
        changes[head] = apply_settings(known[head], inner)
    if not changes:
        return params
    # P is a dataclass here: `_fields` found a field in it.
    changed: P = dataclasses.replace(params, **changes)  # type: ignore[type-var]
    return changed


def _fields(params: object) -> dict[str, Any]:
    if not dataclasses.is_dataclass(params):
        return {}
    return {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}


def _convert(text: str, present: object, setting: str) -> object:
    if isinstance(present, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(present, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(present):
        raise InvalidParameter(
            f"{setting!r}: {type(value).__name__} where {type(present).__name__} "
            f"is needed, such as {json.dumps(present, default=str)}"
        )
    return value
