"""Derived objects of a source, for the tests of objects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from gateway.dicom.derive import Target, derive
from gateway.dicom.derived_pixels import Split, plan_parts
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import Reading, Source, read_source
from gateway.vault.layout import pack

UIDS = UidMapper(b"u" * 32)
READING = Reading(max_frames=200)
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def source_of(data: bytes, reading: Reading = READING) -> Source:
    """Read a whole file."""
    offset, syntax = data_set_offset(data)
    return read_source(data[offset:], syntax, reading=reading)


def derived_parts(
    source: Source,
    split: Split = "never",
    frames: Sequence[NDArray[np.int32]] | None = None,
    **target: Any,
) -> list[Dataset]:
    """Every protected object of a source; unmarked unless frames are given."""
    made = []
    for number, part in enumerate(plan_parts(source, split)):
        stored = [
            source.frame(index).stored if frames is None else frames[index]
            for index in part.frames
        ]
        identity = Target(sop_instance_uid=UIDS.map(f"1.2.3.{number}"), **target)
        value = pack(stored, part.layout)
        made.append(derive(source, part, value, target=identity, uids=UIDS, when=WHEN))
    return made
