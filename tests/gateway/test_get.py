"""C-GET: the requestor is the storage SCP of its own association."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from gateway.dicom.rawstore import OutboundObject
from gateway.vault.vault import open_vault
from tests.gateway.scp import (
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    WORKSTATION,
    Archive,
    Gateway,
    associated,
    encoded,
    example,
    gateway,
    send,
    site,
    small,
)
from tests.gateway.seeding import protect
from tests.gateway.test_find import identifier
from tests.gateway.test_move import counts, image, move, received, recovering
from tests.gateway.test_readers import READER, SECONDARY_CAPTURE, sections
from tests.gateway.test_receive import FILES
from tests.waiting import wait_until

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.3"
COMPOSITE_ROOT = "1.2.840.10008.5.1.4.1.2.4.3"
COMPOSITE_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.4.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
Contexts = Sequence[tuple[str, str | tuple[str, ...]]]


def success(_uid: str) -> int:
    return 0x0000


@dataclass
class Getter:
    """A node that asks with C-GET and keeps bytes as they arrive."""

    answer: Callable[[str], int] = success
    model: str = STUDY_ROOT
    arrivals: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _, _ in self.arrivals]

    @contextmanager
    def associated(
        self,
        port: int,
        contexts: Contexts = ((CT_IMAGE, EXPLICIT),),
        roles: list[SCP_SCU_RoleSelectionNegotiation] | None = None,
        caller: tuple[str, str] = (WORKSTATION, "MIAD-RECOVERY"),
    ) -> Iterator[Association]:
        classes = dict.fromkeys(uid for uid, _ in contexts)
        proposed = [build_role(uid, scp_role=True) for uid in classes]
        with associated(
            port,
            [(self.model, EXPLICIT), *contexts],
            *caller,
            ext_neg=proposed if roles is None else roles,
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
        ) as association:
            yield association

    def get(self, port: int, query: Dataset, *args: object) -> list[Dataset]:
        """All responses; the identifier of the last is kept as ``failed``."""
        with self.associated(port, *args) as association:  # type: ignore[arg-type]
            assert association.is_established
            answers = list(association.send_c_get(query, self.model))
        failed = answers[-1][1]
        self.failed = [] if failed is None else uids_of(failed)
        return [status for status, _ in answers]

    def _store(self, event: evt.Event) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        syntax = str(event.context.transfer_syntax)
        self.arrivals.append((uid, syntax, request.DataSet.getvalue()))
        return self.answer(uid)


def uids_of(failed: Dataset) -> list[str]:
    value = failed.get("FailedSOPInstanceUIDList", [])
    return [str(value)] if isinstance(value, str) else [str(uid) for uid in value]


def study(uid: str = "1.2.3") -> Dataset:
    return identifier("STUDY", StudyInstanceUID=uid)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(site(tmp_path_factory.mktemp("get"))) as listening:
        objects = [encoded(small(f"1.2.3.{n}")) for n in (1, 2, 3)]
        assert send(listening.port, *objects) == [0x0000] * 3
        yield listening


# Byte identity


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("protected", [True, False], ids=["protected", "stored"])
def test_an_original_comes_back_byte_for_byte(
    tmp_path: Path, name: str, protected: bool
) -> None:
    item = example(name)
    assert isinstance(item.data, bytes)
    getter = Getter()
    with gateway(site(tmp_path)) as gate:
        instance = received(gate, item)
        if protected:
            gate.protect(instance, item.data)
        contexts = [(item.sop_class_uid, item.transfer_syntax_uid)]
        statuses = getter.get(gate.recovery_port, image(instance), contexts)
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)
    assert getter.arrivals == [
        (item.sop_instance_uid, item.transfer_syntax_uid, item.data)
    ]


def test_a_protected_object_comes_as_it_is_stored(tmp_path: Path) -> None:
    vault = open_vault(tmp_path / "vault", tmp_path / "master.key")
    getter = Getter()
    with gateway(site(tmp_path, **sections(1)), vault) as gate:
        instance = received(gate, example("MR_small.dcm"))
        row = protect(instance, gate.store, gate.index, vault)
        statuses = getter.get(
            gate.port,
            study(row.study_instance_uid),
            [(SECONDARY_CAPTURE, EXPLICIT), (MR_IMAGE, EXPLICIT)],
            None,
            (READER, "MIAD-GATEWAY"),
        )
        stored = gate.store.read_data_set(row.path)[0]
        (line,) = gate.audited("get", "success")
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)
    assert getter.arrivals == [(row.sop_instance_uid, EXPLICIT, stored)]
    assert (line["called_ae"], line["destination"]) == ("MIAD-GATEWAY", READER)


def test_many_objects_of_one_association_all_come(running: Gateway) -> None:
    getter = Getter(model=PATIENT_ROOT)
    query = identifier("PATIENT", PatientID="P1")
    statuses = getter.get(running.recovery_port, query)
    assert counts(statuses[-1]) == (0x0000, 3, 0, 0)
    assert getter.uids == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    assert [s.NumberOfRemainingSuboperations for s in statuses[:-1]] == [2, 1]


# What is asked for


def test_composite_instances_are_asked_for_by_uid(running: Gateway) -> None:
    getter = Getter(model=COMPOSITE_ROOT)
    query = identifier("IMAGE", SOPInstanceUID=["1.2.3.3", "1.2.3.1", "1.2.3.9"])
    statuses = getter.get(running.recovery_port, query)
    assert counts(statuses[-1]) == (0x0000, 2, 0, 0)
    assert sorted(getter.uids) == ["1.2.3.1", "1.2.3.3"]


@pytest.mark.parametrize(
    ("model", "query"),
    [
        (COMPOSITE_ROOT, identifier("FRAME", SOPInstanceUID="1.2.3.1")),
        (COMPOSITE_ROOT, study()),
        (COMPOSITE_ROOT, identifier("IMAGE", SOPInstanceUID="")),
        (STUDY_ROOT, identifier("PATIENT", PatientID="P1")),
        (STUDY_ROOT, identifier("IMAGE", StudyInstanceUID="1.2.3")),
        (PATIENT_ROOT, identifier("PATIENT", PatientID="P*")),
    ],
)
def test_an_identifier_outside_the_model_is_refused(
    running: Gateway, model: str, query: Dataset
) -> None:
    before = len(running.audited("get", "refused"))
    getter = Getter(model=model)
    (status,) = getter.get(running.recovery_port, query)
    assert (status.Status, getter.arrivals) == (0xA900, [])
    (line,) = running.audited("get", "refused")[before:]
    assert line["status"] == "0xA900"


# What fails


def test_what_was_not_negotiated_fails_alone(tmp_path: Path) -> None:
    compressed, implicit = example("JPEG2000.dcm"), encoded(small("1.2.3.8"), IMPLICIT)
    plain = encoded(small("1.2.3.9"))
    getter = Getter()
    with gateway(site(tmp_path)) as gate:
        instances = [received(gate, item) for item in (compressed, implicit, plain)]
        query = identifier(
            "IMAGE", SOPInstanceUID=[i.sop_instance_uid for i in instances]
        )
        statuses = getter.get(gate.recovery_port, query)
        errors = [line["error"] for line in gate.audited("recover", "failure")]
    assert counts(statuses[-1]) == (0xB000, 1, 2, 0)
    assert sorted(getter.failed) == sorted(
        [compressed.sop_instance_uid, implicit.sop_instance_uid]
    )
    assert getter.arrivals == [("1.2.3.9", EXPLICIT, plain.data)]
    assert errors == ["NoPresentationContext"] * 2


def test_without_the_role_of_an_scp_nothing_can_be_sent(running: Gateway) -> None:
    getter = Getter()
    with getter.associated(running.recovery_port, roles=[]) as association:
        assert [c.abstract_syntax for c in association.accepted_contexts] == [
            STUDY_ROOT
        ]
    (line,) = running.audited("contexts", "refused")[-1:]
    assert line["sop_classes"] == [CT_IMAGE]


def answer_by_uid(uid: str) -> int:
    return {"1.2.3.1": 0x0000, "1.2.3.2": 0xB000, "1.2.3.3": 0xA700}[uid]


def test_what_the_requestor_says_is_counted(running: Gateway) -> None:
    getter = Getter(answer_by_uid)
    statuses = getter.get(running.recovery_port, study())
    assert counts(statuses[-1]) == (0xB000, 1, 1, 1)
    assert getter.failed == ["1.2.3.3"]


@pytest.mark.parametrize("restored", [b"not what was received", None])
def test_what_cannot_be_restored_exactly_is_not_sent(
    tmp_path: Path, restored: bytes | None
) -> None:
    getter = Getter()
    with gateway(site(tmp_path)) as gate:
        received(gate, encoded(small("1.2.3.4")))
        gate.protect(received(gate, encoded(small("1.2.3.5"))), restored)
        statuses = getter.get(gate.recovery_port, study())
        (end,) = gate.audited("get-end", "failure")
    assert counts(statuses[-1]) == (0xB000, 1, 1, 0)
    assert (getter.uids, getter.failed) == (["1.2.3.4"], ["1.2.3.5"])
    assert (end["completed"], end["failed_uids"]) == (1, ["1.2.3.5"])


def test_nothing_leaves_when_the_trail_cannot_be_written(tmp_path: Path) -> None:
    getter = Getter()
    with gateway(site(tmp_path)) as gate:
        instance = received(gate, encoded(small()))
        wait_until(lambda: bool(gate.audited("receive", "success")))
        gate.audit.path.unlink()
        gate.audit.path.mkdir()
        (status,) = getter.get(gate.recovery_port, image(instance))
        gate.audit.path.rmdir()
    assert status.Status == 0xA702
    assert getter.arrivals == []


# How it ends early


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(site(tmp_path_factory.mktemp("many"))) as listening:
        objects: list[OutboundObject] = [
            encoded(small(f"1.2.3.{n}")) for n in range(40)
        ]
        assert send(listening.port, *objects) == [0x0000] * 40
        yield listening


def test_a_cancelled_get_stops_and_says_how_far_it_came(many: Gateway) -> None:
    getter = Getter()
    with getter.associated(many.recovery_port) as association:
        statuses = []
        for status, _ in association.send_c_get(study(), STUDY_ROOT, msg_id=9):
            if not statuses:
                association.send_c_cancel(9, None, STUDY_ROOT)
            statuses.append(status)
    last = statuses[-1]
    assert last.Status == 0xFE00
    sent = last.NumberOfCompletedSuboperations
    assert sent == len(getter.arrivals) < 40
    assert last.NumberOfRemainingSuboperations == 40 - sent
    (end,) = many.audited("get-end", "failure")[-1:]
    assert (end["status"], end["completed"]) == ("0xFE00", sent)


def test_who_leaves_in_the_middle_stops_the_get(many: Gateway) -> None:
    before = len(many.audited("get-end", "failure"))
    with Getter().associated(many.recovery_port) as association:
        next(iter(association.send_c_get(study(), STUDY_ROOT)))
        association.abort()
    wait_until(lambda: len(many.audited("get-end", "failure")) > before)
    (end,) = many.audited("get-end", "failure")[before:]
    assert end["completed"] < 40


def test_a_get_says_in_the_trail_what_went_where(running: Gateway) -> None:
    before = len(running.audited("get", "success"))
    Getter().get(running.recovery_port, study())
    (start,) = running.audited("get", "success")[before:]
    assert (start["calling_ae"], start["destination"]) == (WORKSTATION, WORKSTATION)
    assert (start["studies"], start["instances"]) == (["1.2.3"], 3)


# Composite Instance Root also by C-MOVE


def test_composite_instances_may_be_moved(tmp_path: Path) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as gate:
        received(gate, encoded(small("1.2.3.4")))
        query = identifier("IMAGE", SOPInstanceUID="1.2.3.4")
        statuses, _ = move(gate, query, model=COMPOSITE_ROOT_MOVE)
        query = identifier("FRAME", SOPInstanceUID="1.2.3.4")
        (refused,), _ = move(gate, query, model=COMPOSITE_ROOT_MOVE)
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)
    assert refused.Status == 0xA900
    assert [a.sop_instance_uid for a in archive.arrivals] == ["1.2.3.4"]


def test_a_class_the_getter_names_twice_is_sent_in_either_syntax(
    tmp_path: Path,
) -> None:
    objects = [encoded(small("1.2.3.1")), encoded(small("1.2.3.2"), IMPLICIT)]
    getter = Getter()
    with gateway(site(tmp_path)) as gate:
        for item in objects:
            received(gate, item)
        contexts = [(CT_IMAGE, EXPLICIT), (CT_IMAGE, IMPLICIT)]
        statuses = getter.get(gate.recovery_port, study(), contexts)
    assert counts(statuses[-1]) == (0x0000, 2, 0, 0)
    assert {(uid, UID(syntax)) for uid, syntax, _ in getter.arrivals} == {
        ("1.2.3.1", EXPLICIT),
        ("1.2.3.2", IMPLICIT),
    }


def test_of_several_syntaxes_the_one_that_most_objects_have_is_agreed(
    tmp_path: Path,
) -> None:
    objects = [
        encoded(small("1.2.3.1"), IMPLICIT),
        encoded(small("1.2.3.2"), IMPLICIT),
        encoded(small("1.2.3.3")),
    ]
    getter = Getter()
    with gateway(site(tmp_path)) as gate:
        for item in objects:
            received(gate, item)
        either: Contexts = [(CT_IMAGE, (EXPLICIT, IMPLICIT))]
        statuses = getter.get(gate.recovery_port, study(), either)
    assert counts(statuses[-1]) == (0xB000, 2, 1, 0)
    assert (getter.uids, getter.failed) == (["1.2.3.1", "1.2.3.2"], ["1.2.3.3"])
