"""DCMTK and Orthanc find and retrieve on both AE titles of a real process."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from gateway.demo.nodes import data_set_of
from tests.endtoend.peers import dcmtk, orthanc
from tests.endtoend.seeded import (
    ORTHANC,
    READER,
    RECEIVER,
    RECOVERY,
    WORKSTATION,
    Seeded,
    seeded,
)
from tests.gateway.scp import example
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import Dataset

    from tests.endtoend.peers import Orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]

# Two plain ones and a compressed one are protected, the report is not.
PROTECTED = ("CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm")
FILES = (*PROTECTED, "reportsi.dcm")


@dataclass(frozen=True)
class House:
    """The process under test, and an Orthanc that knows both its AE titles."""

    held: Seeded
    orthanc: Orthanc

    def end(self, called: str) -> list[str]:
        """Options of DCMTK's tools for one AE title."""
        calling = READER if called == RECEIVER else WORKSTATION
        port = (
            self.held.receiver_port if called == RECEIVER else self.held.recovery_port
        )
        return ["-aet", calling, "-aec", called, "127.0.0.1", str(port)]

    def expected(self, called: str) -> dict[str, bytes]:
        """UID and data set of everything that an AE title gives."""
        if called == RECEIVER:
            return {
                row.sop_instance_uid: data_set_of(self.held.protected_file(uid))
                for uid, row in self.held.protected.items()
            }
        return {
            uid: data_set_of(self.held.original_file(uid))
            for uid in self.held.originals
        }

    def studies(self, called: str) -> list[str]:
        rows = self.held.protected if called == RECEIVER else self.held.originals
        return sorted({row.study_instance_uid for row in rows.values()})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    objects = [example(name) for name in FILES]
    uids = [item.sop_instance_uid for item in objects[: len(PROTECTED)]]
    with (
        orthanc(directory / "orthanc", ORTHANC, {}) as node,
        seeded(directory, objects, uids, node.dicom_port) as held,
    ):
        for name, called, port in (
            ("protected", RECEIVER, held.receiver_port),
            ("originals", RECOVERY, held.recovery_port),
        ):
            node.call("PUT", f"/modalities/{name}", [called, "127.0.0.1", port])
        yield House(held, node)


both_ends = pytest.mark.parametrize("called", [RECEIVER, RECOVERY])


def written(directory: Path) -> dict[str, bytes]:
    """Data sets by the UID that their file says."""
    files = [path.read_bytes() for path in directory.iterdir() if path.is_file()]
    return {
        str(dcmread(BytesIO(part10)).SOPInstanceUID): data_set_of(part10)
        for part10 in files
    }


def findscu(house: House, called: str, directory: Path, *options: str) -> list[Dataset]:
    done = dcmtk("findscu", "-X", *options, *house.end(called), cwd=directory)
    assert done.returncode == 0, done.stderr
    found = sorted(directory.glob("rsp*.dcm"))
    return [dcmread(path, force=True) for path in found]


# DCMTK


@both_ends
def test_findscu_lists_what_the_ae_title_holds(
    house: House, called: str, tmp_path: Path
) -> None:
    found = findscu(
        house,
        called,
        tmp_path,
        *("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID"),
        *("-k", "NumberOfStudyRelatedInstances"),
    )
    assert sorted(str(m.StudyInstanceUID) for m in found) == house.studies(called)
    assert {str(m.RetrieveAETitle) for m in found} == {called}
    total = sum(int(m.NumberOfStudyRelatedInstances) for m in found)
    assert total == len(house.expected(called))


def test_findscu_of_an_original_uid_finds_nothing_among_protected_objects(
    house: House, tmp_path: Path
) -> None:
    uid, original = next(iter(house.held.originals.items()))
    keys = [
        *("-S", "-k", "QueryRetrieveLevel=IMAGE", "-k", f"SOPInstanceUID={uid}"),
        *("-k", f"StudyInstanceUID={original.study_instance_uid}"),
        *("-k", f"SeriesInstanceUID={original.series_instance_uid}"),
    ]
    assert findscu(house, RECEIVER, tmp_path, *keys) == []
    (match,) = findscu(house, RECOVERY, tmp_path, *keys)
    assert uid == match.SOPInstanceUID


