"""Turn validation errors into sentences with a place and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from config.schema import Site
from config.sources import Key, Sources

_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def explain(error: ValidationError, sources: Sources) -> str:
    """Return one line per mistake, in the order of the file."""
    lines = dict.fromkeys(
        _sentence(details, sources)
        for details in error.errors(include_url=False, include_context=False)
    )
    return "\n".join(lines)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the closest known name, or ''."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(details: ErrorDetails, sources: Sources) -> str:
    key = _setting(details["loc"])
    where = sources.describe(key)
    if details["type"] in _UNKNOWN:
        known = _fields_at(key[:-1])
        hint = nearest(str(key[-1]), known)
        return f"{where}: unknown setting{hint or '; known: ' + ', '.join(known)}"
    if details["type"] in ("missing", "missing_argument"):
        return f"{where}: missing; add it"
    if details["type"] in ("ip_v4_network", "ip_v6_network"):
        return (
            f"{where}: {details['input']!r} is not an address or network; write"
            " for example 192.0.2.7 or 192.0.2.0/24 (no host bits) or 2001:db8::/64"
        )
    return f"{where}: {details['msg']} (found {details['input']!r})"


def _setting(location: tuple[int | str, ...]) -> Key:
    """Drop what pydantic adds about union members: no setting is named so."""
    key: list[str | int] = []
    schema: dict[str, Any] = _schema()
    for part in location:
        below = _below(schema, part)
        if below is None and key and not _fields(schema):
            break
        key.append(part)
        schema = below or {}
    return tuple(key)


def _schema() -> dict[str, Any]:
    return TypeAdapter(Site).json_schema()


def _fields_at(key: Key) -> list[str]:
    schema: dict[str, Any] | None = _schema()
    for part in key:
        schema = _below(schema or {}, part)
    return sorted(_fields(schema or {}))


def _below(schema: dict[str, Any], part: str | int) -> dict[str, Any] | None:
    known = schema if isinstance(part, int) else _fields(schema)
    found = known.get("items" if isinstance(part, int) else part)
    if not isinstance(found, dict):
        return None
    return _resolved(found)


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    definition: dict[str, Any] = _schema()["$defs"][reference.rsplit("/", 1)[-1]]
    return definition


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = schema.get("properties", {})
    return fields
