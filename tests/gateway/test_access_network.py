"""A granted node recovers exactly its studies and none other, over the network.

Real files of several patients, studies and series; found and retrieved by
original and by protected UIDs; and nothing more once the grant is revoked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pynetdicom import build_role, evt
from pynetdicom.association import Association

from gateway.access.grants import grant_of
from gateway.dicom.rawstore import OutboundObject
from gateway.vault.vault import Vault, open_vault
from tests.gateway.scp import (
    ARCHIVE,
    EXPLICIT,
    MODALITY,
    WORKSTATION,
    Archive,
    Gateway,
    access_of,
    associated,
    encoded,
    example,
    gateway,
    move_place,
    node,
    send,
    site,
)
from tests.gateway.seeding import protect
from tests.gateway.test_find import ask, identifier
from tests.gateway.test_move import counts

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
PATIENT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
NOT_AUTHORISED = 0x0124
FILES = ("CT_small.dcm", "MR_small.dcm", "US1_J2KR.dcm", "693_J2KI.dcm")
GRANTED = FILES[:2]
OTHER = "OTHERSTATION"


@dataclass
class Ward:
    """A gateway with studies of four patients, of which two are granted.

    ``uids`` are the originals' by file, ``made`` those of the protected ones.
    """

    running: Gateway
    archive: Archive
    items: dict[str, OutboundObject] = field(default_factory=dict)
    heads: dict[str, Dataset] = field(default_factory=dict)
    protected: dict[str, Dataset] = field(default_factory=dict)

    def uid(self, name: str) -> str:
        return self.items[name].sop_instance_uid

    def rows(self, query: Dataset, model: str = FIND) -> list[Dataset]:
        contexts = [(model, EXPLICIT)]
        with associated(
            self.running.recovery_port, contexts, WORKSTATION, "MIAD-RECOVERY"
        ) as association:
            matches, status = ask(association, query, model)
        assert status == 0x0000
        return matches


def contexts() -> list[tuple[str, str]]:
    items = [example(name) for name in FILES]
    return [(item.sop_class_uid, item.transfer_syntax_uid) for item in items]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """Two more series in the CT's study: one from elsewhere, one granted."""
    directory = tmp_path_factory.mktemp("granted")
    vault = open_vault(directory / "vault", directory / "master.key")
    archive = Archive()
    heads = [_head(name) for name in GRANTED]
    patients = " || ".join(f'PatientID == "{head.PatientID}"' for head in heads)
    with archive.listening(contexts()):
        places = [move_place(t, archive.port) for t in (ARCHIVE, WORKSTATION, OTHER)]
        settings = site(
            directory,
            nodes=[
                node(MODALITY, "store"),
                node("ELSEWHERE", "store"),
                node(WORKSTATION, "recover"),
                node(OTHER, "recover"),
            ],
            grants=[
                {
                    "name": "two",
                    "nodes": ["workstation"],
                    "when": f'({patients}) && calling_ae == "{MODALITY}"',
                    "move_destinations": [WORKSTATION, ARCHIVE],
                }
            ],
            recovery={"destinations": places},
        )
        with gateway(settings, vault) as running:
            yield _fill(Ward(running, archive), vault)


def _head(name: str) -> Dataset:
    path = get_testdata_file(name, download=False)
    return dcmread(str(path), stop_before_pixels=True)


def _fill(ward: Ward, vault: Vault) -> Ward:
    running = ward.running
    for name in FILES:
        ward.items[name], ward.heads[name] = example(name), _head(name)
        assert send(running.port, ward.items[name]) == [0x0000]
        if name in PROTECTED:
            instance = running.index.instance(ward.uid(name))
            assert instance is not None
            row = protect(
                instance,
                running.store,
                running.index,
                vault,
                StudyInstanceUID=f"2.25.77{len(ward.items)}",
            )
            ward.protected[name] = _keys(row)
    for name, calling in (("second", MODALITY), ("foreign", "ELSEWHERE")):
        dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        dataset.SOPInstanceUID += f".{len(ward.items)}"
        dataset.SeriesInstanceUID += f".{len(ward.items)}"
        dataset.Modality = "SR" if name == "foreign" else "CT"
        ward.items[name], ward.heads[name] = encoded(dataset), dataset
        assert send(running.port, ward.items[name], calling=calling) == [0x0000]
    return ward


def _keys(row: Any) -> Dataset:
    keys = Dataset()
    keys.StudyInstanceUID = row.study_instance_uid
    keys.SeriesInstanceUID = row.series_instance_uid
    keys.SOPInstanceUID = row.sop_instance_uid
    return keys


