"""De-identified objects: nothing of the person is left, and the object is still one."""

from __future__ import annotations

import copy
from datetime import date
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from config.schema import DeidentificationOption
from gateway.dicom.deidentify import Deidentifier
from gateway.dicom.deidentify_profile import EDITION, Profile
from gateway.dicom.deidentify_statement import BASIC, OPTIONS
from gateway.dicom.derive import DESCRIPTION
from gateway.dicom.follow import referenced_uids
from gateway.dicom.lenient import lenient
from gateway.errors import Unprotectable
from tests.gateway.follow_cases import (
    UIDS,
    as_part10,
    ct_image,
    errors_of,
    key_object,
    presentation_state,
    report,
    segmentation,
)
from tests.gateway.object_cases import as_file, corpus_file
from tests.gateway.parts import source_of
from tests.gateway.test_derive import derived_of
from tests.gateway.test_follow import BUILT, followed

Option = DeidentificationOption
EVERY: tuple[Option, ...] = get_args(DeidentificationOption)
SECRETS = {
    "PatientName": "Zyxomma^Quillon",
    "PatientID": "PID-778812",
    "PatientBirthDate": "19610704",
    "AccessionNumber": "ACC99120",
    "StudyID": "STY5512",
    "InstitutionName": "Qualtrough Infirmary",
    "InstitutionAddress": "9 Fennimore Row",
    "InstitutionalDepartmentName": "Wing Ostrander",
    "ReferringPhysicianName": "Brackwater^Ivo",
    "PerformingPhysicianName": "Thistlemere^Una",
    "OperatorsName": "Pennyfather^Abe",
    "StationName": "STN-GLOAM7",
    "DeviceSerialNumber": "SER-44120-K",
    "ImageComments": "discussed with Zyxomma",
    "StudyDescription": "Brain of Quillon 19610704",
    "ProtocolName": "Head for Zyxomma",
    "AdmissionID": "ADM-30411",
    "EthnicGroup": "Vorlander",
    "PatientComments": "lives in Fennimore",
}
REAL = (
    "MR_small.dcm",
    "examples_palette.dcm",
    "emri_small.dcm",
    "eCT_Supplemental.dcm",
    "chrH31.dcm",
    "RG3_UNCR.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "OBXXXX1A_2frame.dcm",
)


def protected(dataset: Dataset) -> Dataset:
    """As the gateway makes it of an image."""
    return dcmread(BytesIO(derived_of(source_of(as_file(dataset)))))


def original(**changed: Any) -> Dataset:
    dataset = dcmread(corpus_file("CT_small.dcm"))
    with lenient():
        for keyword, value in (SECRETS | changed).items():
            setattr(dataset, keyword, value)
    return dataset


def tellings(text: str) -> list[str]:
    """The parts of a value that tell something."""
    parts = text.replace("^", " ").split()
    return [part for part in (text, *parts) if len(part) > 4]


def deidentified(dataset: Dataset, *options: Option, **given: Any) -> Dataset:
    return Deidentifier(options, UIDS).apply(dataset, **given)


def planted() -> Dataset:
    """A protected object into which identifiers were put wherever they fit."""
    dataset = protected(original())
    name, number = SECRETS["PatientName"], SECRETS["PatientID"]
    nested = Dataset()
    nested.PatientName, nested.PatientID = name, number
    nested.CodeMeaning = f"as {name} had"
    nested.add_new(0x00181FFE, "LO", number)  # of no dictionary
    deeper = copy.deepcopy(nested)
    deeper.private_block(0x0011, "PLANTER", create=True).add_new(1, "LO", name)
    nested.ProcedureCodeSequence = [deeper]
    dataset.AnatomicRegionSequence = [nested]
    dataset.private_block(0x0009, "PLANTER", create=True).add_new(1, "LT", name)
    dataset.add_new(0x60004000, "LT", name)
    dataset.add_new(0x60003000, "OW", number.encode())
    dataset.add_new(0x50000040, "LO", name)
    dataset.add_new(0x00189FFE, "UN", name.encode())
    dataset.Manufacturer = f"built for {SECRETS['InstitutionName']}"
    dataset.IssuerOfPatientIDQualifiersSequence = [nested]
    dataset.PatientBirthDateInAlternativeCalendar = number
    dataset.OtherPatientNames = name
    dataset.RequestAttributesSequence = [nested]
    return dataset


