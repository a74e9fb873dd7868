"""Lenient on reading, strict on writing: how received attributes are looked at.

Real objects carry invalid values. Reading never fails on one: the value counts
as absent, or is repaired where it is written again.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydicom import config
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset


@contextmanager
def lenient() -> Iterator[None]:
    """Read attributes without warnings about invalid values."""
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def value(dataset: Dataset, keyword: str) -> Any:  # noqa: ANN401
    """Value of an attribute; None where absent, empty or not readable."""
    try:
        found = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
        return None
    if found is None or (isinstance(found, str | MultiValue) and len(found) == 0):
        return None
    return found


def text(dataset: Dataset, keyword: str) -> str:
    """First value of an attribute as text; empty where absent."""
    found = value(dataset, keyword)
    if isinstance(found, MultiValue):
        found = found[0]
    # Where an item of text was sent as a sequence, none is there.
    return "" if isinstance(found, Sequence | None) else str(found).strip(" \0")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of a numeric attribute; empty where absent or not finite numbers."""
    found = value(dataset, keyword)
    if found is None:
        return ()
    values = found if isinstance(found, MultiValue | list) else [found]
    try:
        read = tuple(float(number) for number in values)
    except (TypeError, ValueError, OverflowError):
        return ()
    return read if all(map(math.isfinite, read)) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """First value of a numeric attribute; None where absent or not a number."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence; empty where absent."""
    found = value(dataset, keyword)
    return list(found) if isinstance(found, Sequence) else []


def frame_item(dataset: Dataset, index: int, keyword: str) -> Dataset | None:
    """Functional group of one frame: its own, or the shared one (PS3.3 C.7.6.16).

    Parameters
    ----------
    dataset
        The whole data set.
    index
        Frame, from 0.
    keyword
        The sequence of the functional group.

    Returns
    -------
    Dataset or None
        Its first item; None where there is none.
    """
    own = items(dataset, "PerFrameFunctionalGroupsSequence")[index : index + 1]
    shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
    for group in (*own, *shared):
        found = items(group, keyword)
        if found:
            return found[0]
    return None