MINE = ("CT_small.dcm", "MR_small.dcm", "second")
"""What the workstation may have."""
NOT_MINE = ("US1_J2KR.dcm", "693_J2KI.dcm", "foreign")


# C-FIND


def test_patients_and_studies_are_those_granted(ward: Ward) -> None:
    patients = ward.rows(
        identifier("PATIENT", PatientID="", NumberOfPatientRelatedInstances=""),
        PATIENT_FIND,
    )
    ct_patient, mr_patient = (ward.heads[name].PatientID for name in GRANTED)
    objects = {p.PatientID: int(p.NumberOfPatientRelatedInstances) for p in patients}
    assert objects == {ct_patient: 2, mr_patient: 1}
    studies = ward.rows(
        identifier(
            "STUDY",
            StudyInstanceUID="",
            ModalitiesInStudy="",
            NumberOfStudyRelatedSeries="",
            NumberOfStudyRelatedInstances="",
            StationName="",
        )
    )
    found = {s.StudyInstanceUID: s for s in studies}
    assert set(found) == {ward.heads[name].StudyInstanceUID for name in GRANTED}
    ct = found[ward.heads["CT_small.dcm"].StudyInstanceUID]
    assert ct.ModalitiesInStudy == "CT"
    assert (ct.NumberOfStudyRelatedSeries, ct.NumberOfStudyRelatedInstances) == (2, 2)


PROTECTED = ("CT_small.dcm", "693_J2KI.dcm")
BY = [(name, "original") for name in (*MINE, *NOT_MINE)]
BY += [(name, "protected") for name in PROTECTED]


@pytest.mark.parametrize(("name", "by"), BY)
def test_series_and_images_are_those_granted(ward: Ward, name: str, by: str) -> None:
    keys = (ward.heads if by == "original" else ward.protected)[name]
    above = {"StudyInstanceUID": keys.StudyInstanceUID}
    series = ward.rows(
        identifier("SERIES", **above, SeriesInstanceUID=keys.SeriesInstanceUID)
    )
    above["SeriesInstanceUID"] = keys.SeriesInstanceUID
    images = ward.rows(identifier("IMAGE", **above, SOPInstanceUID=""))
    if name in NOT_MINE:
        assert (series, images) == ([], [])
        return
    assert [s.SeriesInstanceUID for s in series] == [ward.heads[name].SeriesInstanceUID]
    assert [i.SOPInstanceUID for i in images] == [ward.uid(name)]


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "StudyDescription"])
def test_no_key_finds_what_is_not_granted(ward: Ward, keyword: str) -> None:
    for name in ("US1_J2KR.dcm", "693_J2KI.dcm"):
        value = str(ward.heads[name].get(keyword, "")) or "*?*"
        query = identifier("STUDY", StudyInstanceUID="", **{keyword: value})
        uids = {row.StudyInstanceUID for row in ward.rows(query)}
        assert ward.heads[name].StudyInstanceUID not in uids


# C-MOVE, C-GET

Retrieve = Callable[[Ward, Dataset], tuple[Dataset, dict[str, bytes]]]


def moved(
    ward: Ward, query: Dataset, destination: str = ARCHIVE, calling: str = WORKSTATION
) -> tuple[Dataset, dict[str, bytes]]:
    """Ask with C-MOVE; the final status and what has arrived."""
    ward.archive.arrivals.clear()
    model = PATIENT_MOVE if query.QueryRetrieveLevel == "PATIENT" else MOVE
    with associated(
        ward.running.recovery_port, [(model, EXPLICIT)], calling, "MIAD-RECOVERY"
    ) as association:
        answers = list(association.send_c_move(query, destination, model))
    arrived = {a.sop_instance_uid: a.data for a in ward.archive.arrivals}
    return answers[-1][0], arrived


def got(ward: Ward, query: Dataset) -> tuple[Dataset, dict[str, bytes]]:
    """Ask with C-GET; the final status and what has arrived."""
    arrived: dict[str, bytes] = {}
    with getting(ward.running, arrived) as association:
        return fetch(association, query), arrived


def fetch(association: Association, query: Dataset) -> Dataset:
    model = GET if query.QueryRetrieveLevel != "PATIENT" else PATIENT_GET
    return list(association.send_c_get(query, model))[-1][0]


PATIENT_GET = "1.2.840.10008.5.1.4.1.2.1.3"


