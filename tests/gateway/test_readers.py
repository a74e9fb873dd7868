"""The receiver's AE title as query/retrieve SCP: protected objects only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID
from sqlalchemy import insert

from gateway.errors import InvalidSeal
from gateway.store.rows import Instance, Protected
from gateway.store.schema import protected as protected_rows
from gateway.vault.vault import open_vault
from tests.gateway.doubles import RecordsDouble
from tests.gateway.scp import (
    ARCHIVE,
    CT_IMAGE,
    EXPLICIT,
    MODALITY,
    WORKSTATION,
    Archive,
    Gateway,
    associated,
    example,
    gateway,
    move_place,
    node,
    send,
    site,
    small,
)
from tests.gateway.seeding import protect
from tests.gateway.stored import content_of, put_in_place
from tests.gateway.test_find import ask, identifier
from tests.gateway.test_move import counts

READER = "READER"
BOTH = "BOTH"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NAMES = ("CT_small.dcm", "MR_small.dcm")


def sections(archive_port: int) -> dict[str, Any]:
    return {
        "nodes": [
            node(MODALITY, "store"),
            node(BOTH, "store", "read"),
            node(READER, "read", moves=[ARCHIVE]),
            node(WORKSTATION, "recover"),
        ],
        "recovery": {"destinations": [move_place(ARCHIVE, archive_port)]},
    }


@dataclass(frozen=True)
class Seeded:
    """A gateway with one protected CT and an MR that is not protected."""

    running: Gateway
    archive: Archive
    original: Instance
    protected: Protected
    unprotected: Instance


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    directory = tmp_path_factory.mktemp("readers")
    vault = open_vault(directory / "vault", directory / "master.key")
    archive = Archive()
    with (
        archive.listening([(SECONDARY_CAPTURE, EXPLICIT)]),
        gateway(site(directory, **sections(archive.port)), vault) as running,
    ):
        instances = []
        for name in NAMES:
            item = example(name)
            assert send(running.port, item) == [0x0000]
            instance = running.index.instance(item.sop_instance_uid)
            assert instance is not None
            instances.append(instance)
        row = protect(
            instances[0],
            running.store,
            running.index,
            vault,
            PatientName="Nobody^At All",
            StationName="GATEWAY",
        )
        yield Seeded(running, archive, instances[0], row, instances[1])


def find(
    seeded: Seeded, query: Dataset, model: str = STUDY_FIND
) -> tuple[list[Dataset], int]:
    with associated(seeded.running.port, [(model, EXPLICIT)], READER) as association:
        assert association.is_established
        return ask(association, query, model)


def move(seeded: Seeded, query: Dataset, calling: str = READER) -> list[Dataset]:
    contexts = [(STUDY_MOVE, EXPLICIT)]
    with associated(seeded.running.port, contexts, calling) as association:
        assert association.is_established
        answers = list(association.send_c_move(query, ARCHIVE, STUDY_MOVE))
    return [status for status, _ in answers]


# What is found


def test_protected_objects_are_found_as_they_are(seeded: Seeded) -> None:
    stored = dcmread(BytesIO(content_of(seeded.running.store, seeded.protected.path)))
    query = identifier(
        "IMAGE",
        StudyInstanceUID=stored.StudyInstanceUID,
        SeriesInstanceUID=stored.SeriesInstanceUID,
        SOPInstanceUID="",
        SOPClassUID="",
        PatientName="",
        Modality="",
        StationName="",
        Rows=None,
        DerivationCodeSequence=[],
        AvailableTransferSyntaxUID="",
    )
    (match,), status = find(seeded, query)
    assert status == 0x0000
    assert match.RetrieveAETitle == "MIAD-GATEWAY"
    assert match.SOPInstanceUID == stored.SOPInstanceUID
    assert match.SOPClassUID == SECONDARY_CAPTURE
    assert match.AvailableTransferSyntaxUID == EXPLICIT
    assert (match.PatientName, match.StationName) == ("Nobody^At All", "GATEWAY")
    assert (match.Modality, match.Rows) == ("CT", stored.Rows)
    assert match.DerivationCodeSequence == stored.DerivationCodeSequence


def test_only_what_has_protected_objects_is_there(seeded: Seeded) -> None:
    query = identifier(
        "STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances="", PatientName=""
    )
    (match,), _ = find(seeded, query)
    assert match.StudyInstanceUID == seeded.protected.study_instance_uid
    assert match.NumberOfStudyRelatedInstances == 1
    assert match.PatientName == "Nobody^At All"


@pytest.mark.parametrize(
    "keys",
    [
        {"SOPInstanceUID": "sop_instance_uid"},
        {"SeriesInstanceUID": "series_instance_uid"},
    ],
)
def test_original_uids_find_and_move_nothing(
    seeded: Seeded, keys: dict[str, str]
) -> None:
    original = seeded.original
    values = {keyword: getattr(original, name) for keyword, name in keys.items()}
    level = "IMAGE" if "SOPInstanceUID" in keys else "SERIES"
    query = identifier(
        level, **({"StudyInstanceUID": original.study_instance_uid} | values)
    )
    if level == "IMAGE":
        query.SeriesInstanceUID = seeded.protected.series_instance_uid
    assert find(seeded, query) == ([], 0x0000)
    before = len(seeded.archive.arrivals)
    assert counts(move(seeded, query)[-1]) == (0x0000, 0, 0, 0)
    assert len(seeded.archive.arrivals) == before


def test_original_attributes_match_nothing(seeded: Seeded) -> None:
    original = seeded.original
    query = identifier("PATIENT", PatientName=original.patient_name, PatientID="")
    assert find(seeded, query, PATIENT_FIND) == ([], 0x0000)
    query.PatientName = "nobody*"
    (match,), _ = find(seeded, query, PATIENT_FIND)
    assert match.PatientID == seeded.protected.patient_id


def test_the_recovery_ae_shows_the_original_for_the_protected_uid(
    seeded: Seeded,
) -> None:
    query = identifier(
        "IMAGE",
        StudyInstanceUID=seeded.protected.study_instance_uid,
        SeriesInstanceUID=seeded.protected.series_instance_uid,
        SOPInstanceUID=seeded.protected.sop_instance_uid,
        PatientName="",
        StationName="",
    )
    with associated(
        seeded.running.recovery_port,
        [(STUDY_FIND, EXPLICIT)],
        WORKSTATION,
        "MIAD-RECOVERY",
    ) as association:
        (match,), _ = ask(association, query)
    original = dcmread(BytesIO(content_of(seeded.running.store, seeded.original.path)))
    assert match.SOPInstanceUID == original.SOPInstanceUID
    assert match.SeriesInstanceUID == original.SeriesInstanceUID
    assert match.PatientName == original.PatientName
    assert match.StationName == original.StationName
    assert seeded.protected.sop_instance_uid not in str(match)


# What is sent


def test_a_protected_object_is_sent_as_it_is_stored(seeded: Seeded) -> None:
    seeded.archive.arrivals.clear()
    query = identifier("STUDY", StudyInstanceUID=seeded.protected.study_instance_uid)
    statuses = move(seeded, query)
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)
    (arrival,) = seeded.archive.arrivals
    stored, _ = seeded.running.store.read_data_set(seeded.protected.path)
    assert arrival.data == stored
    assert arrival.sop_instance_uid == seeded.protected.sop_instance_uid
    assert (arrival.calling_ae, arrival.originator) == ("MIAD-GATEWAY", READER)
    (line,) = seeded.running.audited("move", "success")[-1:]
    assert (line["called_ae"], line["instances"]) == ("MIAD-GATEWAY", 1)


def test_a_reader_without_destinations_sends_to_nobody_else(seeded: Seeded) -> None:
    query = identifier("STUDY", StudyInstanceUID=seeded.protected.study_instance_uid)
    (status,) = move(seeded, query, BOTH)
    assert status.Status == 0x0124


@pytest.mark.parametrize("damage", ["file", "record"])
def test_what_does_not_verify_is_not_sent(tmp_path: Path, damage: str) -> None:
    archive, records = Archive(), RecordsDouble()
    with (
        archive.listening([(SECONDARY_CAPTURE, EXPLICIT)]),
        gateway(site(tmp_path, **sections(archive.port)), records) as running,
    ):
        item = example("CT_small.dcm")
        send(running.port, item)
        instance = running.index.instance(item.sop_instance_uid)
        assert instance is not None
        vault = open_vault(tmp_path / "vault", tmp_path / "master.key")
        row = protect(instance, running.store, running.index, vault)
        if damage == "file":
            content = content_of(running.store, row.path)
            put_in_place(running.store, row.path, content[:-1] + b"X")
        else:
            records.failure = InvalidSeal("does not open")
        seeded = Seeded(running, archive, instance, row, instance)
        query = identifier("STUDY", StudyInstanceUID=row.study_instance_uid)
        statuses = move(seeded, query)
        assert counts(statuses[-1]) == (0xA702, 0, 1, 0)
        (line,) = running.audited("recover", "failure")
        assert line["sop_instance_uid"] == row.sop_instance_uid
        assert line["error"] == "UnprotectedExport"
    assert archive.arrivals == []


def test_every_part_of_an_original_is_listed_and_counted(tmp_path: Path) -> None:
    with gateway(site(tmp_path, **sections(1))) as running:
        item = example("CT_small.dcm")
        send(running.port, item)
        instance = running.index.instance(item.sop_instance_uid)
        assert instance is not None
        vault = open_vault(tmp_path / "vault", tmp_path / "master.key")
        first = protect(instance, running.store, running.index, vault)
        add_part(running, first)
        seeded = Seeded(running, Archive(), instance, first, instance)
        query = identifier(
            "STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances=""
        )
        (match,), _ = find(seeded, query)
        assert match.NumberOfStudyRelatedInstances == 2


def add_part(running: Gateway, first: Protected) -> None:
    """Index a second object of the same original, as where frames are split."""
    values = vars(first) | {"part": 1, "sop_instance_uid": "2.25.999"}
    del values["id"]
    with running.index._database.write() as connection:
        connection.execute(insert(protected_rows).values(**values))


# Who may do what


@pytest.mark.parametrize(
    ("calling", "accepted"),
    [
        (MODALITY, {CT_IMAGE}),
        (READER, {STUDY_FIND, STUDY_MOVE}),
        (BOTH, {CT_IMAGE, STUDY_FIND, STUDY_MOVE}),
    ],
)
def test_a_node_gets_the_contexts_of_its_purposes(
    seeded: Seeded, calling: str, accepted: set[str]
) -> None:
    proposed = {CT_IMAGE, STUDY_FIND, STUDY_MOVE}
    before = len(seeded.running.audited("contexts", "refused"))
    contexts = [(uid, EXPLICIT) for uid in sorted(proposed)]
    with associated(seeded.running.port, contexts, calling) as association:
        found = {str(c.abstract_syntax) for c in association.accepted_contexts}
    assert found == accepted
    lines = seeded.running.audited("contexts", "refused")[before:]
    declined = [set(line["sop_classes"]) for line in lines]
    assert declined == ([proposed - accepted] if proposed - accepted else [])
    assert all(line["calling_ae"] == calling for line in lines)


def test_who_does_both_stores_and_asks_on_one_association(seeded: Seeded) -> None:
    item = small("1.2.3.77", StudyInstanceUID="1.2.9")
    contexts = [(CT_IMAGE, EXPLICIT), (STUDY_FIND, EXPLICIT)]
    with associated(seeded.running.port, contexts, BOTH) as association:
        item.file_meta = Dataset()
        item.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        assert association.send_c_store(item).Status == 0x0000
        query = identifier("STUDY", StudyInstanceUID="1.2.9")
        assert ask(association, query) == ([], 0x0000)  # it is not protected
