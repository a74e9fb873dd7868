"""The derived object: its class, what it keeps, what it must not keep."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from engine.rendering import render
from gateway.dicom.derive import encode_part10
from gateway.dicom.derived_pixels import plan_parts
from gateway.dicom.pixels import Source, read_source
from gateway.dicom.repair import valid_text
from gateway.errors import Unprotectable
from gateway.vault.layout import pack
from tests.gateway.object_cases import (
    EXPLICIT,
    corpus_file,
    edited,
    encoded,
    grey_dataset,
)
from tests.gateway.parts import READING, UIDS, derived_parts, source_of
from tests.gateway.validator import dciodvfy

SINGLE = "Secondary Capture Image Storage"


def corpus_source(name: str) -> Source:
    return source_of(corpus_file(name).read_bytes())


def derived_of(source: Source) -> bytes:
    (dataset,) = derived_parts(source)
    return encode_part10(dataset)


def dataset_of(source: Source) -> Dataset:
    return dcmread(BytesIO(derived_of(source)))


def synthetic(frames: np.ndarray, **attributes: object) -> Source:
    bits, signed = attributes.pop("bits", 12), attributes.pop("signed", False)
    dataset = grey_dataset(frames, bits_stored=int(str(bits)), signed=bool(signed))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return read_source(encoded(dataset), EXPLICIT, reading=READING)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CT_small.dcm", SINGLE),
        ("RG3_UNCR.dcm", SINGLE),
        ("examples_palette.dcm", SINGLE),
        ("SC_rgb_16bit.dcm", SINGLE),
        ("eCT_Supplemental.dcm", "Multi-frame Grayscale Word " + SINGLE),
        ("emri_small.dcm", "Multi-frame Grayscale Word " + SINGLE),
        ("SC_rgb_2frame.dcm", "Multi-frame True Color " + SINGLE),
        ("OBXXXX1A_2frame.dcm", "Multi-frame True Color " + SINGLE),
    ],
)
def test_class(name: str, kind: str) -> None:
    assert dataset_of(corpus_source(name)).SOPClassUID.name == kind


def test_8_bit_cine_is_multi_frame_byte() -> None:
    frames = np.arange(3 * 40 * 40).reshape(3, 40, 40) % 256
    dataset = dataset_of(synthetic(frames, bits=8, FrameTime="40", Modality="US"))
    assert dataset.SOPClassUID.name == "Multi-frame Grayscale Byte " + SINGLE
    assert (dataset.FrameTime, dataset.BitsAllocated) == (40, 8)


def test_16_bit_colour_cine_has_no_class() -> None:
    with pytest.raises(Unprotectable) as refusal:
        derived_of(corpus_source("SC_rgb_16bit_2frame.dcm"))
    assert refusal.value.reason == "unsupported-pixels"


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_UNCR.dcm", "RG1_UNCR.dcm"])
def test_single_frame_keeps_depth_sign_rescale_and_window(name: str) -> None:
    before, after = dcmread(corpus_file(name)), dataset_of(corpus_source(name))
    for keyword in (
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
        "PhotometricInterpretation",
        "RescaleSlope",
        "RescaleIntercept",
        "WindowCenter",
        "PixelSpacing",
        "ImagePositionPatient",
        "Modality",
        "StudyInstanceUID",
        "PatientID",
        "FrameOfReferenceUID",
    ):
        if keyword in before and before[keyword].value not in (None, "", [0, 0]):
            assert after[keyword].value == before[keyword].value, keyword
    assert np.array_equal(after.pixel_array, before.pixel_array)


def test_provenance() -> None:
    before = dcmread(corpus_file("CT_small.dcm"))
    after = dataset_of(corpus_source("CT_small.dcm"))
    assert after.ImageType == ["DERIVED", "SECONDARY"]
    assert after.BurnedInAnnotation == "YES"
    assert after.ConversionType == "WSD"
    reference = after.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    series = after.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == before.SeriesInstanceUID
    assert after.SeriesInstanceUID == UIDS.map(before.SeriesInstanceUID, "series")
    assert after.DerivationDescription
    assert after.DerivationCodeSequence
    purposes = [
        item.PurposeOfReferenceCodeSequence[0].CodeValue
        for item in after.ContributingEquipmentSequence
    ]
    assert purposes == ["109101", "109103"]


def test_nothing_private_and_no_orphans() -> None:
    after = dataset_of(corpus_source("CT_small.dcm"))
    assert dcmread(corpus_file("CT_small.dcm")).group_dataset(0x0043)
    assert not [element for element in after.iterall() if element.tag.is_private]
    for keyword in ("PixelPaddingValue", "VOILUTSequence", "ModalityLUTSequence"):
        assert keyword not in after


@pytest.mark.parametrize(
    ("name", "flag", "method"),
    [
        ("CT_small.dcm", "00", None),
        ("JPGExtended.dcm", "01", "ISO_10918_1"),
        ("693_J2KI.dcm", "01", "ISO_15444_1"),
        ("MR_small_jpeg_ls_lossless.dcm", "00", None),
    ],
)
def test_lossy_history(name: str, flag: str, method: str | None) -> None:
    after = dataset_of(corpus_source(name))
    assert after.LossyImageCompression == flag
    assert after.get("LossyImageCompressionMethod") == method
    assert ("LossyImageCompressionRatio" in after) == (flag == "01")


def test_lossy_history_of_the_source_is_kept() -> None:
    source = source_of(
        edited(
            "CT_small.dcm",
            LossyImageCompression="01",
            LossyImageCompressionRatio="12.5",
            LossyImageCompressionMethod="ISO_14495_1",
        )
    )
    after = dataset_of(source)
    assert after.LossyImageCompression == "01"
    assert after.LossyImageCompressionRatio == 12.5


MULTI = {
    "signed with intercept": {
        "signed": True,
        "bits": 16,
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "WindowCenter": "40",
        "WindowWidth": "400",
    },
    "inverted": {
        "PhotometricInterpretation": "MONOCHROME1",
        "WindowCenter": "900",
        "WindowWidth": "700",
    },
    "no window": {},
    "falling rescale": {
        "RescaleSlope": "-2",
        "RescaleIntercept": "100",
        "WindowCenter": "-900",
        "WindowWidth": "700",
    },
}


@pytest.mark.parametrize("case", MULTI)
def test_multi_frame_grey_shows_the_same(case: str, tmp_path: Path) -> None:
    """Unsigned MONOCHROME2 without rescale, yet every viewer shows it alike."""
    frames = np.arange(3 * 48 * 40).reshape(3, 48, 40) * 3 % 2000
    source = synthetic(frames, **MULTI[case])
    after = dataset_of(source)
    assert (after.PhotometricInterpretation, after.PixelRepresentation) == (
        "MONOCHROME2",
        0,
    )
    assert (after.RescaleIntercept, after.RescaleSlope) == (0, 1)
    assert after.PresentationLUTShape == "IDENTITY"
    shown = source_of(derived_of(source))
    for before, now in zip(source.frames(), shown.frames(), strict=True):
        first = render(before.stored, before.rendering).astype(int)
        second = render(now.stored, now.rendering).astype(int)
        assert np.abs(first - second).max() <= 1
    path = tmp_path / "derived.dcm"
    path.write_bytes(derived_of(source))
    assert dciodvfy(path) == []


def test_windows_that_differ_by_frame(tmp_path: Path) -> None:
    frames = np.arange(2 * 48 * 40).reshape(2, 48, 40) % 4096
    groups = []
    for centre in ("300", "1200"):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, "201"
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    source = synthetic(frames, PerFrameFunctionalGroupsSequence=groups)
    derived = derived_of(source)
    again = source_of(derived)
    assert again.renderings == source.renderings
    path = tmp_path / "derived.dcm"
    path.write_bytes(derived)
    assert dciodvfy(path) == []


def test_planes_of_an_enhanced_object_are_kept() -> None:
    before = dcmread(corpus_file("eCT_Supplemental.dcm"))
    after = dataset_of(corpus_source("eCT_Supplemental.dcm"))
    for index, group in enumerate(before.PerFrameFunctionalGroupsSequence):
        kept = after.PerFrameFunctionalGroupsSequence[index]
        assert (
            kept.PlanePositionSequence[0].ImagePositionPatient
            == group.PlanePositionSequence[0].ImagePositionPatient
        )
    assert after.FrameOfReferenceUID == before.FrameOfReferenceUID


def test_made_window_is_written() -> None:
    source = corpus_source("CT_small.dcm")
    again = source_of(derived_of(source))
    assert not source.own_window
    assert again.own_window
    assert again.renderings == source.renderings


@pytest.mark.parametrize(
    "attributes",
    [
        {"SeriesDescription": "x" * 64},
        {"PatientBirthDate": "1950.02.30"},
        {"PatientSex": "unknown"},
        {"PatientAge": "4 years"},
        {"StudyDate": "19991301"},
        {"StudyTime": "25:70"},
        {"BodyPartExamined": "chest, left"},
        {"Laterality": "X"},
        {"PixelSpacing": ["0", "0"]},
        {"PatientIdentityRemoved": "YES", "DeidentificationMethod": None},
        {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
        {"FrameOfReferenceUID": None},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"},
        {"PatientName": "山田^太郎", "SpecificCharacterSet": "ISO_IR 192"},
        {"StudyInstanceUID": "1.02.3"},
        {"StudyID": "longer than sixteen characters"},
        {"AccessionNumber": None, "PatientID": None, "InstanceNumber": None},
        {"RescaleSlope": "0"},
        {"WindowCenter": "40.1234567890123", "WindowWidth": "400"},
    ],
)
def test_invalid_attributes_do_not_make_it_invalid(
    attributes: dict[str, object], tmp_path: Path
) -> None:
    data = edited_leniently("CT_small.dcm", attributes)
    path = tmp_path / "derived.dcm"
    path.write_bytes(derived_of(source_of(data)))
    assert dciodvfy(path) == []


def edited_leniently(name: str, attributes: dict[str, object]) -> bytes:
    from gateway.dicom.lenient import lenient

    with lenient():
        dataset = dcmread(corpus_file(name))
        present = {
            keyword: value
            for keyword, value in attributes.items()
            if value is not None or keyword in dataset
        }
    with lenient():
        return edited(name, **present)


def test_long_description_keeps_the_mark() -> None:
    source = source_of(edited("CT_small.dcm", SeriesDescription="x" * 64))
    described = dataset_of(source).SeriesDescription
    assert len(described) <= 64
    assert described.endswith(" [MIAD-MARK]")


def test_text_outside_its_character_set_is_written_in_utf8() -> None:
    data = corpus_file("CT_small.dcm").read_bytes()
    assert b"ISO_IR 100" in data
    broken = data.replace(b"ISO_IR 100", b"ISO_IR 6  ").replace(b"JFK", b"J\xe9K")
    dataset = dataset_of(source_of(broken))
    assert broken != data.replace(b"ISO_IR 100", b"ISO_IR 6  ")
    assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_pixels_lie_as_the_layout_says() -> None:
    source = corpus_source("MR_small.dcm")
    (part,) = plan_parts(source, "auto")
    assert dataset_of(source).PixelData == pack([source.frame(0).stored], part.layout)


def test_derivation_is_repeatable() -> None:
    source = corpus_source("MR_small.dcm")
    assert derived_of(source) == derived_of(source)


def test_uids_are_valid() -> None:
    derived = dataset_of(corpus_source("MR_small.dcm"))
    for uid in (derived.SOPInstanceUID, derived.SeriesInstanceUID):
        assert UID(uid).is_valid


@pytest.mark.parametrize(
    ("vr", "raw", "expected"),
    [
        ("DA", "1997.04.24", "19970424"),
        ("DA", "19970431x", None),
        ("TM", "10:20:30", "102030"),
        ("TM", "9999", None),
        ("CS", "chest", "CHEST"),
        ("CS", "left/right", None),
        ("AS", "045y", "045Y"),
        ("UI", "1.2.3", "1.2.3"),
        ("UI", "9.2.3", None),
        ("DS", "0.12345678901234567", "0.12345678901235"),
        ("DS", "abc", None),
        ("LO", "a\0b\x07", "ab"),
        ("LO", "x" * 70, "x" * 64),
        ("PN", "A^B^C^D^E^F", "A^B^C^D^E"),
    ],
)
def test_repair(vr: str, raw: str, expected: str | None) -> None:
    assert valid_text(vr, raw) == expected