def getting(running: Gateway, arrived: dict[str, bytes], **options: Any) -> Any:
    def keep(event: evt.Event) -> int:
        request = event.request
        arrived[str(request.AffectedSOPInstanceUID)] = request.DataSet.getvalue()
        return 0

    roles = [build_role(uid, scp_role=True) for uid in dict(contexts())]
    return associated(
        running.recovery_port,
        [(GET, EXPLICIT), (PATIENT_GET, EXPLICIT), *contexts()],
        WORKSTATION,
        "MIAD-RECOVERY",
        ext_neg=roles,
        evt_handlers=[(evt.EVT_C_STORE, keep)],
        **options,
    )


def selecting(keys: Dataset, level: str) -> Dataset:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    upto = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}[level]
    return identifier(level, **{name: keys[name].value for name in names[:upto]})


@pytest.mark.parametrize("retrieve", [moved, got], ids=["C-MOVE", "C-GET"])
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
@pytest.mark.parametrize("by", ["original", "protected"])
def test_granted_objects_come_back_byte_for_byte(
    ward: Ward, retrieve: Retrieve, level: str, by: str
) -> None:
    keys = (ward.heads if by == "original" else ward.protected)["CT_small.dcm"]
    status, arrived = retrieve(ward, selecting(keys, level))
    names = ["CT_small.dcm"]
    if level == "STUDY" and by == "original":
        names.append("second")  # and not what came from elsewhere
    assert counts(status) == (0x0000, len(names), 0, 0)
    assert arrived == {ward.uid(name): ward.items[name].data for name in names}


@pytest.mark.parametrize("retrieve", [moved, got], ids=["C-MOVE", "C-GET"])
def test_a_patient_comes_back_as_far_as_granted(ward: Ward, retrieve: Retrieve) -> None:
    patient = ward.heads["CT_small.dcm"].PatientID
    status, arrived = retrieve(ward, identifier("PATIENT", PatientID=patient))
    assert status.Status == 0x0000
    assert set(arrived) == {ward.uid("CT_small.dcm"), ward.uid("second")}


@pytest.mark.parametrize("retrieve", [moved, got], ids=["C-MOVE", "C-GET"])
def test_several_studies_come_back_as_far_as_granted(
    ward: Ward, retrieve: Retrieve
) -> None:
    uids = [ward.heads[name].StudyInstanceUID for name in FILES]
    status, arrived = retrieve(ward, identifier("STUDY", StudyInstanceUID=uids))
    assert status.Status == 0x0000
    assert set(arrived) == {ward.uid(name) for name in MINE}


@pytest.mark.parametrize("retrieve", [moved, got], ids=["C-MOVE", "C-GET"])
@pytest.mark.parametrize(("name", "by"), [b for b in BY if b[0] in NOT_MINE])
def test_what_is_not_granted_is_refused_and_recorded(
    ward: Ward, retrieve: Retrieve, name: str, by: str
) -> None:
    keys = (ward.heads if by == "original" else ward.protected)[name]
    action = "move" if retrieve is moved else "get"
    before = len(ward.running.audited(action, "refused"))
    status, arrived = retrieve(ward, selecting(keys, "IMAGE"))
    assert (status.Status, arrived) == (NOT_AUTHORISED, {})
    (line,) = ward.running.audited(action, "refused")[before:]
    assert (line["status"], line["outside"]) == ("0x0124", 1)
    assert (line["node"], line["calling_ae"]) == ("workstation", WORKSTATION)


@pytest.mark.parametrize("retrieve", [moved, got], ids=["C-MOVE", "C-GET"])
def test_an_answer_does_not_tell_whether_a_patient_is_here(
    ward: Ward, retrieve: Retrieve
) -> None:
    here = identifier("PATIENT", PatientID=ward.heads["US1_J2KR.dcm"].PatientID)
    absent = identifier("PATIENT", PatientID="NOBODY")
    answers = [retrieve(ward, query) for query in (here, absent)]
    assert [(s.Status, s.ErrorComment, a) for s, a in answers] == [
        (NOT_AUTHORISED, "Nothing of this is granted", {})
    ] * 2


def test_a_destination_outside_the_grant_is_refused_and_recorded(ward: Ward) -> None:
    query = selecting(ward.heads["CT_small.dcm"], "STUDY")
    before = len(ward.running.audited("move", "refused"))
    status, arrived = moved(ward, query, OTHER)
    assert (status.Status, arrived) == (NOT_AUTHORISED, {})
    (line,) = ward.running.audited("move", "refused")[before:]
    assert (line["destination"], line["why"]) == (OTHER, "MoveNotAuthorised")
    status, arrived = moved(ward, query, WORKSTATION)
    assert (status.Status, len(arrived)) == (0x0000, 2)


