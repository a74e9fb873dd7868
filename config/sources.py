"""Where in a TOML file a setting stands, for messages a person can follow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Key = tuple[str | int, ...]

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_ASSIGN = re.compile(r"^(\s*)([A-Za-z0-9_.\"'-]+?)\s*=\s*")
_FENCE = re.compile(r'"""|\'\'\'')


@dataclass(frozen=True)
class Place:
    """A position in a file, both counted from 1."""

    file: Path
    line: int
    column: int

    def in_words(self) -> str:
        """Return ``file, line N, column N``."""
        return f"{self.file}, line {self.line}, column {self.column}"


@dataclass(frozen=True)
class Sources:
    """Which file, line and column each setting came from."""

    file: Path
    places: Mapping[Key, Place] = field(default_factory=dict)

    def place(self, key: Key) -> Place | None:
        """Return where ``key`` or its nearest enclosing table stands."""
        for length in range(len(key), 0, -1):
            found = self.places.get(key[:length])
            if found is not None:
                return found
        return None

    def describe(self, key: Key) -> str:
        """Return ``file, line, column: dotted.key`` as far as known."""
        place = self.place(key)
        where = self.file if place is None else place.in_words()
        return f"{where}: {dotted(key)}"


def dotted(key: Key) -> str:
    """Return the key as written in TOML, with list positions counted from 1."""
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def locate(file: Path, text: str) -> dict[Key, Place]:
    """Return the place of every table and every ``key = value`` of a valid file.

    A line scanner, enough for block style; keys inside inline tables are found
    under the table they stand in. For an assignment the column is the value's.
    """
    places: dict[Key, Place] = {}
    counts: Counter[Key] = Counter()
    table: Key = ()
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if fence:
            fence = "" if fence in line else fence
            continue
        if (header := _TABLE.match(line)) is not None:
            table = _table_key(header, counts)
            places.setdefault(table, Place(file, number, 1))
        elif (assignment := _ASSIGN.match(line)) is not None:
            key = (*table, *_parts(assignment.group(2)))
            places[key] = Place(file, number, assignment.end() + 1)
            fence = _opened_fence(line[assignment.end() :])
    return places


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))


def _table_key(header: re.Match[str], counts: Counter[Key]) -> Key:
    """Resolve a header: each array of tables on the way is at its newest entry."""
    is_array = header.group(1) == "[["
    key: Key = ()
    parts = _parts(header.group(2))
    for depth, part in enumerate(parts, start=1):
        key = (*key, part)
        if depth == len(parts) and is_array:
            counts[key] += 1
        if counts[key]:
            key = (*key, counts[key] - 1)
    return key


def _opened_fence(value: str) -> str:
    """Return the multi-line quote this value opens and does not close, or ''."""
    opened = ""
    for fence in _FENCE.findall(value):
        if not opened:
            opened = fence
        elif fence == opened:
            opened = ""
    return opened