@both_ends
def test_the_retired_model_is_declined(house: House, called: str) -> None:
    for tool in ("findscu", "getscu"):
        done = dcmtk(
            tool,
            *("-O", "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=1CT1"),
            *house.end(called),
        )
        assert done.returncode != 0
        assert "Presentation Contexts" in done.stdout + done.stderr


@both_ends
def test_movescu_gets_every_byte(house: House, called: str, tmp_path: Path) -> None:
    calling = READER if called == RECEIVER else WORKSTATION
    for study in house.studies(called):
        done = dcmtk(
            "movescu",
            *("-S", "-aem", calling, "--port", str(house.held.node_port), "+xa"),
            *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"),
            "--bit-preserving",  # with it, movescu heeds no output directory
            *house.end(called),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    assert written(tmp_path) == house.expected(called)


@both_ends
def test_getscu_gets_every_byte(house: House, called: str, tmp_path: Path) -> None:
    """Once for uncompressed objects, once for those in JPEG 2000."""
    for study in house.studies(called):
        for preferred in ("+xe", "+xi", "+xw"):
            dcmtk(
                "getscu",
                *("-S", "-k", "QueryRetrieveLevel=STUDY"),
                *("-k", f"StudyInstanceUID={study}"),
                *(preferred, "--bit-preserving", "-od", str(tmp_path)),
                *house.end(called),
            )
    assert written(tmp_path) == house.expected(called)


def test_getscu_counts_what_it_cannot_be_sent(house: House, tmp_path: Path) -> None:
    compressed = house.held.originals[example("JPEG2000.dcm").sop_instance_uid]
    done = dcmtk(
        "getscu",
        *("-d", "-S", "-k", "QueryRetrieveLevel=STUDY"),
        *("-k", f"StudyInstanceUID={compressed.study_instance_uid}"),
        *("+xi", "-od", str(tmp_path)),
        *house.end(RECOVERY),
    )
    said = done.stdout + done.stderr
    assert "Failed Suboperations          : 1" in said
    assert "0xa702: Refused: Out of resources" in said
    assert written(tmp_path) == {}


def test_a_reader_may_not_have_originals(house: House, tmp_path: Path) -> None:
    done = dcmtk(
        "getscu",
        *("-S", "-aet", READER, "-aec", RECOVERY),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3"),
        *("-od", str(tmp_path), "127.0.0.1", str(house.held.recovery_port)),
    )
    assert done.returncode != 0
    assert "Association Rejected" in done.stdout + done.stderr


# Orthanc as the node that asks


@pytest.mark.parametrize(
    ("modality", "called"), [("protected", RECEIVER), ("originals", RECOVERY)]
)
def test_orthanc_queries_and_retrieves(
    house: House, modality: str, called: str
) -> None:
    node = house.orthanc
    for identifier in node.get("/instances"):
        node.delete(f"/instances/{identifier}")
    body = {"Level": "Study", "Query": {"StudyInstanceUID": "", "PatientName": ""}}
    query = node.call("POST", f"/modalities/{modality}/query", body)
    answers = node.get(f"{query['Path']}/answers")
    assert len(answers) == len(house.studies(called))
    for number in answers:
        wanted = {"TargetAet": ORTHANC, "Synchronous": True}
        node.call("POST", f"{query['Path']}/answers/{number}/retrieve", wanted)
    expected = house.expected(called)
    wait_until(lambda: len(node.get("/instances")) == len(expected))
    got = {}
    for identifier in node.get("/instances"):
        file = dcmread(BytesIO(node.file(f"/instances/{identifier}/file")))
        got[str(file.SOPInstanceUID)] = file
    assert got.keys() == expected.keys()
    rows = house.held.protected if called == RECEIVER else house.held.originals
    for uid in rows:
        whole = (
            house.held.protected_file(uid)
            if called == RECEIVER
            else house.held.original_file(uid)
        )
        sent = dcmread(BytesIO(whole))
        # Orthanc writes data sets anew, so values are compared, not bytes.
        assert values(got[str(sent.SOPInstanceUID)]) == values(sent)


def values(dataset: Dataset) -> dict[int, object]:
    """Values by tag, without the group lengths that Orthanc writes no more."""
    return {e.tag: e.value for e in dataset if e.tag.element != 0}
