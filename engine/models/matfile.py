"""Slices of the figshare brain tumour data set: MATLAB v7.3 files, read by h5py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.models.samples import DatasetError

PERCENTILES: Final = (0.5, 99.5)
"""Levels shown as black and as white: a few hot pixels would darken a slice."""

Gray = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceFacts:
    """What a file says of its slice besides the pixels.

    Attributes
    ----------
    label
        1 meningioma, 2 glioma, 3 pituitary tumour.
    patient
        The publisher's pseudonym.
    """

    label: int
    patient: str


def read_facts(path: Path) -> SliceFacts:
    """Read ``cjdata/label`` and ``cjdata/PID``.

    Raises
    ------
    DatasetError
        If the file is not such a file.
    """
    label, patient = _read(path, "label", "PID")
    # MATLAB stores characters as their codes, and any array transposed.
    return SliceFacts(
        label=int(np.ravel(label)[0]),
        patient="".join(chr(int(code)) for code in np.ravel(patient)).strip(),
    )


def read_slice(path: Path) -> Gray:
    """Read ``cjdata/image``, scaled linearly to levels 0..255.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` uint8; black at the 0.5th and white at the 99.5th percentile.

    Raises
    ------
    DatasetError
        If the file is not such a file, or its image is not a matrix of finite
        numbers.
    """
    (stored,) = _read(path, "image")
    image = np.asarray(stored, dtype=np.float64).T
    if image.ndim != 2 or not image.size or not np.isfinite(image).all():
        raise DatasetError(
            f"{path}: cjdata/image of shape {image.shape} is not a matrix of finite "
            "numbers"
        )
    low, high = np.percentile(image, PERCENTILES)
    shown = np.clip((image - low) / max(high - low, 1e-9), 0, 1) * 255
    levels: Gray = np.rint(shown).astype(np.uint8)
    return levels


def _read(path: Path, *names: str) -> list[Any]:
    import h5py  # not needed, and slow to load, without such files

    try:
        with h5py.File(path, "r") as file:
            return [file["cjdata"][name][()] for name in names]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: not a MATLAB v7.3 file with cjdata/{', cjdata/'.join(names)} "
            f"({error}); fetch it again from the publisher"
        ) from error