KEEPING: dict[Option, tuple[str, ...]] = {
    "retain-institution-identity": (
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
    ),
    "retain-device-identity": ("StationName", "DeviceSerialNumber"),
    "retain-patient-characteristics": ("EthnicGroup",),
}


@cache
def planted_source() -> Dataset:
    return planted()


@pytest.mark.parametrize("options", [(), *((each,) for each in EVERY), EVERY])
def test_nothing_planted_is_left(options: tuple[Option, ...], tmp_path: Path) -> None:
    before = planted_source()
    written = as_part10(deidentified(before, *options)).lower()
    kept = {keyword for option in options for keyword in KEEPING.get(option, ())}
    for keyword, secret in SECRETS.items():
        if keyword in kept:
            continue
        for telling in tellings(secret):
            in_kept = any(telling in SECRETS[each] for each in kept)
            common = telling.lower() in ("brain", "lives", "discussed")
            if not (in_kept or common):
                assert telling.lower().encode() not in written, keyword
    assert errors_of(written_as_is(before, options), tmp_path) == set()


def written_as_is(before: Dataset, options: tuple[Option, ...]) -> bytes:
    clean = protected(original())
    assert clean.SOPInstanceUID == before.SOPInstanceUID
    return as_part10(deidentified(clean, *options))


def uids_of(dataset: Dataset) -> set[str]:
    with lenient():
        found = {
            str(each)
            for element in dataset.iterall()
            if element.VR == "UI" and element.value
            for each in (element.value if element.VM > 1 else [element.value])
        }
    return {uid for uid in found if not uid.startswith("1.2.840.10008.")}


@pytest.mark.parametrize("name", REAL)
def test_nothing_of_real_files_is_left(name: str, tmp_path: Path) -> None:
    data = corpus_file(name).read_bytes()
    before = dcmread(BytesIO(data))
    made = dcmread(BytesIO(derived_of(source_of(data))))
    written = as_part10(deidentified(made))
    assert errors_of(written, tmp_path) == set()
    profile = Profile(())
    for uid in uids_of(before):
        assert uid.encode() not in written
    with lenient():
        for element in before.iterall():
            if element.VR in ("PN", "LO", "SH") and profile.listed(element.tag):
                # A maker's name is also that of some institutions: only persons'
                # names are looked for in parts.
                value = str(element.value)
                parts = tellings(value) if element.VR == "PN" else [value]
                for each in filter(lambda part: len(part) > 4, parts):
                    octets = each.encode(errors="ignore")
                    assert octets not in written, element.keyword


ALL = dicom_anonymization_database_selector(EDITION)["ALL_TAGS"]


