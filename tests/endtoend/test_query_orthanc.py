"""C-FIND answers against those of a plain Orthanc that holds the originals.

DCMTK's findscu asks both; answers are compared attribute by attribute. Where
they differ, and why, is listed here and in docs/conformance.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import dcmread
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

from tests.endtoend.peers import dcmtk, orthanc
from tests.endtoend.seeded import RECOVERY, WORKSTATION, seeded
from tests.gateway.scp import encoded, example, send, small
from tests.gateway.test_retrieve_match import code, request_item

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import Dataset

    from gateway.dicom.rawstore import OutboundObject

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]

PLAIN = "PLAIN"
FILES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "liver.dcm",
    "JPEG2000.dcm",
    "reportsi.dcm",
    "test-SR.dcm",
    "US1_UNCI.dcm",
    "MR2_UNCI.dcm",
    "RG1_UNCI.dcm",
    "emri_small.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
)
# Said of every answer: who answers, how it is encoded, and that it is online
# (PS3.4 C.4.1.1.3.2; Orthanc does not say).
ABOUT_THE_ANSWER = {
    Tag(keyword)
    for keyword in ("SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability")
}
UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}


def crafted() -> list[OutboundObject]:
    """One study of two series with everything that queries ask for."""
    made = []
    for number in range(1, 5):
        series = 1 + number // 3
        dataset = small(f"1.2.3.{number}", SeriesInstanceUID=f"1.2.3.1.{series}")
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName = "Müller^Änne"
        dataset.PatientBirthDate, dataset.PatientSex = "19600229", "F"
        dataset.StudyDate, dataset.StudyTime = "20200315", "103045.120"
        dataset.AccessionNumber, dataset.StudyID = "A77", "S7"
        dataset.StudyDescription = "Head & neck"
        dataset.ReferringPhysicianName = "Referrer^Rita"
        dataset.InstitutionName = "St. Example"
        dataset.Modality = ("CT", "MR")[series - 1]
        dataset.SeriesNumber, dataset.InstanceNumber = series, number
        dataset.SeriesDescription = f"Series {series}"
        dataset.BodyPartExamined = "HEAD"
        dataset.StationName, dataset.ProtocolName = f"ROOM{series}", "Axial 5 mm"
        dataset.SeriesDate, dataset.SeriesTime = f"2020031{series}", "110000"
        dataset.OperatorsName = "Doe^Jane"
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20200315", f"1040{number}0"
        dataset.SliceLocation, dataset.ImageType = f"{number}.5", ["ORIGINAL", "AXIAL"]
        dataset.Rows, dataset.Columns = 128, 64
        dataset.ProcedureCodeSequence = Items([code("P1"), code("P2")])
        dataset.RequestAttributesSequence = Items(
            [request_item(f"R{series}", "S1"), request_item("R9", "S2")]
        )
        made.append(encoded(dataset))
    return made


@dataclass
class Nodes:
    """Both that are asked, and where answers are written."""

    directory: Path
    gateway_port: int
    orthanc_port: int
    asked: int = 0
    objects: list[OutboundObject] = field(default_factory=list)

    def both(
        self, level: str, keys: list[str]
    ) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
        """Answers of the gateway and of Orthanc, by unique key."""
        return (
            self._ask(level, keys, RECOVERY, self.gateway_port),
            self._ask(level, keys, PLAIN, self.orthanc_port),
        )

    def _ask(
        self, level: str, keys: list[str], called: str, port: int
    ) -> dict[str, Dataset]:
        self.asked += 1
        directory = self.directory / f"{self.asked}"
        directory.mkdir()
        options = [option for key in keys for option in ("-k", key)]
        model = "-P" if level == "PATIENT" else "-S"
        done = dcmtk(
            "findscu",
            *(model, "-aet", WORKSTATION, "-aec", called, "127.0.0.1", str(port)),
            *("-k", f"QueryRetrieveLevel={level}", *options, "-X"),
            cwd=directory,
        )
        assert done.returncode == 0, done.stderr
        found = [dcmread(path, force=True) for path in sorted(directory.iterdir())]
        return {str(match[UNIQUE[level]].value): match for match in found}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    directory = tmp_path_factory.mktemp("query")
    answers = directory / "answers"
    answers.mkdir()
    objects = [*(example(name) for name in FILES), *crafted()]
    modalities: dict[str, list[Any]] = {"me": [WORKSTATION, "127.0.0.1", 104]}
    with (
        orthanc(directory / "orthanc", PLAIN, modalities) as plain,
        seeded(directory, objects, protected_uids=[]) as held,
    ):
        for item in objects:
            assert send(plain.dicom_port, item, called=PLAIN) == [0x0000]
        yield Nodes(answers, held.recovery_port, plain.dicom_port, 0, objects)


def differences(ours: Dataset, theirs: Dataset) -> dict[str, tuple[object, object]]:
    """Attributes in which two answers differ, beyond those about the answer.

    A sequence that the object does not have comes empty from the gateway, as
    every key is to be answered (PS3.4 C.4.1.1.3.2), and not at all from Orthanc.
    """
    found = {}
    for tag in sorted({*ours.keys(), *theirs.keys()} - ABOUT_THE_ANSWER):
        if tag not in theirs and ours[tag].VR == "SQ" and not ours[tag].value:
            continue
        mine = ours[tag].value if tag in ours else None
        other = theirs[tag].value if tag in theirs else None
        if mine != other:
            found[ours[tag].keyword if tag in ours else str(tag)] = (mine, other)
    return found


PATIENT = ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"]
STUDY = [
    "StudyInstanceUID",
    *PATIENT,
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"),
    *("ReferringPhysicianName", "ModalitiesInStudy", "SOPClassesInStudy"),
    *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    *("InstitutionName", "PatientAge", "ProcedureCodeSequence"),
    *("NameOfPhysiciansReadingStudy", "AdmittingDiagnosesDescription"),
]
SERIES = [
    *("Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined"),
    *("StationName", "ProtocolName", "Manufacturer", "SeriesDate", "SeriesTime"),
    *("OperatorsName", "Laterality", "RequestAttributesSequence"),
    *("PerformedProcedureStepStartDate", "NumberOfSeriesRelatedInstances"),
    *("PatientName", "StudyDate", "FrameOfReferenceUID", "PerformingPhysicianName"),
]
IMAGE = [
    *("SOPClassUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated"),
    *("AcquisitionDate", "AcquisitionTime", "SliceLocation", "ImageType"),
    *("NumberOfFrames", "ImagePositionPatient", "PixelSpacing", "ContentDate"),
    *("RescaleSlope", "WindowCenter", "PhotometricInterpretation", "PatientName"),
    *("ReferencedImageSequence", "ConceptNameCodeSequence", "ImageComments"),
    *("AcquisitionNumber", "DerivationDescription", "ContentTemplateSequence"),
]


def assert_equal(
    ours: dict[str, Dataset], theirs: dict[str, Dataset], count: int | None = None
) -> None:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 0 if count is None else len(ours) == count
    for uid, match in ours.items():
        assert differences(match, theirs[uid]) == {}


# What is said, at every level


def test_patients_are_described_alike(nodes: Nodes) -> None:
    counts = [f"NumberOfPatientRelated{n}" for n in ("Studies", "Series", "Instances")]
    ours, theirs = nodes.both("PATIENT", [*PATIENT, *counts, "EthnicGroup"])
    # Patient ID is the unique key: who has none cannot be named or retrieved
    # (PS3.4 C.2.2.1.1). Orthanc puts all of them into one patient.
    assert theirs.pop("").PatientID == ""
    assert_equal(ours, theirs)


def test_studies_are_described_alike(nodes: Nodes) -> None:
    ours, theirs = nodes.both("STUDY", STUDY)
    assert_equal(ours, theirs)
    assert ours["1.2.3"].PatientName == "Müller^Änne"
    assert [str(c.CodeValue) for c in ours["1.2.3"].ProcedureCodeSequence] == [
        "P1",
        "P2",
    ]


def test_series_are_described_alike(nodes: Nodes) -> None:
    studies, _ = nodes.both("STUDY", ["StudyInstanceUID"])
    for study in studies:
        keys = [f"StudyInstanceUID={study}", "SeriesInstanceUID", *SERIES]
        assert_equal(*nodes.both("SERIES", keys))


def test_images_are_described_alike(nodes: Nodes) -> None:
    studies, _ = nodes.both("STUDY", ["StudyInstanceUID"])
    seen = 0
    for study in studies:
        above = f"StudyInstanceUID={study}"
        series, _ = nodes.both("SERIES", [above, "SeriesInstanceUID"])
        for uid in series:
            keys = [above, f"SeriesInstanceUID={uid}", "SOPInstanceUID", *IMAGE]
            ours, theirs = nodes.both("IMAGE", keys)
            assert_equal(ours, theirs)
            seen += len(ours)
    assert seen == len(nodes.objects)


# What matches


@pytest.mark.parametrize(
    "key",
    [
        # single value
        "PatientID=1CT1",
        "PatientID=1ct1",
        "PatientName=Müller^Änne",
        "PatientName=compressedsamples^ct1",
        "PatientSex=F",
        "StudyDate=20200315",
        "StudyTime=103045.120",
        "AccessionNumber=A77",
        "StudyDescription=Head & neck",
        "InstitutionName=St. Example",
        "InstitutionName=st. example",
        "ModalitiesInStudy=MR",
        # lists
        "StudyInstanceUID=1.2.3\\1.3.6.1.4.1.5962.1.2.1.20040119072730.12322\\1.2.9",
        "ModalitiesInStudy=CT\\SR",
        # universal
        "StudyDescription=",
        # wildcards
        "PatientName=compressed*",
        "PatientName=*^*",
        "PatientName=?ompressed*",
        "PatientID=*1",
        "PatientID=?CT?",
        "StudyDescription=*&*",
        "InstitutionName=St*",
        "InstitutionName=?t. Example",
        "ModalitiesInStudy=M*",
        # ranges
        "StudyDate=20040101-20041231",
        "StudyDate=20050101-",
        "StudyTime=100000-120000",
        "StudyTime=120000-",
        "PatientBirthDate=19600101-19601231",
    ],
)
def test_the_same_studies_match(nodes: Nodes, key: str) -> None:
    keyword = key.partition("=")[0]
    others = [k for k in ["StudyInstanceUID", *PATIENT, "StudyDate"] if k != keyword]
    charset = ["SpecificCharacterSet=ISO_IR 192"]
    ours, theirs = nodes.both("STUDY", [*charset, *others, key])
    assert_equal(ours, theirs, len(theirs))


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("Modality=CT", 1),
        ("Modality=C*", 1),
        ("Modality=CT\\MR", 2),
        ("SeriesNumber=2", 1),
        ("SeriesDescription=Series ?", 2),
        ("SeriesInstanceUID=1.2.3.1.1\\1.2.3.1.2", 2),
        ("StationName=ROOM1", 1),
        ("StationName=ROOM*", 2),
        ("ProtocolName=Axial 5 mm", 2),
        ("ProtocolName=Sagittal", 0),
        ("SeriesDate=20200312-20200331", 1),
        ("OperatorsName=doe^jane", 2),
    ],
)
def test_the_same_series_match(nodes: Nodes, key: str, count: int) -> None:
    keyword = key.partition("=")[0]
    others = [k for k in ("SeriesInstanceUID", *SERIES) if k != keyword]
    ours, theirs = nodes.both("SERIES", ["StudyInstanceUID=1.2.3", *others, key])
    assert_equal(ours, theirs, count)


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("SOPInstanceUID=1.2.3.1\\1.2.3.2\\1.2.3.3", 2),
        ("InstanceNumber=2", 1),
        ("AcquisitionDate=20200315", 2),
        ("AcquisitionDate=20200316-", 0),
        ("AcquisitionTime=104010-104015", 1),
        ("SliceLocation=1.5", 1),
        ("Rows=128", 2),
        ("Columns=128", 0),
        ("SOPClassUID=1.2.840.10008.5.1.4.1.1.2", 2),
    ],
)
def test_the_same_images_match(nodes: Nodes, key: str, count: int) -> None:
    keyword = key.partition("=")[0]
    above = ["StudyInstanceUID=1.2.3", "SeriesInstanceUID=1.2.3.1.1"]
    others = [k for k in ("SOPInstanceUID", *IMAGE) if k != keyword]
    ours, theirs = nodes.both("IMAGE", [*above, *others, key])
    assert_equal(ours, theirs, count)


# Where they differ, as the standard has it


def test_sequence_matching_is_done_here_and_ignored_there(nodes: Nodes) -> None:
    """PS3.4 C.2.2.2.6; Orthanc matches sequences of worklists only."""
    keys = [
        *("StudyInstanceUID=1.2.3", "SeriesInstanceUID"),
        "RequestAttributesSequence[0].RequestedProcedureID=R2",
        "RequestAttributesSequence[0].ScheduledProcedureStepID",
    ]
    ours, theirs = nodes.both("SERIES", keys)
    assert (len(ours), len(theirs)) == (1, 2)
    (item,) = ours["1.2.3.1.2"].RequestAttributesSequence
    whole = theirs["1.2.3.1.2"].RequestAttributesSequence[0]
    assert {e.keyword for e in item} == {
        "RequestedProcedureID",
        "ScheduledProcedureStepID",
    }
    assert all(item[e.tag] == whole[e.tag] for e in item)


def test_a_range_takes_no_empty_value(nodes: Nodes) -> None:
    """PS3.4 C.2.2.2.5; Orthanc compares text, and nothing comes before all."""
    ours, theirs = nodes.both("STUDY", ["StudyInstanceUID", "StudyDate=-20031231"])
    assert {uid for uid in theirs if theirs[uid].StudyDate} == ours.keys()
    assert theirs.keys() - ours.keys()


def test_keys_of_a_level_below_say_nothing_of_an_entity(nodes: Nodes) -> None:
    """A study has no one modality (PS3.4 C.6.2.1).

    Nor has it for Orthanc, unless it reads an object for another key: then it
    tells that of this one object.
    """
    keys = ["StudyInstanceUID=1.2.3", "Modality"]
    assert_equal(*nodes.both("STUDY", keys), 1)
    ours, theirs = nodes.both("STUDY", [*keys, "Rows"])
    assert differences(ours["1.2.3"], theirs["1.2.3"]) == {"Modality": ("", "CT")}


def test_the_syntax_an_object_is_held_in_is_told(nodes: Nodes) -> None:
    """Available Transfer Syntax UID (PS3.4 C.6.1.1.5.2); Orthanc leaves it empty."""
    keys = [
        *("StudyInstanceUID=1.2.3", "SeriesInstanceUID=1.2.3.1.1"),
        *("SOPInstanceUID=1.2.3.1", "AvailableTransferSyntaxUID"),
    ]
    ours, theirs = nodes.both("IMAGE", keys)
    assert ours["1.2.3.1"].AvailableTransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert not theirs["1.2.3.1"].AvailableTransferSyntaxUID
