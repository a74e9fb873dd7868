"""Objects without pictures: references lead to protected objects, or none leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, UID_dictionary

from gateway.dicom.follow import (
    Counterpart,
    Resolve,
    follow,
    may_pass,
    referenced_uids,
)
from gateway.dicom.lenient import lenient
from gateway.dicom.parse import data_set_offset
from gateway.errors import Unprotectable, UnresolvedReferences
from tests.gateway.follow_cases import (
    CAPTURE,
    NEW_SERIES,
    NEW_STUDY,
    UIDS,
    Aim,
    as_part10,
    counterpart,
    ct_image,
    errors_of,
    key_object,
    multi_frame,
    none,
    one_each,
    presentation_state,
    report,
    segmentation,
    structure_set,
)
from tests.gateway.object_cases import corpus, corpus_file

BUILT = {
    "key object": lambda image: key_object([image]),
    "report": report,
    "presentation state": presentation_state,
    "segmentation": segmentation,
    "structure set": structure_set,
}
UNKNOWN = "1.2.826.0.1.3680043.8.498.404"


def followed(
    dataset: Dataset, resolve: Resolve = one_each, aim: Aim | None = None
) -> Dataset:
    return followed_octets(as_part10(dataset), resolve, aim)


def followed_file(path: Path, resolve: Resolve = one_each) -> Dataset:
    return followed_octets(path.read_bytes(), resolve)


def followed_octets(part10: bytes, resolve: Resolve, aim: Aim | None = None) -> Dataset:
    offset, syntax = data_set_offset(part10)
    return follow(
        part10[offset:], syntax, resolve=resolve, target=aim or Aim(), uids=UIDS
    )


def references(dataset: Dataset) -> list[Dataset]:
    """Every item that refers to an instance."""
    found: list[Dataset] = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                if "ReferencedSOPInstanceUID" in item:
                    found.append(item)
                found += references(item)
    return found


def manages(item: Dataset) -> bool:
    """Whether an item refers to a study or a procedure."""
    return str(item.ReferencedSOPClassUID).startswith("1.2.840.10008.3.1.2.")


def split(frames: int) -> Resolve:
    return lambda uid: tuple(counterpart(uid, n) for n in range(1, frames + 1))


@pytest.mark.parametrize("kind", BUILT)
def test_leads_to_protected_objects_and_stays_valid(kind: str, tmp_path: Path) -> None:
    image = ct_image()
    dataset = BUILT[kind](image)
    result = followed(dataset)
    written = as_part10(result)
    assert errors_of(written, tmp_path) <= errors_of(as_part10(dataset), tmp_path)
    assert str(image.SOPInstanceUID).encode() not in written
    assert str(image.SeriesInstanceUID).encode() not in written
    found = [r for r in references(result) if not manages(r)]
    assert len(found) == len([r for r in references(dataset) if not manages(r)]) > 0
    expected = counterpart(image.SOPInstanceUID)
    for item in found:
        assert item.ReferencedSOPInstanceUID == expected.sop_instance_uid
        assert item.ReferencedSOPClassUID == CAPTURE


@pytest.mark.parametrize("kind", BUILT)
def test_has_an_identity_of_its_own(kind: str) -> None:
    dataset = BUILT[kind](ct_image())
    result = followed(dataset, aim=Aim(series_purpose="series;x"))
    assert result.SOPInstanceUID == Aim().sop_instance_uid
    assert result.SOPClassUID == dataset.SOPClassUID
    mapped = UIDS.map(dataset.SeriesInstanceUID, "series;x")
    assert result.SeriesInstanceUID == mapped
    assert result.StudyInstanceUID == dataset.StudyInstanceUID
    assert result.PatientName == dataset.PatientName


@pytest.mark.parametrize("kind", BUILT)
def test_nothing_leaves_with_a_reference_to_an_original(kind: str) -> None:
    dataset = BUILT[kind](ct_image())
    with pytest.raises(UnresolvedReferences, match="refers to 1 objects") as refusal:
        followed(dataset, none)
    assert refusal.value.reason == "unresolved-references"
    assert str(dataset.PatientName) not in str(refusal.value)


def test_series_and_study_of_evidence_are_those_of_its_targets() -> None:
    (study,) = followed(report(ct_image())).CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == NEW_STUDY
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == NEW_SERIES


def test_series_is_split_where_its_targets_lie_in_several() -> None:
    images = [ct_image(), ct_image()]
    images[1].SOPInstanceUID = UNKNOWN

    def elsewhere(uid: str) -> tuple[Counterpart, ...]:
        made = counterpart(uid)
        series = "2.25.5" if uid == UNKNOWN else "2.25.6"
        return (
            Counterpart(
                sop_class_uid=CAPTURE,
                sop_instance_uid=made.sop_instance_uid,
                series_instance_uid=series,
                study_instance_uid=NEW_STUDY,
            ),
        )

    result = followed(key_object(images), elsewhere)
    (study,) = result.CurrentRequestedProcedureEvidenceSequence
    placed = {
        each.SeriesInstanceUID: [
            item.ReferencedSOPInstanceUID for item in each.ReferencedSOPSequence
        ]
        for each in study.ReferencedSeriesSequence
    }
    assert placed == {
        "2.25.5": [counterpart(UNKNOWN).sop_instance_uid],
        "2.25.6": [counterpart(images[0].SOPInstanceUID).sop_instance_uid],
    }


@pytest.mark.parametrize("kind", BUILT)
def test_map_study_maps_study_and_frame_of_reference(kind: str) -> None:
    image = ct_image()
    dataset = BUILT[kind](image)
    result = followed(dataset, aim=Aim(map_study=True))
    assert result.StudyInstanceUID == UIDS.map(dataset.StudyInstanceUID, "study")
    if "FrameOfReferenceUID" in dataset:
        mapped = UIDS.map(dataset.FrameOfReferenceUID, "frame of reference")
        assert result.FrameOfReferenceUID == mapped
    written = as_part10(result)
    assert str(image.StudyInstanceUID).encode() not in written
    assert str(image.FrameOfReferenceUID).encode() not in written


def test_structure_set_names_study_series_and_image_of_its_targets() -> None:
    image = ct_image()
    result = followed(structure_set(image), aim=Aim(map_study=True))
    (frame,) = result.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    assert study.ReferencedSOPInstanceUID == result.StudyInstanceUID
    (series,) = study.RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == NEW_SERIES
    (roi,) = result.StructureSetROISequence
    assert roi.ReferencedFrameOfReferenceUID == frame.FrameOfReferenceUID
    (contour,) = result.ROIContourSequence[0].ContourSequence
    assert list(contour.ContourData) == [1.5, 2.5, -3.5]


def test_frame_numbers_choose_among_objects_of_single_frames() -> None:
    image = multi_frame(ct_image(), 3)
    state = presentation_state(image)
    (series,) = state.ReferencedSeriesSequence
    series.ReferencedImageSequence[0].ReferencedFrameNumber = [3, 1]
    result = followed(state, split(3))
    items = result.ReferencedSeriesSequence[0].ReferencedImageSequence
    uid = image.SOPInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in items] == [
        counterpart(uid, 3).sop_instance_uid,
        counterpart(uid, 1).sop_instance_uid,
    ]
    assert not any("ReferencedFrameNumber" in item for item in items)
    drawn = result.GraphicAnnotationSequence[0].ReferencedImageSequence
    assert len(drawn) == 3  # without numbers: all frames


def test_frame_numbers_stay_where_the_frames_do() -> None:
    state = presentation_state(multi_frame(ct_image(), 3))
    image = state.ReferencedSeriesSequence[0].ReferencedImageSequence[0]
    image.ReferencedFrameNumber = [3, 1]
    result = followed(state)
    (item,) = result.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert item.ReferencedFrameNumber == [3, 1]


def test_content_items_refer_to_one_object_each() -> None:
    image = multi_frame(ct_image(), 2)
    result = followed(key_object([image]), split(2))
    shown = [item for item in result.ContentSequence if item.ValueType == "IMAGE"]
    assert [len(item.ReferencedSOPSequence) for item in shown] == [1, 1]
    assert {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in shown
    } == {counterpart(image.SOPInstanceUID, n).sop_instance_uid for n in (1, 2)}
    # What content items refer to by place is where it was.
    before = key_object([image]).ContentSequence
    for old, new in zip(before, result.ContentSequence, strict=False):
        assert old.ValueType == new.ValueType


def test_uids_outside_of_references_are_rewritten_too() -> None:
    image = ct_image()
    dataset = key_object([image])
    mention = Dataset()
    mention.RelationshipType, mention.ValueType = "CONTAINS", "UIDREF"
    mention.UID = image.SOPInstanceUID
    series, words = Dataset(), Dataset()
    series.ValueType, series.UID = "UIDREF", image.SeriesInstanceUID
    words.ValueType, words.TextValue = "TEXT", f"see {image.SOPInstanceUID}."
    dataset.ContentSequence = [*dataset.ContentSequence, mention, series, words]
    result = followed(dataset)
    made = counterpart(image.SOPInstanceUID).sop_instance_uid
    assert made == result.ContentSequence[-3].UID
    assert result.ContentSequence[-2].UID == NEW_SERIES
    assert result.ContentSequence[-1].TextValue == f"see {made}."


def test_invalid_uid_of_a_reference_is_not_lost_but_counts() -> None:
    with pytest.raises(UnresolvedReferences):
        followed_file(corpus_file("reportsi.dcm"), none)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("1.50\\-2.5\\007", "1.50\\-2.5\\007"),  # not even read: there are millions
        ("-1.2345678901234567890\\2\\3", "-1.2345678901235\\2\\3"),
    ],
)
def test_coordinates_stay_octet_by_octet_if_valid(given: str, written: str) -> None:
    dataset = structure_set(ct_image())
    (contour,) = dataset.ROIContourSequence[0].ContourSequence
    raw = RawDataElement(
        Tag("ContourData"), "DS", len(given), given.encode(), 0, False, True
    )
    contour[Tag("ContourData")] = raw
    octets = as_part10(followed(dataset))
    assert written.encode() in octets
    assert (given.encode() in octets) is (given == written)


@pytest.mark.parametrize("map_study", [False, True])
def test_references_to_procedures_are_no_pictures(map_study: bool) -> None:
    dataset = report(ct_image())
    step = Dataset()
    step.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    step.ReferencedSOPInstanceUID = UNKNOWN
    dataset.ReferencedPerformedProcedureStepSequence = [step]

    def images_only(uid: str) -> tuple[Counterpart, ...]:
        return () if uid == UNKNOWN else one_each(uid)

    result = followed(dataset, images_only, Aim(map_study=map_study))
    (item,) = result.ReferencedPerformedProcedureStepSequence
    assert (item.ReferencedSOPInstanceUID == UNKNOWN) is not map_study
    assert UNKNOWN not in referenced_uids(result)


def icon() -> Dataset:
    item = Dataset()
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows = item.Columns = 8
    item.BitsAllocated = item.BitsStored = 8
    item.HighBit, item.PixelRepresentation = 7, 0
    item.PixelData = b"ICON-PIXELS-OF-THE-ORIGINAL-ICON-PIXELS-OF-THE-ORIGINAL-12345678"
    item["PixelData"].VR = "OB"
    return item


@pytest.mark.parametrize("kind", BUILT)
def test_no_picture_hides_anywhere(kind: str) -> None:
    dataset = BUILT[kind](ct_image())
    dataset.IconImageSequence = [icon()]
    references(dataset)[0].IconImageSequence = [icon()]
    nested = icon()
    nested.FloatPixelData = icon().PixelData
    nested.add_new(0x60003000, "OW", icon().PixelData)
    dataset.RequestAttributesSequence = [nested]
    former = Dataset()
    former.ModifiedAttributesSequence = [icon()]
    dataset.OriginalAttributesSequence = [former]
    dataset.private_block(0x0099, "VENDOR", create=True).add_new(
        1, "OB", icon().PixelData
    )
    if kind != "segmentation":
        dataset.PixelData = icon().PixelData
        dataset["PixelData"].VR = "OB"
    kept_overlay = kind == "presentation state"
    written = as_part10(followed(dataset))
    assert written.count(b"ICON-PIXELS") == 2 * kept_overlay
    assert b"VENDOR" not in written


def test_labels_and_doses_stay_as_they_are() -> None:
    for name in ("liver.dcm", "liver_expb.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"):
        path = corpus_file(name)
        result = followed_file(path)
        as_part10(result)
        assert np.array_equal(result.pixel_array, dcmread(path).pixel_array), name


@pytest.mark.parametrize(
    "kind",
    ["WaveformSequence", "OverlayData"],
)
def test_waveforms_stay_and_overlays_only_in_presentation_states(kind: str) -> None:
    if kind == "WaveformSequence":
        path = corpus_file("waveform_ecg.dcm")
        before, after = dcmread(path), followed_file(path)
        for old, new in zip(
            before.WaveformSequence, after.WaveformSequence, strict=True
        ):
            assert new.WaveformData == old.WaveformData
        return
    for name, stays in (("presentation state", True), ("segmentation", False)):
        dataset = BUILT[name](ct_image())
        dataset.add_new(0x60003000, "OW", bytes(8))
        assert (0x60003000 in followed(dataset)) is stays


def test_real_files_stay_as_valid_as_they_were(tmp_path: Path) -> None:
    seen = set()
    for path in corpus():
        try:
            result = followed_file(path)
        except Unprotectable:
            continue
        if path.name == "rtplan_truncated.dcm":
            continue  # a sequence without an end: where it ends is a guess
        seen.add(UID(result.SOPClassUID).keyword)
        before = errors_of(path.read_bytes(), tmp_path)
        assert errors_of(as_part10(result), tmp_path) <= before, path.name
    assert seen >= {
        "BasicTextSRStorage",
        "ComprehensiveSRStorage",
        "RTDoseStorage",
        "RTPlanStorage",
        "SegmentationStorage",
        "TwelveLeadECGWaveformStorage",
    }


NEVER: tuple[Callable[[str], bool], ...] = (
    lambda name: "Image Storage" in name,
    lambda name: "Raw Data" in name or "Spectroscopy" in name,
    lambda name: "Parametric Map" in name or "Thickness Map" in name,
    lambda name: "Audio" in name or "Retired" in name or "Trial" in name,
    lambda name: "Directory" in name or "DICOS" in name or "Volume Storage" in name,
)


def test_only_what_holds_no_picture_may_pass() -> None:
    passing = [uid for uid in UID_dictionary if may_pass(uid)]
    assert len(passing) > 80
    for uid in passing:
        name, kind, _, retired, _ = UID_dictionary[uid]
        assert (kind, retired) == ("SOP Class", ""), name
        assert not any(never(name) for never in NEVER), name
    assert not may_pass("1.2.3.4.5")
    assert not may_pass("")


@pytest.mark.parametrize("name", ["CT_small.dcm", "emri_small.dcm", "hotiron.dcm"])
def test_other_classes_are_refused(name: str) -> None:
    with pytest.raises(Unprotectable) as refusal:
        followed_file(corpus_file(name))
    assert refusal.value.reason == "unsupported-object"


def test_values_are_repaired_and_character_set_kept() -> None:
    dataset = report(ct_image())
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller^Zoë"
    with lenient():
        dataset.StudyDate = "2004.01.19"
        dataset.PatientSex = "m"
    result = followed(dataset)
    assert result.SpecificCharacterSet == "ISO_IR 100"
    assert str(result.PatientName) == "Müller^Zoë"
    assert (result.StudyDate, result.PatientSex) == ("20040119", "M")
