from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from tests.gateway.scp import (
    EXPLICIT,
    IMPLICIT,
    MODALITY,
    WORKSTATION,
    Gateway,
    associated,
    encoded,
    gateway,
    node,
    send,
    site,
    small,
)

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

OBJECTS = (
    {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20200101"},
    {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20200101"},
    {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20200101"},
    {"PatientID": "P2", "PatientName": "Müller^Änne", "StudyDate": "20210202"},
)
PLACES = (
    ("1", "1.1", "CT"),
    ("1", "1.1", "CT"),
    ("1", "1.2", "SR"),
    ("2", "2.1", "MR"),
)


def objects() -> list[Dataset]:
    made = []
    for number, (values, place) in enumerate(zip(OBJECTS, PLACES, strict=True), 1):
        study, series, modality = place
        dataset = small(f"1.2.3.{number}", **values)
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.StudyInstanceUID = f"1.5.{study}"
        dataset.SeriesInstanceUID = f"1.6.{series}"
        dataset.Modality = modality
        dataset.AccessionNumber = f"A{study}"
        dataset.StudyDescription = "Head"
        dataset.InstanceNumber = number
        made.append(dataset)
    return made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(site(tmp_path_factory.mktemp("find"))) as listening:
        statuses = send(listening.port, *(encoded(d) for d in objects()))
        assert statuses == [0x0000] * 4
        first = listening.index.instance("1.2.3.1")
        assert first is not None
        listening.protect(first, None)
        yield listening


def identifier(level: str, **keys: object) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def find(
    running: Gateway,
    query: Dataset,
    model: str = STUDY_ROOT,
    syntax: str = EXPLICIT,
    **options: Any,
) -> tuple[list[Dataset], int]:
    with associated(
        running.recovery_port,
        [(model, syntax)],
        calling=WORKSTATION,
        called="MIAD-RECOVERY",
        **options,
    ) as association:
        assert association.is_established
        return ask(association, query, model)


def ask(
    association: Association, query: Dataset, model: str = STUDY_ROOT
) -> tuple[list[Dataset], int]:
    answers = list(association.send_c_find(query, model))
    matches = [match for _, match in answers if match is not None]
    return matches, int(answers[-1][0].Status)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_study_is_described_as_asked(running: Gateway, syntax: str) -> None:
    query = identifier(
        "STUDY",
        StudyInstanceUID="1.5.1",
        PatientName="",
        PatientID="",
        StudyDate="",
        AccessionNumber="",
        StudyDescription="",
        ModalitiesInStudy="",
        SOPClassesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
    )
    (match,), status = find(running, query, syntax=syntax)
    assert status == 0x0000
    assert match.QueryRetrieveLevel == "STUDY"
    assert match.RetrieveAETitle == "MIAD-RECOVERY"
    assert match.InstanceAvailability == "ONLINE"
    assert (match.PatientID, match.PatientName) == ("P1", "Doe^Jane")
    assert (match.StudyDate, match.AccessionNumber) == ("20200101", "A1")
    assert match.StudyDescription == "Head"
    assert match.ModalitiesInStudy == ["CT", "SR"]
    assert match.SOPClassesInStudy == "1.2.840.10008.5.1.4.1.1.2"
    assert match.NumberOfStudyRelatedSeries == 2
    assert match.NumberOfStudyRelatedInstances == 3
    assert "SpecificCharacterSet" not in match


def test_names_beyond_ascii_come_as_utf_8(running: Gateway) -> None:
    query = identifier("STUDY", StudyInstanceUID="", PatientName="müller*")
    query.SpecificCharacterSet = "ISO_IR 100"
    (match,), _ = find(running, query)
    assert match.SpecificCharacterSet == "ISO_IR 192"
    assert match.PatientName == "Müller^Änne"


@pytest.mark.parametrize(
    ("keys", "studies"),
    [
        ({}, ["1.5.1", "1.5.2"]),
        ({"StudyInstanceUID": ["1.5.1", "1.5.2"]}, ["1.5.1", "1.5.2"]),
        ({"StudyInstanceUID": "1.5.9"}, []),
        ({"PatientName": "doe^*"}, ["1.5.1"]),
        ({"PatientName": "D?e^Jane"}, ["1.5.1"]),
        ({"PatientName": "*"}, ["1.5.1", "1.5.2"]),
        ({"PatientID": "P?"}, ["1.5.1", "1.5.2"]),
        ({"PatientID": "p1"}, []),
        ({"AccessionNumber": "A2"}, ["1.5.2"]),
        ({"StudyDate": "20200101-20201231"}, ["1.5.1"]),
        ({"StudyDate": "20200102-"}, ["1.5.2"]),
        ({"StudyDate": "-20200101"}, ["1.5.1"]),
        ({"ModalitiesInStudy": "SR"}, ["1.5.1"]),
    ],
)
def test_studies_are_matched(
    running: Gateway, keys: dict[str, object], studies: list[str]
) -> None:
    query = identifier("STUDY", **({"StudyInstanceUID": ""} | keys))
    matches, status = find(running, query)
    assert status == 0x0000
    assert [match.StudyInstanceUID for match in matches] == studies


def test_the_levels_lead_from_patient_to_image(running: Gateway) -> None:
    def found(query: Dataset, keyword: str) -> list[str]:
        matches, status = find(running, query, PATIENT_ROOT)
        assert status == 0x0000
        return [str(match[keyword].value) for match in matches]

    query = identifier("PATIENT", PatientID="", NumberOfPatientRelatedInstances="")
    assert found(query, "NumberOfPatientRelatedInstances") == ["3", "1"]
    query = identifier("STUDY", PatientID="P1", StudyInstanceUID="")
    assert found(query, "StudyInstanceUID") == ["1.5.1"]
    query = identifier(
        "SERIES", PatientID="P1", StudyInstanceUID="1.5.1", SeriesInstanceUID=""
    )
    assert found(query, "SeriesInstanceUID") == ["1.6.1.1", "1.6.1.2"]
    query.NumberOfSeriesRelatedInstances = None
    assert found(query, "NumberOfSeriesRelatedInstances") == ["2", "1"]
    query = identifier(
        "IMAGE",
        PatientID="P1",
        StudyInstanceUID="1.5.1",
        SeriesInstanceUID="1.6.1.1",
        SOPInstanceUID="",
        InstanceNumber="",
        SOPClassUID="",
    )
    assert found(query, "SOPInstanceUID") == ["1.2.3.1", "1.2.3.2"]


def test_protected_uids_find_the_original(running: Gateway) -> None:
    query = identifier(
        "IMAGE",
        StudyInstanceUID="2.25.3",
        SeriesInstanceUID="2.25.12",
        SOPInstanceUID="2.25.11",
    )
    (match,), status = find(running, query)
    assert status == 0x0000
    assert match.SOPInstanceUID == "1.2.3.1"
    assert match.StudyInstanceUID == "1.5.1"


def test_a_key_that_is_not_supported_is_said_to_be(running: Gateway) -> None:
    query = identifier("STUDY", StudyInstanceUID="1.5.1", InstitutionName="")
    query.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    with associated(
        running.recovery_port,
        [(STUDY_ROOT, EXPLICIT)],
        calling=WORKSTATION,
        called="MIAD-RECOVERY",
    ) as association:
        (status, match), (last, _) = association.send_c_find(query, STUDY_ROOT)
    assert match is not None
    assert (status.Status, last.Status) == (0xFF01, 0x0000)
    assert match.InstitutionName == ""


@pytest.mark.parametrize(
    ("query", "model"),
    [
        (identifier("PATIENT", PatientID=""), STUDY_ROOT),
        (identifier("FRAME", SOPInstanceUID=""), STUDY_ROOT),
        (identifier("", StudyInstanceUID=""), STUDY_ROOT),
        (identifier("STUDY", StudyInstanceUID=""), PATIENT_ROOT),
        (identifier("SERIES", SeriesInstanceUID="1.6.1.1"), STUDY_ROOT),
        (
            identifier("SERIES", StudyInstanceUID=["1.5.1", "1.5.2"]),
            STUDY_ROOT,
        ),
        (
            identifier("STUDY", PatientID="P*", StudyInstanceUID=""),
            PATIENT_ROOT,
        ),
    ],
)
def test_a_query_outside_the_model_is_refused(
    running: Gateway, query: Dataset, model: str
) -> None:
    before = len(running.audited("query", "refused"))
    matches, status = find(running, query, model)
    assert (matches, status) == ([], 0xA900)
    lines = running.audited("query", "refused")[before:]
    assert [line["status"] for line in lines] == ["0xA900"]
    assert lines[0]["calling_ae"] == WORKSTATION


def test_relational_queries_are_answered_where_negotiated(running: Gateway) -> None:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = STUDY_ROOT
    item.service_class_application_information = b"\x01"
    query = identifier("IMAGE", SOPInstanceUID="1.2.3.4", SeriesInstanceUID="")
    (match,), status = find(running, query, ext_neg=[item])
    assert status == 0x0000
    assert match.SeriesInstanceUID == "1.6.2.1"
    assert find(running, query) == ([], 0xA900)


def test_an_identifier_that_cannot_be_read_is_refused(running: Gateway) -> None:
    with associated(
        running.recovery_port,
        [(STUDY_ROOT, EXPLICIT)],
        calling=WORKSTATION,
        called="MIAD-RECOVERY",
    ) as association:
        from gateway.dicom import command
        from gateway.dicom.message import send_message

        context = association.accepted_contexts[0].context_id
        assert context is not None
        elements = [
            (command.AFFECTED_SOP_CLASS_UID, command.ui(STUDY_ROOT)),
            (command.COMMAND_FIELD, command.us(0x0020)),
            (command.MESSAGE_ID, command.us(7)),
            (command.PRIORITY, command.us(0)),
            (command.COMMAND_DATA_SET_TYPE, command.us(command.DATA_SET_PRESENT)),
        ]
        association._reactor_checkpoint.clear()
        send_message(association, context, elements, b"\x08\0\x52\0CS\x40\0STUDY ")
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer is not None
        assert answer.Status == 0xC000
        matches, status = ask(
            association, identifier("STUDY", StudyInstanceUID="1.5.2")
        )
        assert (len(matches), status) == (1, 0x0000)


def test_a_query_is_audited_without_patient_attributes(running: Gateway) -> None:
    before = len(running.audited("query", "success"))
    query = identifier(
        "STUDY", StudyInstanceUID="1.5.1", PatientName="Doe*", PatientID="P1"
    )
    find(running, query)
    (line,) = running.audited("query", "success")[before:]
    assert line["calling_ae"] == WORKSTATION
    assert line["peer_address"] == "127.0.0.1"
    assert line["StudyInstanceUID"] == ["1.5.1"]
    assert line["keys"] == ["PatientID", "PatientName", "StudyInstanceUID"]
    assert line["matches"] == 1
    assert "Doe" not in str(line)
    assert "P1" not in str(line)


def test_a_cancelled_query_ends_with_cancel(tmp_path: Path) -> None:
    with gateway(site(tmp_path)) as running:
        many = [encoded(small(f"1.2.3.{n}")) for n in range(40)]
        send(running.port, *many)
        query = identifier(
            "IMAGE",
            StudyInstanceUID="1.2.3",
            SeriesInstanceUID="1.2.3.1",
            SOPInstanceUID="",
        )
        # A peer with tiny PDUs takes long enough to change its mind.
        with associated(
            running.recovery_port,
            [(STUDY_ROOT, EXPLICIT)],
            calling=WORKSTATION,
            called="MIAD-RECOVERY",
            max_pdu=16,
        ) as association:
            statuses = []
            for status, _ in association.send_c_find(query, STUDY_ROOT, msg_id=5):
                if not statuses:
                    association.send_c_cancel(5, None, STUDY_ROOT)
                statuses.append(status.Status)
        assert statuses[-1] == 0xFE00
        assert len(statuses) < 40


# Who may ask


@pytest.mark.parametrize("calling", ["STRANGER", MODALITY])
def test_who_is_no_recovery_node_is_rejected(tmp_path: Path, calling: str) -> None:
    nodes = [
        node(MODALITY, "store"),
        node(WORKSTATION, "recover"),
        node("STRANGER", "recover", addresses=["192.0.2.1/32"]),
    ]
    with gateway(site(tmp_path, nodes=nodes)) as running:
        with associated(
            running.recovery_port,
            [(STUDY_ROOT, EXPLICIT)],
            calling=calling,
            called="MIAD-RECOVERY",
        ) as association:
            assert association.is_rejected
        (line,) = running.audited("association", "refused")
        assert (line["service"], line["calling_ae"]) == ("recover", calling)


def test_the_two_ae_titles_are_apart(running: Gateway) -> None:
    with associated(
        running.recovery_port,
        [(STUDY_ROOT, EXPLICIT)],
        calling=WORKSTATION,
        called="MIAD-GATEWAY",
    ) as association:
        assert association.is_rejected
    with associated(
        running.port, [(STUDY_ROOT, EXPLICIT), ("1.2.840.10008.1.1", EXPLICIT)]
    ) as association:
        assert len(association.accepted_contexts) == 1