def all_of_the_table(sop_class: str) -> Dataset:
    """A value that tells in every attribute of the profile's table."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    item = Dataset()
    texts = ("PN", "LO", "SH", "LT", "ST", "UT", "UC")
    tags = [group << 16 | element for group, element, *rest in ALL if not rest]
    for tag in tags:
        if tag >> 16 <= 2 or not keyword_for_tag(tag) or tag == 0x00420011:
            continue
        vr = dictionary_VR(tag)
        if vr in texts:
            dataset.add_new(tag, vr, "SECRETVALUE")
        elif vr in ("DA", "DT"):
            dataset.add_new(tag, vr, "20010203")
        elif vr == "OB":
            dataset.add_new(tag, vr, b"SECRETVALUE.")
        elif vr == "UI":
            dataset.add_new(tag, vr, "1.2.3.777.888")
    item.update(dataset)
    for tag in tags:
        if keyword_for_tag(tag) and dictionary_VR(tag) == "SQ":
            dataset.add_new(tag, "SQ", [item])
    return dataset


@pytest.mark.parametrize(
    "sop_class", ["1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33"]
)
def test_every_attribute_of_the_table_is_treated(sop_class: str) -> None:
    dataset = all_of_the_table(sop_class)
    assert len(dataset) > 500
    dataset.SOPInstanceUID = dataset.SeriesInstanceUID = "2.25.1"
    result = deidentified(dataset)
    result.file_meta = dataset.file_meta = None  # type: ignore[assignment]
    text = str(result)
    assert "SECRETVALUE" not in text
    assert "1.2.3.777.888" not in text
    assert "20010203" not in text


def test_is_stated() -> None:
    result = deidentified(protected(original()), *EVERY)
    assert result.PatientIdentityRemoved == "YES"
    assert result.DeidentificationMethod
    stated = {
        (item.CodeValue, item.CodeMeaning)
        for item in result.DeidentificationMethodCodeSequence
    }
    assert stated == {BASIC, *OPTIONS.values()}
    assert set(OPTIONS) == set(EVERY)
    known = {
        (code.value, code.meaning)
        for keyword in codes.cid7050.dir()
        for code in [getattr(codes.cid7050, keyword)]
    }
    assert stated <= known


def test_earlier_deidentification_stays_stated() -> None:
    dataset = protected(original())
    earlier = Dataset()
    earlier.CodeValue, earlier.CodingSchemeDesignator = "113101", "DCM"
    earlier.CodeMeaning = "Clean Pixel Data Option"
    dataset.DeidentificationMethodCodeSequence = [earlier]
    items = deidentified(dataset).DeidentificationMethodCodeSequence
    assert [item.CodeValue for item in items] == ["113101", "113100"]


@pytest.mark.parametrize(
    ("option", "state"),
    [
        (None, "REMOVED"),
        ("retain-longitudinal-full-dates", "UNMODIFIED"),
        ("retain-longitudinal-modified-dates", "MODIFIED"),
    ],
)
def test_what_became_of_dates_is_stated(option: Option | None, state: str) -> None:
    options = (option,) if option else ()
    result = deidentified(protected(original()), *options)
    assert result.LongitudinalTemporalInformationModified == state


def test_objects_of_a_study_still_belong_together() -> None:
    one = protected(original())
    other = protected(original(SOPInstanceUID="1.2.3.4.5.6"))
    first, second = deidentified(one), deidentified(other)
    assert first.StudyInstanceUID == UIDS.map(one.StudyInstanceUID, "study")
    mapped = UIDS.map(one.FrameOfReferenceUID, "frame of reference")
    assert first.FrameOfReferenceUID == mapped
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert first[keyword].value == second[keyword].value
    assert first.SOPInstanceUID == one.SOPInstanceUID
    assert first.SeriesInstanceUID == one.SeriesInstanceUID
    assert "SourceImageSequence" not in first
    assert "ReferencedSeriesSequence" not in first


def test_patients_are_kept_apart_by_a_pseudonym() -> None:
    one = deidentified(protected(original()))
    other = deidentified(protected(original(PatientID="PID-778813")))
    assert one.PatientID != other.PatientID
    assert one.PatientID == one.PatientName


def test_warning_of_the_mark_stays() -> None:
    result = deidentified(protected(original()))
    assert result.DerivationDescription == DESCRIPTION
    assert result.SeriesDescription == "[MIAD-MARK]"
    assert result.BurnedInAnnotation == "YES"


def test_pixels_and_the_given_data_set_are_untouched() -> None:
    before = protected(original())
    kept = copy.deepcopy(before)
    after = deidentified(before, *EVERY)
    assert before == kept
    after.Rows = 1
    assert before == kept
    assert after.PixelData == before.PixelData
    for keyword in ("WindowCenter", "RescaleSlope", "PixelSpacing", "BitsStored"):
        assert after[keyword].value == before[keyword].value


def test_retain_uids() -> None:
    before = protected(original())
    after = deidentified(before, "retain-uids")
    assert uids_of(after) == uids_of(before) - {""}
    assert after.SourceImageSequence[0].ReferencedSOPInstanceUID


def test_retain_full_dates() -> None:
    before = protected(original(StudyDate="20200315", StudyTime="101112"))
    after = deidentified(before, "retain-longitudinal-full-dates")
    assert (after.StudyDate, after.StudyTime) == ("20200315", "101112")
    assert after.AcquisitionDate == before.AcquisitionDate
    assert after.PatientBirthDate == ""


def test_modified_dates_keep_intervals_within_a_patient() -> None:
    option: Option = "retain-longitudinal-modified-dates"
    days = []
    for study, patient in (("20200315", "A1"), ("20210315", "A1"), ("20200315", "B2")):
        source = original(StudyDate=study, StudyTime="101112", PatientID=patient)
        before = protected(source)
        before.AcquisitionDateTime = study + "101112.5+0100"
        after = deidentified(before, option)
        moved = date.fromisoformat(after.StudyDate)
        assert moved < date.fromisoformat(study)
        assert after.StudyTime == "101112"
        assert after.AcquisitionDateTime == after.StudyDate + "101112.5+0100"
        days.append((date.fromisoformat(study) - moved).days)
        assert after.PatientBirthDate == ""
    assert days[0] == days[1] != days[2]
    assert all(1 <= each <= 3650 for each in days)


def test_a_date_that_is_none_is_not_moved_but_goes() -> None:
    dataset = protected(original())
    with lenient():
        dataset.AcquisitionDateTime = "2004"
        dataset.StudyDate = "20041340"
    after = deidentified(dataset, "retain-longitudinal-modified-dates")
    assert "AcquisitionDateTime" not in after
    assert after.StudyDate == ""


def test_retain_patient_characteristics() -> None:
    source = original(PatientAge="045Y", PatientSex="F", PatientWeight="70")
    before = protected(source)
    before.Allergies = "contrast, says Zyxomma"
    plain, kept = (
        deidentified(before),
        deidentified(before, "retain-patient-characteristics"),
    )
    assert (plain.PatientSex, "PatientAge" in plain) == ("", False)
    assert (kept.PatientAge, kept.PatientSex, kept.PatientWeight) == ("045Y", "F", 70)
    assert kept.Allergies == "contrast"


def test_retain_device_and_institution() -> None:
    before = protected(original())
    device = deidentified(before, "retain-device-identity")
    place = deidentified(before, "retain-institution-identity")
    assert "InstitutionName" not in device
    assert place.InstitutionName == SECRETS["InstitutionName"]
    made = device.ContributingEquipmentSequence[0]
    assert made.StationName == SECRETS["StationName"]
    assert made.DeviceSerialNumber == SECRETS["DeviceSerialNumber"]
    assert "StationName" not in place.ContributingEquipmentSequence[0]


def test_clean_descriptors_leaves_words_that_name_no_one() -> None:
    before = protected(
        original(
            StudyDescription="MRI of Brain, Quillon 19610704 with contrast",
            SeriesDescription="sagittal head Zyxomma",
        )
    )
    after = deidentified(before, "clean-descriptors")
    assert after.StudyDescription == "MRI of Brain with contrast"
    assert after.SeriesDescription == "sagittal head [MIAD-MARK]"
    assert "StudyDescription" not in deidentified(before)


def test_clean_graphics_and_the_basic_profile_remove_graphics() -> None:
    state = followed(presentation_state(ct_image()))
    state.add_new(0x60003000, "OW", bytes(8))
    state.add_new(0x60004000, "LT", "Planted")
    for options in ((), ("clean-graphics",)):
        after = Deidentifier(options, UIDS).apply(state)
        assert "GraphicAnnotationSequence" not in after
        assert "GraphicLayerSequence" not in after
        assert not any(element.tag.group == 0x6000 for element in after)
        assert b"Planted" not in as_part10(after)


def test_content_goes_without_the_option_and_is_cleaned_with_it() -> None:
    before = followed(report(ct_image()))
    bare = deidentified(before)
    (item,) = bare.ContentSequence
    assert item.TextValue == "ANONYMIZED"
    after = deidentified(before, "clean-structured-content")
    assert b"Planted" not in as_part10(after)
    values = [element.value for element in after.iterall() if element.VR == "DS"]
    assert 3.5 in values
    assert len(after.ContentSequence) == len(before.ContentSequence)
    names = [str(e.value) for e in after.iterall() if e.keyword == "PersonName"]
    assert names == ["ANONYMIZED"]


def test_safe_private_attributes_are_kept_if_the_object_says_they_are_safe() -> None:
    dataset = protected(original())
    for creator, group in (("SAFE MAKER", 0x0041), ("OTHER", 0x0043)):
        block = dataset.private_block(group, creator, create=True)
        block.add_new(1, "DS", "1.5")
        block.add_new(2, "LO", SECRETS["PatientID"])
    said = Dataset()
    said.PrivateGroupReference, said.PrivateCreatorReference = 0x0041, "SAFE MAKER"
    said.BlockIdentifyingInformationStatus = "SAFE"
    dataset.PrivateDataElementCharacteristicsSequence = [said]
    kept = deidentified(dataset, "retain-safe-private")
    assert kept.private_block(0x0041, "SAFE MAKER")[1].value == 1.5
    assert SECRETS["PatientID"].encode() not in as_part10(kept)
    assert not any(element.tag.group == 0x0043 for element in kept)
    said.BlockIdentifyingInformationStatus = "MIXED"
    said.NonidentifyingPrivateElements = [2]
    mixed = deidentified(dataset, "retain-safe-private")
    assert 0x00411001 not in mixed
    assert 0x00411002 in mixed
    assert not any(e.tag.is_private for e in deidentified(dataset))


@pytest.mark.parametrize("kind", BUILT)
@pytest.mark.parametrize(
    "options", [(), ("clean-structured-content",), ("retain-uids",), EVERY]
)
def test_followers_stay_valid_and_lead_to_protected_objects(
    kind: str, options: tuple[Option, ...], tmp_path: Path
) -> None:
    image = ct_image()
    before = followed(BUILT[kind](image))
    own = referenced_uids(before)
    after = deidentified(before, *options, own=own)
    written = as_part10(after)
    assert errors_of(written, tmp_path) <= errors_of(as_part10(before), tmp_path)
    assert own
    assert own & uids_of(after)
    for secret in ("Planted", str(image.PatientID), str(image.PatientName)):
        assert secret.encode() not in written
    if "retain-uids" not in options:
        assert str(image.StudyInstanceUID).encode() not in written


def test_references_to_others_are_mapped() -> None:
    before = followed(key_object([ct_image()]))
    after = deidentified(before)
    assert not referenced_uids(before) & uids_of(after)


def test_segmentation_keeps_its_labels() -> None:
    before = followed(segmentation(ct_image()))
    after = deidentified(before, own=referenced_uids(before))
    as_part10(before), as_part10(after)
    assert np.array_equal(after.pixel_array, before.pixel_array)
    assert after.FrameOfReferenceUID != before.FrameOfReferenceUID


def test_documents_are_refused() -> None:
    dataset = protected(original())
    dataset.EncapsulatedDocument = b"%PDF"
    with pytest.raises(Unprotectable) as refusal:
        deidentified(dataset)
    assert refusal.value.reason == "not-deidentifiable"


def test_table_is_that_of_the_edition_named() -> None:
    assert EDITION.endswith("2026c")
    profile = Profile(())
    assert profile.action(0x00100010, "PN", capture=True) == "empty"
    assert profile.action(0x00080080, "LO", capture=True) == "remove"
    assert profile.action(0x00080080, "LO", capture=False) == "dummy"
    assert profile.action(0x60003000, "OW", capture=True) == "remove"
    assert profile.action(0x00280010, "US", capture=True) == "keep"
