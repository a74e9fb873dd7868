"""Labelled files: what every layout of a data set comes down to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError


class DatasetError(EngineError):
    """A folder or table of labelled images cannot be used as given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One labelled file; ``group`` is what must stay on one side of a split."""

    path: Path
    label: int
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files of one split and the class names, in the order of the logits."""

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table of labelled files, before class names are numbered.

    Attributes
    ----------
    path, label, group
        The file, the name of its class, and what must stay on one side.
    split
        ``train``, ``test``, or empty where the table does not say.
    """

    path: Path
    label: str
    group: str
    split: str = ""


def number_labels(rows: list[Row], origin: Path) -> dict[str, Listing]:
    """Turn rows into one listing per split, class names sorted.

    Parameters
    ----------
    rows
        At least two classes.
    origin
        For the error message.

    Returns
    -------
    dict of str to Listing
        By name of split; only ``""`` where no row names one.

    Raises
    ------
    DatasetError
        If there are fewer than two classes.
    """
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) < 2:
        raise DatasetError(
            f"{origin}: {len(labels)} class(es) in {len(rows)} image(s); a classifier "
            "needs at least two"
        )
    number = {label: index for index, label in enumerate(labels)}
    splits: dict[str, list[Sample]] = {}
    for row in rows:
        sample = Sample(path=row.path, label=number[row.label], group=row.group)
        splits.setdefault(row.split, []).append(sample)
    return {
        name: Listing(labels=labels, samples=tuple(samples))
        for name, samples in splits.items()
    }
