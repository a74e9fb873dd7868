"""What another vendor's viewer shows of protected objects is what was scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.types import MIN_SIDE
from gateway.dicom.derived_pixels import Split, plan_parts
from gateway.dicom.image_pixel import NOT_PICTURES
from gateway.dicom.lenient import lenient
from gateway.dicom.pixels import Reading, Source, read_source
from tests.gateway.object_cases import (
    EXPLICIT,
    FastProtector,
    corpus,
    encoded,
    grey_dataset,
    look_up_table,
)
from tests.gateway.parts import derived_parts, source_of
from tests.gateway.viewer import TOLERANCE, largest_difference

pytestmark = pytest.mark.peers

READING = Reading(max_frames=200, max_own_windows=4, one_bit="convert")
BRAIN_AND_BONE = ((40.0, 80.0), (600.0, 2800.0))


HELD = {
    "JPEG-lossy.dcm",
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "MR_truncated.dcm",
    "chrJapMulti.dcm",
    "chrJapMultiExplicitIR6.dcm",
    "chrKoreanMulti.dcm",
}
"""Grey files that are damaged, or have no Study Instance UID or no pixels."""

TAGS = ["PhotometricInterpretation", "Rows", "Columns", "SOPClassUID"]


def is_grey(path: Path) -> bool:
    """Whether a file is a grey image that can be protected, by its attributes."""
    with lenient():
        found = dcmread(path, specific_tags=TAGS, stop_before_pixels=True)
    return (
        str(found.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
        and min(found.Rows, found.Columns) >= MIN_SIDE
        and found.SOPClassUID not in NOT_PICTURES
        and path.name not in HELD
    )


def marked(source: Source, split: Split) -> list[Any]:
    """Every part with its data set, marked by the engine's own integer blend."""
    blend = FastProtector()
    frames = [
        blend.marked(frame, b"%d" % index).stored
        for index, frame in enumerate(source.frames())
    ]
    parts = plan_parts(source, split)
    return list(zip(parts, derived_parts(source, split, frames), strict=True))


def assert_shown_alike(source: Source, split: Split, folder: Path) -> None:
    made = marked(source, split)
    for part, dataset in (made[0], *made[1:][-1:]):
        assert largest_difference(source, part, dataset, folder) <= TOLERANCE


GREY_FILES = [path for path in corpus() if is_grey(path)]


@pytest.mark.parametrize("path", GREY_FILES, ids=lambda path: path.name)
def test_corpus(path: Path, tmp_path: Path) -> None:
    assert_shown_alike(source_of(path.read_bytes(), READING), "auto", tmp_path)


WINDOW = {"WindowCenter": "900", "WindowWidth": "700"}
CASES: dict[str, dict[str, Any]] = {
    "several": {"WindowCenter": ["900", "40"], "WindowWidth": ["700", "80"]},
    "narrow": {"WindowCenter": "900.5", "WindowWidth": "2"},
    "exact": {**WINDOW, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {**WINDOW, "VOILUTFunction": "SIGMOID"},
    "rising rescale": {**WINDOW, "RescaleSlope": "0.37", "RescaleIntercept": "-24.5"},
    "falling rescale": {
        "WindowCenter": "-900",
        "WindowWidth": "700",
        "RescaleSlope": "-2",
        "RescaleIntercept": "100",
    },
    "rescale alone": {"RescaleSlope": "3", "RescaleIntercept": "-1000"},
    "modality LUT": {
        **WINDOW,
        "ModalityLUTSequence": Sequence(
            [look_up_table(0, (np.arange(4096) ** 1.5 / 64).astype(int))]
        ),
    },
    "VOI LUT": {
        "VOILUTSequence": Sequence(
            [look_up_table(500, np.clip(np.arange(2000) - 300, 0, 1023))]
        )
    },
    "falling VOI LUT": {
        "VOILUTSequence": Sequence([look_up_table(0, 4095 - np.arange(4096))])
    },
}


@pytest.mark.parametrize("split", ["never", "always"])
@pytest.mark.parametrize(
    ("photometric", "signed"), [("MONOCHROME1", True), ("MONOCHROME2", False)]
)
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_window(
    case: str, photometric: str, signed: bool, split: Split, tmp_path: Path
) -> None:
    values = np.arange(2 * 64 * 64).reshape(2, 64, 64) * 7 % 4096 - 2048 * signed
    dataset = grey_dataset(values, bits_stored=12, signed=signed)
    dataset.PhotometricInterpretation = photometric
    for keyword, value in CASES[case].items():
        setattr(dataset, keyword, value)
    reading = Reading(max_frames=9, windows=BRAIN_AND_BONE)
    source = read_source(encoded(dataset), EXPLICIT, reading=reading)
    assert_shown_alike(source, split, tmp_path)


@pytest.mark.parametrize("split", ["never", "always"])
def test_windows_and_rescale_of_each_frame(split: Split, tmp_path: Path) -> None:
    values = np.arange(3 * 64 * 64).reshape(3, 64, 64) % 4096
    dataset = grey_dataset(values, bits_stored=12)
    dataset.PerFrameFunctionalGroupsSequence = [
        frame_group(slope, centre)
        for slope, centre in (("1", "300"), ("2", "1200"), ("0.5", "700"))
    ]
    reading = Reading(max_frames=9, windows=BRAIN_AND_BONE)
    source = read_source(encoded(dataset), EXPLICIT, reading=reading)
    assert_shown_alike(source, split, tmp_path)


def frame_group(slope: str, centre: str) -> Dataset:
    voi, rescale, group = Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = centre, "401"
    rescale.RescaleSlope, rescale.RescaleIntercept = slope, "-100"
    rescale.RescaleType = "US"
    group.FrameVOILUTSequence = [voi]
    group.PixelValueTransformationSequence = [rescale]
    return group


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 10, 12, 14, 15, 16])
def test_every_depth_without_a_window(bits: int, tmp_path: Path) -> None:
    values = np.arange(64 * 64).reshape(1, 64, 64) * 17 % (1 << bits)
    source = read_source(
        encoded(grey_dataset(values, bits_stored=bits)), EXPLICIT, reading=READING
    )
    assert_shown_alike(source, "auto", tmp_path)


def test_bitmap_in_8_bits(tmp_path: Path) -> None:
    dataset = grey_dataset(np.zeros((1, 40, 40), int), bits_stored=8)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    bits = np.arange(1600) % 3 == 0
    dataset.PixelData = np.packbits(bits, bitorder="little").tobytes()
    source = read_source(encoded(dataset), EXPLICIT, reading=READING)
    assert_shown_alike(source, "auto", tmp_path)
