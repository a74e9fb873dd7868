"""BTMRI: 3,064 contrast-enhanced T1 slices of 233 patients with a brain tumour.

As published (https://doi.org/10.6084/m9.figshare.1512427): files ``1.mat`` to
``3064.mat``, in one folder or in the folders of the four archives, each MATLAB v7.3
with ``cjdata/{label,PID,image,tumorBorder,tumorMask}``. The patient is the group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from engine.models.matfile import read_facts
from engine.models.samples import DatasetError, Listing, Row, number_labels

TUMOURS: Final = {1: "meningioma", 2: "glioma", 3: "pituitary_tumor"}
"""Class names by the publisher's number."""


def recognises(data: Path) -> bool:
    """Whether `data`, or a folder in it, has files ``NUMBER.mat``."""
    return bool(_files(data))


def read(data: Path) -> dict[str, Listing]:
    """List all slices under ``""``, in order of their number.

    Raises
    ------
    DatasetError
        If there is no such file, or one cannot be read.
    """
    files = _files(data)
    if not files:
        raise DatasetError(f"{data}: no file 1.mat to 3064.mat in it")
    return number_labels([_row(file) for file in files], data)


def _files(data: Path) -> list[Path]:
    found = [*data.glob("*.mat"), *data.glob("*/*.mat")]
    numbered = [file for file in found if file.stem.isdigit()]
    return sorted(numbered, key=lambda file: int(file.stem))


def _row(file: Path) -> Row:
    facts = read_facts(file)
    if facts.label not in TUMOURS:
        raise DatasetError(f"{file}: cjdata/label {facts.label} is not 1, 2 or 3")
    return Row(path=file, label=TUMOURS[facts.label], group=facts.patient or file.stem)
