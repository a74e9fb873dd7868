"""Words that identify, words that do not, and dates that are moved."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final

from pydicom.sr.codedict import codes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WORD: Final = re.compile(r"[^\W_]+")
SCHEMES: Final = ("DCM", "SCT", "RADLEX")
"""Coding schemes (PS3.16) whose meanings are the vocabulary."""
SHORTEST: Final = 3
UNMISTAKABLE: Final = 6
"""Characters; shorter values stand in other words by chance, the shortest always."""
DAYS: Final = re.compile(r"(\d{4})(\d\d)(\d\d)(.*)")


@cache
def vocabulary() -> frozenset[str]:
    """Words of the meanings of codes, in lower case: anatomy, findings, methods."""
    found: set[str] = set()
    for scheme in SCHEMES:
        collection = getattr(codes, scheme)
        for keyword in collection.dir():
            found.update(WORD.findall(getattr(collection, keyword).meaning.lower()))
    return frozenset(word for word in found if not word.isdigit())


class Identifiers:
    """Values taken away from a data set, to be found wherever else they stand.

    Parameters
    ----------
    values
        Names, numbers, addresses, UIDs as text.
    """

    def __init__(self, values: Iterable[str]) -> None:
        known = {each.strip().lower() for each in values}
        self._words = {word for each in known for word in WORD.findall(each)}
        patterns = sorted(_pattern(each) for each in known if len(each) >= SHORTEST)
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def stand_in(self, text: str) -> bool:
        """Whether a text holds any of them."""
        return self._pattern is not None and bool(self._pattern.search(text.lower()))

    def clean(self, text: str) -> str:
        """Leave the words of a text that are in the vocabulary and identify no one.

        Numbers go, for they can be dates and numbers of patients.
        """
        return " ".join(filter(self._harmless, WORD.findall(text)))

    def _harmless(self, word: str) -> bool:
        return word.lower() in vocabulary() and word.lower() not in self._words


def _pattern(value: str) -> str:
    """Match a value anywhere, a short one only where words begin and end."""
    escaped = re.escape(value)
    return escaped if len(value) >= UNMISTAKABLE else rf"(?<!\w){escaped}(?!\w)"


def name_parts(name: str) -> Iterator[str]:
    """Yield groups and components of a person's name (PS3.5 6.2.1)."""
    for group in name.split("="):
        yield group.replace("^", " ")
        yield from group.split("^")


def shifted(vr: str, text: str, days: int) -> str | None:
    """Date or date and time of day, so many days earlier; times as they are.

    Returns
    -------
    str or None
        None where there is no whole date to move.
    """
    if vr not in ("DA", "DT"):
        return text
    found = DAYS.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day = (int(each) for each in found.groups()[:3])
    try:
        moved = date(year, month, day) - timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved:%Y%m%d}".rjust(8, "0") + found.group(4)
