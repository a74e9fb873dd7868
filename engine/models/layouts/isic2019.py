"""ISIC 2019: dermoscopic images of eight kinds of skin lesion.

As published (https://challenge.isic-archive.com/data/#2019): one-hot
``ISIC_2019_Training_GroundTruth.csv``, ``ISIC_2019_Training_Metadata.csv`` with the
lesion of each image, and the folder ``ISIC_2019_Training_Input``. Images of one
lesion are one group; the metadata may be absent, or name no lesion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from engine.models.layouts.table import read_lines
from engine.models.samples import DatasetError, Listing, Row, number_labels

TRUTH: Final = "ISIC_2019_Training_GroundTruth.csv"
METADATA: Final = "ISIC_2019_Training_Metadata.csv"
FOLDER: Final = "ISIC_2019_Training_Input"
CLASSES: Final = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def recognises(data: Path) -> bool:
    """Whether `data` has the table of the true classes."""
    return (data / TRUTH).is_file()


def read(data: Path) -> dict[str, Listing]:
    """List all under ``""``; only the classes that occur (no image is ``UNK``).

    Raises
    ------
    DatasetError
        If a table is not as published, or an image it names is missing.
    """
    lesions = _lesions(data / METADATA)
    needed = ("image", *(name.lower() for name in CLASSES))
    rows = []
    for line, values in read_lines(data / TRUTH, needed):
        image = values["image"]
        path = data / FOLDER / f"{image}.jpg"
        if not path.is_file():
            raise DatasetError(f"{data / TRUTH}, line {line}: no image {path}")
        label = _hot(data / TRUTH, line, values)
        rows.append(Row(path=path, label=label, group=lesions.get(image) or image))
    return number_labels(rows, data)


def _lesions(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    lines = read_lines(table, ("image", "lesion_id"))
    return {values["image"]: values["lesion_id"] for _, values in lines}


def _hot(table: Path, line: int, values: dict[str, str]) -> str:
    try:
        hot = [name for name in CLASSES if float(values[name.lower()]) == 1]
    except ValueError as error:
        raise DatasetError(f"{table}, line {line}: {error}") from error
    if len(hot) != 1:
        raise DatasetError(
            f"{table}, line {line}: {len(hot)} classes are 1 where one must be"
        )
    return hot[0]
