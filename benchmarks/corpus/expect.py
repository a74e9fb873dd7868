"""What ought to become of a file, read with pydicom alone.

The gateway's own code has no say here: attributes and pixels are what pydicom
makes of them, so that a wrong refusal and a wrong acceptance both show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    UID,
    MediaStorageDirectoryStorage,
    MPEGTransferSyntaxes,
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from benchmarks.corpus.find import Facts, FoundFile
from gateway.dicom.lenient import lenient, text, value

PROTECTED: Final = "protected"
HELD: Final = "held"
REFUSED: Final = "refused"
UNSENDABLE: Final = "unsendable"

SMALLEST_SIDE: Final = 32
MOST_FRAMES: Final = 2000
GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
LABELS_OR_QUANTITIES: Final = frozenset(
    (
        SegmentationStorage,
        UID("1.2.840.10008.5.1.4.1.1.66.7"),  # Label Map Segmentation
        ParametricMapStorage,
        RTDoseStorage,
    )
)
LONGEST_UID: Final = 64
DIGITS_AND_DOTS: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
"""What PS3.5 9.1 makes of a UID; leading zeros are forbidden there and harmless."""

FLOAT_PIXELS: Final = ("FloatPixelData", "DoubleFloatPixelData")
IN_THE_DATA_SET: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
)
IMAGE_PIXEL: Final = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)

NO_PICTURE: Final = frozenset({"no-pixel-data", "not-a-picture"})
NOT_MARKED: Final = frozenset({"unsupported-pixels", "not-a-picture"})
BROKEN: Final = frozenset(
    {
        "undecodable",
        "short-pixel-data",
        "missing-attribute",
        "unreadable",
        "unknown-transfer-syntax",
    }
)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What ought to become of a file.

    Attributes
    ----------
    outcome
        ``protected``, ``held``, ``refused`` (by C-STORE) or ``unsendable``.
    reasons
        Codes that are right for a held file.
    because
        What was found, in words.
    """

    outcome: str
    reasons: frozenset[str] = frozenset()
    because: str = ""

    def agrees(self, outcome: str, reason: str) -> bool:
        """Whether what became of the file is right."""
        if outcome != self.outcome:
            return False
        return outcome != HELD or reason in self.reasons


def expectation_of(file: FoundFile) -> Expectation:
    """Judge a file by what pydicom reads of it."""
    with lenient():
        try:
            dataset = dcmread(BytesIO(file.octets()), force=True)
        except Exception as error:  # noqa: BLE001 - broken files raise anything
            return Expectation(outcome=UNSENDABLE, because=type(error).__name__)
        for judge in JUDGES:
            found = judge(file, dataset)
            if found is not None:
                return found
    return Expectation(outcome=PROTECTED, because="pydicom decodes every frame")


def _unsendable(file: FoundFile, _dataset: Dataset) -> Expectation | None:
    missing = missing_for_c_store(file)
    return Expectation(outcome=UNSENDABLE, because=missing) if missing else None


def missing_for_c_store(file: FoundFile) -> str:
    """Name what a C-STORE request needs and no part of the file says; or ''."""
    facts = file.facts
    for name, found in (
        ("SOP Class UID", facts.sop_class_uid),
        ("SOP Instance UID", facts.sop_instance_uid),
        ("transfer syntax", file.transfer_syntax_uid),
    ):
        if not found:
            return f"no {name}"
    return ""


def _refused(file: FoundFile, dataset: Dataset) -> Expectation | None:
    if file.facts.sop_class_uid == MediaStorageDirectoryStorage:
        return Expectation(
            outcome=REFUSED, because="a DICOMDIR lies on media and is never sent"
        )
    if "Storage" not in UID(file.facts.sop_class_uid).name:
        return Expectation(
            outcome=REFUSED, because="its SOP class is not one of storage"
        )
    for keyword in IN_THE_DATA_SET:
        found = text(dataset, keyword)
        if not found:
            return Expectation(outcome=REFUSED, because=f"no {keyword}")
        if len(found) > LONGEST_UID or not DIGITS_AND_DOTS.fullmatch(found):
            return Expectation(outcome=REFUSED, because=f"{keyword} is no UID")
    return None


def _no_picture(_file: FoundFile, dataset: Dataset) -> Expectation | None:
    if any(keyword in dataset for keyword in FLOAT_PIXELS):
        return _held(NOT_MARKED, "floating point pixels")
    if "PixelData" not in dataset:
        return _held(NO_PICTURE, "no Pixel Data")
    if text(dataset, "SOPClassUID") in LABELS_OR_QUANTITIES:
        return _held(NOT_MARKED, "labels or quantities, not a picture")
    return None


def _not_marked(file: FoundFile, dataset: Dataset) -> Expectation | None:
    if file.transfer_syntax_uid in MPEGTransferSyntaxes:
        return _held(NOT_MARKED, "video")
    if text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING":
        return _held(NOT_MARKED, "For Processing")
    for keyword in IMAGE_PIXEL:
        if value(dataset, keyword) is None:
            return _held(frozenset({"missing-attribute"}), f"no {keyword}")
    return next(_unfit(file.facts), None)


def _unfit(facts: Facts) -> Iterator[Expectation]:
    """Yield every reason of the image pixel module not to mark it."""
    if facts.bits_allocated not in {8, 16}:
        yield _held(NOT_MARKED, f"{facts.bits_allocated} bits allocated")
    if not 2 <= facts.bits_stored <= facts.bits_allocated:
        yield _held(NOT_MARKED, f"{facts.bits_stored} bits stored")
    if min(facts.rows, facts.columns) < SMALLEST_SIDE:
        size = f"{facts.columns}x{facts.rows}"
        yield _held(frozenset({"too-small"}), f"{size} pixels")
    if facts.frames > MOST_FRAMES:
        yield _held(frozenset({"too-many-frames"}), f"{facts.frames} frames")
    if facts.signed and facts.samples > 1:
        yield _held(NOT_MARKED, "signed colour")


def _undecodable(file: FoundFile, dataset: Dataset) -> Expectation | None:
    """Whether pydicom decodes every frame."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = UID(file.transfer_syntax_uid)
    try:
        decoded = sum(1 for _ in iter_pixels(dataset))
    except Exception as error:  # noqa: BLE001 - decoders raise anything
        return _held(BROKEN, f"pydicom cannot decode it: {type(error).__name__}")
    if decoded < file.facts.frames:
        return _held(BROKEN, f"{decoded} of {file.facts.frames} frames")
    return None


def _held(reasons: frozenset[str], because: str) -> Expectation:
    return Expectation(outcome=HELD, reasons=reasons, because=because)


JUDGES: Final[tuple[Callable[[FoundFile, Dataset], Expectation | None], ...]] = (
    _unsendable,
    _refused,
    _no_picture,
    _not_marked,
    _undecodable,
)
"""Asked in this order; the first that has something to say decides."""
