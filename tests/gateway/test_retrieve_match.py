"""Matching against data sets: every kind of PS3.4 C.2.2.2, and what is returned."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from gateway.dicom.retrieve_header import read_some
from gateway.dicom.retrieve_match import is_universal, matches
from tests.gateway.scp import (
    EXPLICIT,
    IMPLICIT,
    WORKSTATION,
    Gateway,
    associated,
    encoded,
    gateway,
    send,
    site,
    small,
)
from tests.gateway.test_find import BIG_ENDIAN, ask, find, identifier

STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def request_item(procedure: str, step: str) -> Dataset:
    item = Dataset()
    item.RequestedProcedureID = procedure
    item.ScheduledProcedureStepID = step
    item.ScheduledProtocolCodeSequence = Sequence([code(f"C{step}")])
    return item


def code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "99X"
    item.CodeMeaning = f"meaning of {value}"
    return item


def described() -> Dataset:
    dataset = small("1.2.3.4")
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.AcquisitionDate = "20200315"
    dataset.AcquisitionTime = "103045.12"
    dataset.AcquisitionDateTime = "20200315103045"
    dataset.OperatorsName = ["Doe^Jane", "Müller^Änne"]
    dataset.StationName = "SCAN[1]"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SliceLocation = "-12.50"
    dataset.Rows, dataset.Columns = 128, 64
    dataset.PixelRepresentation = 1
    dataset.add_new("SmallestImagePixelValue", "SS", -7)
    dataset.FrameOfReferenceUID = "1.2.9"
    dataset.RequestAttributesSequence = Sequence(
        [request_item("P1", "S1"), request_item("P2", "S2")]
    )
    return dataset


def key(**values: object) -> Dataset:
    keys = Dataset()
    for keyword, value in values.items():
        setattr(keys, keyword, value)
    return keys


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        # single value
        ({"StationName": "SCAN[1]"}, True),
        ({"StationName": "scan[1]"}, False),
        ({"Rows": 128}, True),
        ({"Rows": 64}, False),
        ({"SliceLocation": "-12.5"}, True),
        ({"SliceLocation": "12.5"}, False),
        ({"ImageType": "AXIAL"}, True),
        ({"ImageType": "AXIA"}, False),
        ({"PatientComments": "x"}, False),
        # several values
        ({"FrameOfReferenceUID": ["1.2.8", "1.2.9"]}, True),
        ({"FrameOfReferenceUID": ["1.2.8", "1.2.90"]}, False),
        ({"ImageType": ["LOCALIZER", "AXIAL"]}, True),
        # universal
        ({"StationName": ""}, True),
        ({"StationName": "*"}, True),
        ({"PatientComments": ""}, True),
        # wildcards
        ({"StationName": "SCAN*"}, True),
        ({"StationName": "*[1]"}, True),
        ({"StationName": "SCAN?1?"}, True),
        ({"StationName": "SCAN?"}, False),
        ({"OperatorsName": "doe*"}, True),
        ({"OperatorsName": "müller^änne"}, True),
        ({"OperatorsName": "nobody*"}, False),
        # ranges
        ({"AcquisitionDate": "20200315"}, True),
        ({"AcquisitionDate": "20200316"}, False),
        ({"AcquisitionDate": "20200101-20200315"}, True),
        ({"AcquisitionDate": "20200316-"}, False),
        ({"AcquisitionDate": "-20200314"}, False),
        ({"AcquisitionTime": "1030"}, True),
        ({"AcquisitionTime": "1000-1030"}, True),
        ({"AcquisitionTime": "103046-"}, False),
        ({"AcquisitionDateTime": "20200315-20200316"}, True),
        ({"ContentDate": "-20991231"}, False),
    ],
)
def test_keys_match_as_the_standard_says(
    keys: dict[str, object], expected: bool
) -> None:
    header = read_some(BytesIO(bytes(encoded(described()).data)), UID(EXPLICIT))
    assert matches(key(**keys), header) is expected


def request_key(**values: object) -> Dataset:
    return key(RequestAttributesSequence=Sequence([key(**values)]))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (key(RequestAttributesSequence=Sequence()), True),
        (request_key(), True),
        (request_key(RequestedProcedureID=""), True),
        (request_key(RequestedProcedureID="P2"), True),
        (request_key(RequestedProcedureID="P3"), False),
        (request_key(RequestedProcedureID="P*", ScheduledProcedureStepID="S2"), True),
        # both in one item, not in two
        (request_key(RequestedProcedureID="P1", ScheduledProcedureStepID="S2"), False),
        (
            request_key(ScheduledProtocolCodeSequence=Sequence([key(CodeValue="CS2")])),
            True,
        ),
        (
            request_key(ScheduledProtocolCodeSequence=Sequence([key(CodeValue="CS3")])),
            False,
        ),
        (key(ProcedureCodeSequence=Sequence([key(CodeValue="X")])), False),
    ],
)
def test_sequences_match_in_one_item(keys: Dataset, expected: bool) -> None:
    assert matches(keys, described()) is expected


def test_what_matches_everything_is_known() -> None:
    universal = [request_key(), request_key(RequestedProcedureID="*"), key(Rows=None)]
    particular = [request_key(RequestedProcedureID="P1"), key(StationName="?")]
    assert all(is_universal(k) for keys in universal for k in keys)
    assert not any(is_universal(k) for keys in particular for k in keys)


# Over the network


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(site(tmp_path_factory.mktemp("header"))) as listening:
        other = small("1.2.3.5", SeriesInstanceUID="1.2.3.2", StationName="OTHER")
        wrong = small("1.2.3.6", SeriesInstanceUID="1.2.3.3", StationName="THIRD")
        wrong.add_new("SliceLocation", "LO", "not a number")
        objects = [encoded(d) for d in (described(), other)]
        objects.append(encoded(wrong, IMPLICIT))
        assert send(listening.port, *objects) == [0x0000] * 3
        yield listening


def series(**keys: object) -> Dataset:
    return identifier(
        "SERIES", **({"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": ""} | keys)
    )


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_attributes_beyond_the_index_are_matched_and_returned(
    running: Gateway, syntax: str
) -> None:
    query = series(
        StationName="SCAN*",
        OperatorsName="",
        SliceLocation="",
        Rows=None,
        SmallestImagePixelValue=None,
        PatientComments="",
        FrameOfReferenceUID="",
    )
    (match,), status = find(running, query, syntax=syntax)
    assert status == 0x0000
    assert match.SeriesInstanceUID == "1.2.3.1"
    assert list(match.OperatorsName) == ["Doe^Jane", "Müller^Änne"]
    assert match.SpecificCharacterSet == "ISO_IR 192"
    assert (match.Rows, match.SliceLocation) == (128, -12.5)
    if syntax != IMPLICIT:
        assert match.SmallestImagePixelValue == -7
    assert match.PatientComments == ""
    assert match.FrameOfReferenceUID == "1.2.9"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_of_a_sequence_what_was_asked_is_returned(
    running: Gateway, syntax: str
) -> None:
    item = key(ScheduledProcedureStepID="S2", RequestedProcedureID="")
    query = series(RequestAttributesSequence=Sequence([item]))
    (match,), _ = find(running, query, syntax=syntax)
    (found,) = match.RequestAttributesSequence
    assert found.ScheduledProcedureStepID == "S2"
    assert found.RequestedProcedureID == "P2"
    assert "ScheduledProtocolCodeSequence" not in found


def test_of_a_sequence_without_items_all_is_returned(running: Gateway) -> None:
    query = series(SeriesInstanceUID="1.2.3.1", RequestAttributesSequence=Sequence())
    (match,), _ = find(running, query)
    assert match.RequestAttributesSequence == described().RequestAttributesSequence


def test_a_value_that_its_vr_forbids_is_returned_as_it_is(running: Gateway) -> None:
    query = series(SeriesInstanceUID="1.2.3.3", SliceLocation="", StationName="")
    (match,), status = find(running, query)
    assert status == 0x0000
    assert match.StationName == "THIRD"
    assert str(match.SliceLocation) == "not a number"


def test_keys_of_the_header_are_supported_ones(running: Gateway) -> None:
    query = series(SeriesInstanceUID="1.2.3.1", StationName="")
    with associated(
        running.recovery_port, [(STUDY_FIND, EXPLICIT)], WORKSTATION, "MIAD-RECOVERY"
    ) as association:
        (status, _), _last = association.send_c_find(query, STUDY_FIND)
        query.add_new("PixelData", "OW", b"")
        (bulk, _), _last = association.send_c_find(query, STUDY_FIND)
    assert (status.Status, bulk.Status) == (0xFF00, 0xFF01)


def test_a_file_that_is_gone_leaves_its_attributes_unknown(running: Gateway) -> None:
    instance = running.index.instance("1.2.3.5")
    assert instance is not None
    path = running.store.path_of(instance.path)
    hidden = path.rename(path.with_suffix(".hidden"))
    try:
        query = series(SeriesInstanceUID="1.2.3.2", StationName="")
        (match,), _ = find(running, query)
        assert match.StationName == ""
        query.StationName = "OTHER"
        assert find(running, query) == ([], 0x0000)
    finally:
        hidden.rename(path)


def test_matching_on_a_header_is_audited_by_keyword(running: Gateway) -> None:
    before = len(running.audited("query", "success"))
    with associated(
        running.recovery_port, [(STUDY_FIND, EXPLICIT)], WORKSTATION, "MIAD-RECOVERY"
    ) as association:
        ask(association, series(OperatorsName="Doe*"))
    (line,) = running.audited("query", "success")[before:]
    assert line["keys"] == ["OperatorsName", "StudyInstanceUID"]
    assert line["candidates"] == 3
    assert "Doe" not in str(line)


def test_many_ask_at_once_and_all_get_the_same(running: Gateway) -> None:
    """What breaks the standard is answered as it is, however many are asking."""
    query = series(SliceLocation="", StationName="", RequestAttributesSequence=[])

    def asked(_number: int) -> list[str]:
        matches, status = find(running, query)
        assert status == 0x0000
        return [str(match) for match in matches]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(asked, range(24)))
    assert len(answers[0]) == 3
    assert all(answer == answers[0] for answer in answers)