def test_a_node_without_a_grant_gets_nothing(ward: Ward) -> None:
    with associated(
        ward.running.recovery_port, [(FIND, EXPLICIT)], OTHER, "MIAD-RECOVERY"
    ) as association:
        assert ask(association, identifier("STUDY", StudyInstanceUID="")) == ([], 0)
    query = selecting(ward.heads["CT_small.dcm"], "STUDY")
    status, arrived = moved(ward, query, OTHER, OTHER)
    assert (status.Status, arrived) == (NOT_AUTHORISED, {})


# Revocation


def revocable(directory: Path, **more: Any) -> Any:
    settings = site(
        directory,
        grants=[{"name": "all", "nodes": ["workstation"], "when": "true"}],
        **more,
    )
    return gateway(settings)


def test_a_revocation_holds_on_an_association_that_is_open(tmp_path: Path) -> None:
    """Another process revokes the grant; the receiver runs on."""
    item = example("CT_small.dcm")
    query = selecting(_head("CT_small.dcm"), "IMAGE")
    arrived: dict[str, bytes] = {}
    with revocable(tmp_path) as running:
        assert send(running.port, item) == [0x0000]
        with getting(running, arrived) as association:
            assert fetch(association, query).Status == 0x0000
            assert arrived.pop(item.sop_instance_uid) == item.data
            command = access_of(running.site, running.index, running.audit)
            command.revoke_grant("all", "tester", "over")
            assert fetch(association, query).Status == NOT_AUTHORISED
            command.add_grant(
                grant_of({"name": "again", "nodes": ("workstation",), "when": "true"}),
                "tester",
            )
            assert fetch(association, query).Status == 0x0000
        assert list(arrived) == [item.sop_instance_uid]


def test_a_revocation_holds_in_the_middle_of_a_retrieval(tmp_path: Path) -> None:
    """The first of three objects leaves; the others do not."""
    uids = ("1.2.3.1", "1.2.3.2", "1.2.3.3")
    with revocable(tmp_path) as running:
        for uid in uids:
            dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
            dataset.SOPInstanceUID = uid
            assert send(running.port, encoded(dataset)) == [0x0000]
        arrived: list[str] = []

        def keep(event: evt.Event) -> int:
            arrived.append(str(event.request.AffectedSOPInstanceUID))
            command = access_of(running.site, running.index, running.audit)
            command.revoke_grant("all", "tester", "over")
            return 0

        with associated(
            running.recovery_port,
            [(GET, EXPLICIT), *contexts()],
            WORKSTATION,
            "MIAD-RECOVERY",
            ext_neg=[build_role(uid, scp_role=True) for uid in dict(contexts())],
            evt_handlers=[(evt.EVT_C_STORE, keep)],
        ) as association:
            query = selecting(_head("CT_small.dcm"), "STUDY")
            status, failed = list(association.send_c_get(query, GET))[-1]
    assert counts(status) == (0xB000, 1, 2, 0)
    assert arrived == [uids[0]]
    assert failed is not None
    assert list(failed.FailedSOPInstanceUIDList) == list(uids[1:])
    failures = running.audited("recover", "failure")
    assert [e["error"] for e in failures] == ["NotGranted", "NotGranted"]


def test_altered_tables_give_nothing_to_anybody(tmp_path: Path) -> None:
    item = example("CT_small.dcm")
    with revocable(tmp_path) as running:
        assert send(running.port, item) == [0x0000]
        command = access_of(running.site, running.index, running.audit)
        command.revoke_grant("all", "tester", "over")
        with running.index.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM grants")
        with getting(running, {}) as association:
            status = fetch(association, selecting(_head("CT_small.dcm"), "IMAGE"))
        assert (status.Status, status.ErrorComment) == (0xC000, "Retrieval failed")
        (line,) = running.audited("get", "refused")
        assert line["why"] == "AccessTampered"
        with associated(
            running.recovery_port, [(FIND, EXPLICIT)], WORKSTATION, "MIAD-RECOVERY"
        ) as association:
            query = identifier("STUDY", StudyInstanceUID="")
            assert ask(association, query) == ([], 0xC000)


def test_a_request_for_many_names_what_two_people_must_approve(
    tmp_path: Path,
) -> None:
    with revocable(tmp_path, recovery={"two_person_above": 0}) as running:
        assert send(running.port, example("CT_small.dcm")) == [0x0000]
        arrived: dict[str, bytes] = {}
        with getting(running, arrived) as association:
            query = selecting(_head("CT_small.dcm"), "IMAGE")
            status = fetch(association, query)
        (request,), _ = running.access.requests()
    assert (status.Status, arrived) == (NOT_AUTHORISED, {})
    assert status.ErrorComment == f"Two people must approve request {request.id}"
    assert (request.content["node"], request.content["objects"]) == ("workstation", 1)
