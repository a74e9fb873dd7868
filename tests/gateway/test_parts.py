"""Objects of single frames, overlays, and what must not travel with an image."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageCms
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.overlays import get_overlay_array
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from gateway.dicom.derive import encode_part10
from gateway.dicom.derived_pixels import plan_parts
from gateway.dicom.pixels import Reading, Source, read_source
from gateway.errors import Unprotectable
from tests.gateway.object_cases import (
    EXPLICIT,
    colour_dataset,
    corpus,
    encoded,
    grey_dataset,
)
from tests.gateway.parts import READING, UIDS, derived_parts, source_of
from tests.gateway.validator import dciodvfy

SINGLE = "1.2.840.10008.5.1.4.1.1.7"
BYTE, WORD, COLOUR = (f"{SINGLE}.{number}" for number in (2, 3, 4))
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def read(dataset: Dataset, reading: Reading = READING) -> Source:
    return read_source(encoded(dataset), EXPLICIT, reading=reading)


def errors(dataset: Dataset, folder: Path) -> list[str]:
    path = folder / "derived.dcm"
    path.write_bytes(encode_part10(dataset))
    return dciodvfy(path)


def volume(
    rescales: list[tuple[str, str]], *, signed: bool = False, **attributes: Any
) -> Dataset:
    count = len(rescales)
    values = np.arange(count * 40 * 48).reshape(count, 40, 48) % 4096 - 2048 * signed
    dataset = grey_dataset(values, bits_stored=12, signed=signed)
    dataset.SOPClassUID = ENHANCED_CT
    dataset.Modality = "CT"
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.9"
    dataset.PerFrameFunctionalGroupsSequence = [
        frame_group(index, *rescale) for index, rescale in enumerate(rescales)
    ]
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def frame_group(index: int, slope: str, intercept: str) -> Dataset:
    group = Dataset()
    parts = {
        "PixelMeasuresSequence": {"PixelSpacing": ["0.5", "0.5"], "SliceThickness": 3},
        "PlanePositionSequence": {"ImagePositionPatient": ["-10", "-20", str(index)]},
        "PlaneOrientationSequence": {
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]
        },
        "PixelValueTransformationSequence": {
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
            "RescaleType": "US",
        },
        "FrameVOILUTSequence": {
            "WindowCenter": ["40", "600"],
            "WindowWidth": ["400", str(2000 + index)],
        },
    }
    for keyword, attributes in parts.items():
        item = Dataset()
        for name, value in attributes.items():
            setattr(item, name, value)
        setattr(group, keyword, [item])
    return group


HU = [("1", "-1024")] * 3
PLAIN = [("1", "0")] * 3
VARYING = [("1", "-1024"), ("1", "-1000"), ("2", "0")]


def ophthalmic() -> Dataset:
    dataset = grey_dataset(np.zeros((2, 40, 40), int), bits_stored=8)
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.77.1.5.4", "OPT"
    return dataset


def fluoroscopy() -> Dataset:
    dataset = grey_dataset(np.arange(3 * 1600).reshape(3, 40, 40), bits_stored=16)
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.12.2", "RF"
    dataset.FrameTimeVector = ["0", "33", "40"]
    return dataset


def colour(sop_class: str, modality: str, frames: int) -> Dataset:
    dataset = colour_dataset(np.zeros((frames, 40, 48, 3), np.uint8))
    dataset.SOPClassUID, dataset.Modality = sop_class, modality
    return dataset


def wide_colour() -> Dataset:
    dataset = colour(SINGLE, "OT", 2)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = bytes(2 * len(dataset.PixelData))
    return dataset


PLANS: dict[str, tuple[Callable[[], Dataset], dict[str, tuple[int, str]]]] = {
    "enhanced CT": (
        lambda: volume(HU),
        {"auto": (3, SINGLE), "never": (1, WORD), "always": (3, SINGLE)},
    ),
    "enhanced CT, stored values are HU": (
        lambda: volume(PLAIN, signed=True),
        {"auto": (3, SINGLE), "never": (1, WORD)},
    ),
    "nothing to lose": (
        lambda: volume(PLAIN),
        {"auto": (1, WORD), "always": (3, SINGLE)},
    ),
    "enhanced MR, one rescale": (
        lambda: volume([("3", "0")] * 3, Modality="MR"),
        {"auto": (1, WORD)},
    ),
    "enhanced MR, rescale by frame": (
        lambda: volume(VARYING, Modality="MR"),
        {"auto": (3, SINGLE), "never": (1, WORD)},
    ),
    "emission tomogram, activity": (
        lambda: volume([("2.5", "0")] * 2, Modality="PT"),
        {"auto": (2, SINGLE), "never": (1, WORD)},
    ),
    "emission cine, counts": (
        lambda: volume(PLAIN, signed=True, Modality="NM"),
        {"auto": (1, WORD)},
    ),
    "tomogram of the eye": (ophthalmic, {"auto": (1, BYTE), "always": (2, SINGLE)}),
    "fluoroscopy": (fluoroscopy, {"auto": (1, WORD)}),
    "ultrasound cine": (
        lambda: colour("1.2.840.10008.5.1.4.1.1.3.1", "US", 3),
        {"auto": (1, COLOUR), "always": (1, COLOUR)},
    ),
    "photograph of the eye": (
        lambda: colour("1.2.840.10008.5.1.4.1.1.77.1.5.1", "OP", 1),
        {"auto": (1, SINGLE)},
    ),
    "dermoscopy": (
        lambda: colour("1.2.840.10008.5.1.4.1.1.77.1.7", "DMS", 1),
        {"auto": (1, SINGLE)},
    ),
    "whole slide": (
        lambda: colour("1.2.840.10008.5.1.4.1.1.77.1.6", "SM", 4),
        {"auto": (1, COLOUR)},
    ),
    "16-bit colour": (wide_colour, {"auto": (2, SINGLE), "always": (2, SINGLE)}),
}


@pytest.mark.parametrize("kind", PLANS)
def test_objects_of_a_source(kind: str, tmp_path: Path) -> None:
    make, plans = PLANS[kind]
    source = read(make())
    for split, expected in plans.items():
        parts = plan_parts(source, split)  # type: ignore[arg-type]
        assert (len(parts), parts[0].sop_class_uid) == expected
        assert [index for part in parts for index in part.frames] == list(
            range(source.count)
        )
        made = derived_parts(source, split)  # type: ignore[arg-type]
        for dataset in made:
            assert errors(dataset, tmp_path) == []
            assert_what_the_validator_misses(dataset)


def assert_what_the_validator_misses(dataset: Dataset) -> None:
    assert dataset.ImageType == ["DERIVED", "SECONDARY"]
    assert dataset.BurnedInAnnotation == "YES"
    assert dataset.LossyImageCompression == "00"
    assert not [each for each in dataset.iterall() if each.tag.is_private]
    if dataset.SOPClassUID in {BYTE, WORD}:
        assert (dataset.RescaleIntercept, dataset.RescaleSlope) == (0, 1)
        assert (dataset.PhotometricInterpretation, dataset.PixelRepresentation) == (
            "MONOCHROME2",
            0,
        )
    for keyword in ("PixelPaddingValue", "VOILUTSequence", "ModalityLUTSequence"):
        assert keyword not in dataset


def test_wide_colour_is_held_where_frames_stay_together() -> None:
    with pytest.raises(Unprotectable, match="split_frames") as held:
        plan_parts(read(wide_colour()), "never")
    assert held.value.reason == "unsupported-pixels"


def test_frames_of_either_polarity_do_not_stay_together() -> None:
    turning = volume([("1", "0"), ("-1", "0")], Modality="MR")
    source = read(turning)
    assert [shown[0].inverted for shown in source.renderings] == [False, True]
    for group in turning.PerFrameFunctionalGroupsSequence:
        del group.FrameVOILUTSequence
    made = read(turning)
    assert not made.own_window
    assert [shown[0].inverted for shown in made.renderings] == [False, True]
    assert len(plan_parts(source, "auto")) == 2
    with pytest.raises(Unprotectable, match="split_frames"):
        plan_parts(source, "never")


def test_single_objects_have_what_their_frame_had() -> None:
    made = derived_parts(read(volume(VARYING)), "auto")
    assert [each.InstanceNumber for each in made] == [1, 2, 3]
    assert len({each.SOPInstanceUID for each in made}) == 3
    assert len({each.SeriesInstanceUID for each in made}) == 1
    for index, (each, (slope, intercept)) in enumerate(zip(made, VARYING, strict=True)):
        assert each.ImagePositionPatient == [-10, -20, index]
        assert each.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert each.PixelSpacing == [0.5, 0.5]
        assert each.SliceThickness == 3
        assert each.PatientOrientation == ["L", "P"]
        assert each.RescaleSlope == float(slope)
        assert each.RescaleIntercept == float(intercept)
        assert each.WindowCenter == [40, 600]
        assert each.WindowWidth == [400, 2000 + index]
        assert each.SourceImageSequence[0].ReferencedFrameNumber == index + 1
        assert "PerFrameFunctionalGroupsSequence" not in each
        assert "NumberOfFrames" not in each


def test_multi_frame_keeps_every_window_of_every_frame() -> None:
    (made,) = derived_parts(read(volume(HU)), "never")
    assert "WindowCenter" not in made
    for index, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        voi = group.FrameVOILUTSequence[0]
        assert voi.WindowCenter == [1064, 1624]
        assert voi.WindowWidth == [400, 2000 + index]
    assert made.RescaleIntercept == 0


def test_presets_of_the_site_are_not_written() -> None:
    dataset = grey_dataset(np.arange(1600).reshape(1, 40, 40), bits_stored=12)
    dataset.WindowCenter, dataset.WindowWidth = ["40", "50", "60"], ["400", "500", "6"]
    dataset.WindowCenterWidthExplanation = ["A", "B", "C"]
    source = read(dataset, Reading(max_frames=1, windows=((7, 70),)))
    (made,) = derived_parts(source)
    assert len(source.renderings[0]) == 3
    assert made.WindowCenter == [40, 50, 60]
    assert made.WindowWidth == [400, 500, 6]
    assert made.WindowCenterWidthExplanation == ["A", "B", "C"]


def test_times_of_the_frames_are_kept() -> None:
    (made,) = derived_parts(read(fluoroscopy()))
    assert made.FrameTimeVector == [0, 33, 40]
    assert made.FrameIncrementPointer == Tag("FrameTimeVector")


def test_study_and_frame_of_reference_are_kept_or_mapped() -> None:
    source = read(volume(HU))
    kept = derived_parts(source, "auto")[0]
    mapped = derived_parts(source, "auto", map_study=True, series_purpose="other")[0]
    before = source.dataset
    assert kept.StudyInstanceUID == before.StudyInstanceUID
    assert kept.FrameOfReferenceUID == before.FrameOfReferenceUID
    assert mapped.StudyInstanceUID == UIDS.map(before.StudyInstanceUID, "study")
    assert mapped.FrameOfReferenceUID == UIDS.map(
        before.FrameOfReferenceUID, "frame of reference"
    )
    assert mapped.SeriesInstanceUID == UIDS.map(before.SeriesInstanceUID, "other")
    written = encode_part10(mapped)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert str(before[keyword].value).encode() not in written


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in corpus()
        if path.name in {"emri_small.dcm", "eCT_Supplemental.dcm"}
    ],
    ids=lambda path: path.name,
)
def test_corpus_in_single_objects(path: Path, tmp_path: Path) -> None:
    for dataset in derived_parts(source_of(path.read_bytes()), "always"):
        assert errors(dataset, tmp_path) == []


# Overlays


def add_overlay(dataset: Dataset, group: int, bits: np.ndarray, **more: int) -> None:
    rows, columns = bits.shape[-2:]
    dataset.add_new(Tag(group, 0x0010), "US", rows)
    dataset.add_new(Tag(group, 0x0011), "US", columns)
    dataset.add_new(Tag(group, 0x0022), "LO", "Region")
    dataset.add_new(Tag(group, 0x0040), "CS", "R")
    dataset.add_new(Tag(group, 0x0050), "SS", [3, -2])
    dataset.add_new(Tag(group, 0x0100), "US", 1)
    dataset.add_new(Tag(group, 0x0102), "US", 0)
    if "frames" in more:
        dataset.add_new(Tag(group, 0x0015), "IS", more["frames"])
    if "first" in more:
        dataset.add_new(Tag(group, 0x0051), "US", more["first"])
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    dataset.add_new(Tag(group, 0x3000), "OW", packed + b"\0" * (len(packed) % 2))


def overlay_of(dataset: Dataset, group: int = 0x6000) -> np.ndarray:
    return get_overlay_array(dcmread(BytesIO(encode_part10(dataset))), group)


PATTERN = np.arange(3 * 40 * 48).reshape(3, 40, 48) % 7 == 0


@pytest.mark.parametrize("group", [0x6000, 0x6002])
def test_overlays_of_a_single_frame(group: int, tmp_path: Path) -> None:
    dataset = grey_dataset(np.zeros((1, 40, 48), int), bits_stored=12)
    add_overlay(dataset, group, PATTERN[0, :33, :37])
    add_overlay(dataset, group + 4, PATTERN[1])
    (made,) = derived_parts(read(dataset))
    assert np.array_equal(overlay_of(made, 0x6000), PATTERN[0, :33, :37])
    assert np.array_equal(overlay_of(made, 0x6004), PATTERN[1])
    assert made[0x6000, 0x0050].value == [3, -2]
    assert made[0x6000, 0x0040].value == "R"
    assert made[0x6000, 0x0022].value == "Region"
    assert errors(made, tmp_path) == []


def test_overlay_in_a_bit_of_the_pixels(tmp_path: Path) -> None:
    values = np.arange(3 * 40 * 48).reshape(3, 40, 48) % 4096
    dataset = grey_dataset(values | PATTERN.astype(int) << 14, bits_stored=12)
    add_overlay(dataset, 0x6000, PATTERN)
    del dataset[0x6000, 0x3000]
    dataset[0x6000, 0x0100].value, dataset[0x6000, 0x0102].value = 16, 14
    source = read(dataset)
    assert np.array_equal(source.frame(1).stored, values[1])
    (whole,) = derived_parts(source, "never")
    assert np.array_equal(overlay_of(whole), PATTERN)
    assert whole[0x6000, 0x0102].value == 0
    assert errors(whole, tmp_path) == []
    for index, made in enumerate(derived_parts(source, "always")):
        assert np.array_equal(overlay_of(made), PATTERN[index])
        assert not np.frombuffer(made.PixelData, "<u2").max() >> 12
        assert errors(made, tmp_path) == []


def test_overlay_of_some_frames(tmp_path: Path) -> None:
    dataset = grey_dataset(np.zeros((3, 40, 48), int), bits_stored=8)
    add_overlay(dataset, 0x6000, PATTERN[:2, :33, :37], frames=2, first=2)
    source = read(dataset)
    (whole,) = derived_parts(source, "never")
    assert np.array_equal(overlay_of(whole), PATTERN[:2, :33, :37])
    assert whole[0x6000, 0x0051].value == 2
    assert errors(whole, tmp_path) == []
    first, second, third = derived_parts(source, "always")
    assert Tag(0x6000, 0x3000) not in first
    assert np.array_equal(overlay_of(second), PATTERN[0, :33, :37])
    assert np.array_equal(overlay_of(third), PATTERN[1, :33, :37])


def test_one_overlay_for_all_frames(tmp_path: Path) -> None:
    dataset = colour_dataset(np.zeros((3, 40, 48, 3), np.uint8))
    add_overlay(dataset, 0x6000, PATTERN[0])
    (made,) = derived_parts(read(dataset))
    assert np.array_equal(overlay_of(made), PATTERN[0])
    assert errors(made, tmp_path) == []


def test_overlay_of_a_big_endian_object() -> None:
    dataset = grey_dataset(np.zeros((1, 40, 48), int), bits_stored=12)
    add_overlay(dataset, 0x6000, PATTERN[0])
    words = np.frombuffer(dataset[0x6000, 0x3000].value, "<u2")
    dataset[0x6000, 0x3000].value = words.astype(">u2").tobytes()
    dataset.PixelData = bytes(len(dataset.PixelData))
    stream = BytesIO()
    dataset.save_as(stream, implicit_vr=False, little_endian=False)
    big_endian = "1.2.840.10008.1.2.2"
    source = read_source(stream.getvalue(), big_endian, reading=READING)
    (made,) = derived_parts(source)
    assert np.array_equal(overlay_of(made), PATTERN[0])


@pytest.mark.parametrize("broken", ["short", "no size", "stored bit", "words"])
def test_broken_overlays_are_left_out(broken: str, tmp_path: Path) -> None:
    dataset = grey_dataset(np.zeros((1, 40, 48), int), bits_stored=12)
    add_overlay(dataset, 0x6000, PATTERN[0])
    if broken == "short":
        dataset[0x6000, 0x3000].value = b"\1" * 10
    elif broken == "no size":
        del dataset[0x6000, 0x0010]
    elif broken == "stored bit":
        del dataset[0x6000, 0x3000]
        dataset[0x6000, 0x0102].value = 3
    else:
        del dataset[0x6000, 0x3000]
        dataset.add_new(Tag(0x6000, 0x3000), "LT", "text")
    (made,) = derived_parts(read(dataset))
    assert not [element for element in made if element.tag.group == 0x6000]
    assert errors(made, tmp_path) == []


# What is kept, and what must never be


def icc_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_icc_profile_of_colour_is_kept(tmp_path: Path) -> None:
    dataset = colour_dataset(np.zeros((1, 40, 48, 3), np.uint8))
    dataset.ICCProfile = icc_profile()
    dataset.ColorSpace = "SRGB"
    (made,) = derived_parts(read(dataset))
    assert made.ICCProfile.rstrip(b"\0") == icc_profile().rstrip(b"\0")
    assert made.ColorSpace == "SRGB"
    assert errors(made, tmp_path) == []


def test_icc_profile_of_the_only_optical_path_is_kept(tmp_path: Path) -> None:
    dataset = colour("1.2.840.10008.5.1.4.1.1.77.1.6", "SM", 2)
    path = Dataset()
    path.ICCProfile = icc_profile()
    dataset.OpticalPathSequence = [path]
    (made,) = derived_parts(read(dataset))
    assert made.ICCProfile.rstrip(b"\0") == icc_profile().rstrip(b"\0")
    assert errors(made, tmp_path) == []


def picture_item() -> Dataset:
    item = Dataset()
    item.Rows = item.Columns = 8
    item.BitsAllocated = 8
    item.PixelData = b"ICON-BYTES" * 8
    item["PixelData"].VR = "OB"
    return item


def test_no_original_pixels_travel_with_the_image() -> None:
    """Icons show the original; so might any picture in a sequence that is kept."""
    dataset = grey_dataset(np.zeros((1, 40, 48), int), bits_stored=12)
    code = Dataset()
    code.CodeValue, code.CodeMeaning = "1", "Procedure"
    code.CodingSchemeDesignator = "99X"
    code.IconImageSequence = Sequence([picture_item()])
    code.PixelData = b"ICON-BYTES"
    code["PixelData"].VR = "OB"
    dataset.ProcedureCodeSequence = [code]
    dataset.IconImageSequence = [picture_item()]
    dataset.add_new(Tag(0x5000, 0x3000), "OW", b"ICON-BYTES")
    (made,) = derived_parts(read(dataset))
    octets = encode_part10(made)
    assert made.ProcedureCodeSequence[0].CodeMeaning == "Procedure"
    assert b"ICON-BYTES" not in octets
    assert "IconImageSequence" not in {e.keyword for e in made.iterall()}
    assert Tag(0x5000, 0x3000) not in made


def test_bitmap_in_8_bits_is_valid(tmp_path: Path) -> None:
    dataset = grey_dataset(np.zeros((2, 40, 40), int), bits_stored=8)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    dataset.PixelData = b"\x55" * 400
    source = read(dataset, Reading(max_frames=9, one_bit="convert"))
    (made,) = derived_parts(source)
    assert (made.SOPClassUID, made.BitsStored) == (BYTE, 8)
    assert errors(made, tmp_path) == []


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("bits", [4, 6])
def test_narrow_pixels_are_valid(bits: int, frames: int, tmp_path: Path) -> None:
    values = np.arange(frames * 1600).reshape(frames, 40, 40) % (1 << bits)
    (made,) = derived_parts(read(grey_dataset(values, bits_stored=bits)))
    assert made.BitsStored == (bits if frames == 1 else 8)
    assert made.WindowWidth == 1 << bits
    assert errors(made, tmp_path) == []
