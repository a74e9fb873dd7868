from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.association import Association

from gateway.dicom import retrieve_order
from gateway.dicom.contexts import storage_classes
from gateway.dicom.rawstore import OutboundObject
from gateway.store.rows import Instance
from tests.gateway.outside import unused_port
from tests.gateway.scp import (
    ARCHIVE,
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
    grant,
    move_place,
    send,
    site,
    small,
)
from tests.gateway.stored import content_of, put_in_place
from tests.gateway.test_find import identifier
from tests.gateway.test_receive import FILES
from tests.waiting import wait_until

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.2"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
Contexts = Sequence[tuple[str, str]]


@contextmanager
def recovering(
    directory: Path,
    archive: Archive,
    contexts: Contexts = ((CT_IMAGE, EXPLICIT),),
    grants: Sequence[str] = (ARCHIVE,),
) -> Iterator[Gateway]:
    """A gateway, a node that may ask, and an archive it may have things sent to."""
    with archive.listening(contexts):
        places = [move_place(title, archive.port) for title in (ARCHIVE, WORKSTATION)]
        places.append(move_place("NOWHERE", unused_port()))
        settings = site(
            directory,
            grants=[grant(WORKSTATION, *grants)],
            recovery={"destinations": places},
        )
        with gateway(settings) as running:
            yield running


def move(
    running: Gateway,
    query: Dataset,
    destination: str = ARCHIVE,
    model: str = STUDY_ROOT,
    syntax: str = EXPLICIT,
) -> tuple[list[Dataset], Dataset | None]:
    with associated(
        running.recovery_port,
        [(model, syntax)],
        calling=WORKSTATION,
        called="MIAD-RECOVERY",
    ) as association:
        assert association.is_established
        answers = list(association.send_c_move(query, destination, model))
    return [status for status, _ in answers], answers[-1][1]


def counts(status: Dataset) -> tuple[int, int, int, int]:
    """Status and the counts of completed, failed and warned sub-operations."""
    return (
        status.Status,
        status.NumberOfCompletedSuboperations,
        status.NumberOfFailedSuboperations,
        status.NumberOfWarningSuboperations,
    )


def received(running: Gateway, item: OutboundObject) -> Instance:
    assert send(running.port, item) == [0x0000]
    instance = running.index.instance(item.sop_instance_uid)
    assert instance is not None
    return instance


def image(instance: Instance) -> Dataset:
    return identifier(
        "IMAGE",
        StudyInstanceUID=instance.study_instance_uid,
        SeriesInstanceUID=instance.series_instance_uid,
        SOPInstanceUID=instance.sop_instance_uid,
    )


# Byte identity


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("protected", [True, False], ids=["protected", "stored"])
def test_an_original_comes_back_byte_for_byte(
    tmp_path: Path, name: str, protected: bool
) -> None:
    item = example(name)
    assert isinstance(item.data, bytes)
    archive = Archive()
    contexts = [(item.sop_class_uid, item.transfer_syntax_uid)]
    with recovering(tmp_path, archive, contexts) as running:
        instance = received(running, item)
        if protected:
            running.protect(instance, item.data)
        statuses, failed = move(running, image(instance))
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)
    assert failed is None
    (arrival,) = archive.arrivals
    assert arrival.data == item.data
    assert arrival.transfer_syntax_uid == item.transfer_syntax_uid
    assert arrival.sop_instance_uid == item.sop_instance_uid
    assert (arrival.calling_ae, arrival.originator) == ("MIAD-RECOVERY", WORKSTATION)
    assert running.restorer.asked == ([f"2.25.{instance.id}1"] if protected else [])


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_request_may_come_in_any_uncompressed_syntax(
    tmp_path: Path, syntax: str
) -> None:
    with recovering(tmp_path, Archive()) as running:
        instance = received(running, encoded(small()))
        statuses, _ = move(running, image(instance), syntax=syntax)
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)


# What is asked for


def place(number: int, series: str, study: str) -> OutboundObject:
    uids = {"SeriesInstanceUID": series, "StudyInstanceUID": study}
    return encoded(small(f"1.2.3.{number}", **uids))


@pytest.mark.parametrize(
    ("query", "model", "found"),
    [
        (identifier("PATIENT", PatientID="P1"), PATIENT_ROOT, [1, 2, 3, 4]),
        (identifier("PATIENT", PatientID="P2"), PATIENT_ROOT, []),
        (identifier("STUDY", StudyInstanceUID="1.5.1"), STUDY_ROOT, [1, 2, 3]),
        (
            identifier("STUDY", StudyInstanceUID=["1.5.1", "1.5.2"]),
            STUDY_ROOT,
            [1, 2, 3, 4],
        ),
        (
            identifier("STUDY", PatientID="P2", StudyInstanceUID="1.5.1"),
            PATIENT_ROOT,
            [],
        ),
        (
            identifier("SERIES", StudyInstanceUID="1.5.1", SeriesInstanceUID="1.6.1"),
            STUDY_ROOT,
            [1, 2],
        ),
        (identifier("SERIES", SeriesInstanceUID="1.6.2"), STUDY_ROOT, [3]),
        (identifier("IMAGE", SOPInstanceUID=["1.2.3.2", "1.2.3.9"]), STUDY_ROOT, [2]),
        (identifier("IMAGE", SOPInstanceUID="2.25.11"), STUDY_ROOT, [1]),
        (identifier("SERIES", SeriesInstanceUID="2.25.12"), STUDY_ROOT, [1]),
        (identifier("STUDY", StudyInstanceUID="2.25.3"), STUDY_ROOT, [1]),
    ],
)
def test_what_matches_is_sent(
    tmp_path: Path, query: Dataset, model: str, found: list[int]
) -> None:
    archive = Archive()
    objects = [
        place(1, "1.6.1", "1.5.1"),
        place(2, "1.6.1", "1.5.1"),
        place(3, "1.6.2", "1.5.1"),
        place(4, "1.6.3", "1.5.2"),
    ]
    with recovering(tmp_path, archive) as running:
        assert send(running.port, *objects) == [0x0000] * 4
        first = running.index.instance("1.2.3.1")
        assert first is not None
        running.protect(first, bytes(objects[0].data))
        statuses, _ = move(running, query, model=model)
    assert counts(statuses[-1]) == (0x0000, len(found), 0, 0)
    assert sorted(a.sop_instance_uid for a in archive.arrivals) == [
        f"1.2.3.{n}" for n in found
    ]
    pending = [s.NumberOfRemainingSuboperations for s in statuses[:-1]]
    assert pending == list(range(len(found) - 1, 0, -1))


@pytest.mark.parametrize(
    "query",
    [
        identifier("IMAGE", StudyInstanceUID="1.2.3"),
        identifier("STUDY", StudyInstanceUID=""),
        identifier("PATIENT", PatientID="P1"),
        identifier("", StudyInstanceUID="1.2.3"),
    ],
)
def test_an_identifier_outside_the_model_is_refused(
    tmp_path: Path, query: Dataset
) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        received(running, encoded(small()))
        (status,), _ = move(running, query)
        assert status.Status == 0xA900
        (line,) = running.audited("move", "refused")
        assert line["status"] == "0xA900"
    assert archive.arrivals == []


@pytest.mark.parametrize("wildcard", ["P*", "P?", "*"])
def test_a_wildcard_never_stands_for_many_patients(
    tmp_path: Path, wildcard: str
) -> None:
    with recovering(tmp_path, Archive()) as running:
        received(running, encoded(small()))
        query = identifier("PATIENT", PatientID=wildcard)
        (status,), _ = move(running, query, model=PATIENT_ROOT)
    assert status.Status == 0xA900


def test_more_classes_than_one_association_can_name_are_all_sent(
    tmp_path: Path,
) -> None:
    # The archive is pynetdicom's, which serves no retired classes.
    known = [str(c.abstract_syntax) for c in AllStoragePresentationContexts]
    classes = known[:140]
    assert set(classes) <= set(storage_classes())
    archive = Archive()
    contexts = [(uid, EXPLICIT) for uid in classes]
    with recovering(tmp_path, archive, contexts) as running:
        objects = [
            encoded(small(f"1.2.3.{number}", SOPClassUID=uid))
            for number, uid in enumerate(classes)
        ]
        assert send(running.port, *objects[:100]) == [0x0000] * 100
        assert send(running.port, *objects[100:]) == [0x0000] * 40
        statuses, _ = move(running, identifier("STUDY", StudyInstanceUID="1.2.3"))
    assert counts(statuses[-1]) == (0x0000, 140, 0, 0)
    assert [a.data for a in archive.arrivals] == [o.data for o in objects]
    assert archive.associations == 2


# Where it may go


@pytest.mark.parametrize(
    ("grants", "destination", "status"),
    [
        ((ARCHIVE,), ARCHIVE, 0x0000),
        ((ARCHIVE,), WORKSTATION, 0x0124),
        ((), WORKSTATION, 0x0000),
        ((), ARCHIVE, 0x0124),
        ((ARCHIVE,), "UNKNOWN", 0xA801),
        ((), "UNKNOWN", 0xA801),
        (("UNKNOWN",), "UNKNOWN", 0xA801),
    ],
)
def test_originals_go_only_where_they_may(
    tmp_path: Path, grants: Sequence[str], destination: str, status: int
) -> None:
    archive = Archive()
    with recovering(tmp_path, archive, grants=grants) as running:
        instance = received(running, encoded(small()))
        statuses, _ = move(running, image(instance), destination)
        assert statuses[-1].Status == status
        lines = running.audited("move", "refused" if status else "success")
        assert [line["destination"] for line in lines] == [destination]
        assert lines[0]["calling_ae"] == WORKSTATION
        if status:
            assert lines[0]["status"] == f"0x{status:04X}"
    assert len(archive.arrivals) == (0 if status else 1)


@pytest.mark.parametrize("calling", ["STRANGER", "MODALITY", ARCHIVE])
def test_who_is_no_node_gets_no_association(tmp_path: Path, calling: str) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        received(running, encoded(small()))
        with associated(
            running.recovery_port,
            [(STUDY_ROOT, EXPLICIT)],
            calling=calling,
            called="MIAD-RECOVERY",
        ) as association:
            assert association.is_rejected
        (line,) = running.audited("association", "refused")
        assert (line["calling_ae"], line["service"]) == (calling, "recover")
    assert archive.arrivals == []


# What fails


def forged(_item: OutboundObject) -> bytes | None:
    return b"not what was received"


def no_record(_item: OutboundObject) -> bytes | None:
    return None


@pytest.mark.parametrize("restored", [forged, no_record])
def test_what_cannot_be_restored_exactly_is_not_sent(
    tmp_path: Path, restored: Callable[[OutboundObject], bytes | None]
) -> None:
    archive = Archive()
    good, bad = encoded(small("1.2.3.4")), encoded(small("1.2.3.5"))
    with recovering(tmp_path, archive) as running:
        received(running, good)
        running.protect(received(running, bad), restored(bad))
        query = identifier("STUDY", StudyInstanceUID="1.2.3")
        statuses, failed = move(running, query)
        assert counts(statuses[-1]) == (0xB000, 1, 1, 0)
        assert failed is not None
        assert failed.FailedSOPInstanceUIDList == "1.2.3.5"
        (line,) = running.audited("recover", "failure")
        assert line["sop_instance_uid"] == "1.2.3.5"
        (end,) = running.audited("move-end", "failure")
        assert (end["completed"], end["failed_uids"]) == (1, ["1.2.3.5"])
    assert [a.sop_instance_uid for a in archive.arrivals] == ["1.2.3.4"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_of_the_store_is_not_sent(tmp_path: Path, damage: str) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        instance = received(running, encoded(small()))
        if damage == "changed":
            content = content_of(running.store, instance.path)
            put_in_place(running.store, instance.path, content[:-1] + b"X")
        else:
            running.store.path_of(instance.path).unlink()
        statuses, failed = move(running, image(instance))
    assert counts(statuses[-1]) == (0xA702, 0, 1, 0)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == instance.sop_instance_uid
    assert archive.arrivals == []


def answer_by_uid(uid: str) -> int:
    return {"1.2.3.1": 0x0000, "1.2.3.2": 0xB000, "1.2.3.3": 0xA700}[uid]


def test_what_the_destination_says_is_counted(tmp_path: Path) -> None:
    archive = Archive(answer_by_uid)
    with recovering(tmp_path, archive) as running:
        send(running.port, *(encoded(small(f"1.2.3.{n}")) for n in (1, 2, 3)))
        statuses, failed = move(running, identifier("STUDY", StudyInstanceUID="1.2.3"))
    assert counts(statuses[-1]) == (0xB000, 1, 1, 1)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.3.3"


def test_a_class_the_destination_does_not_take_fails_alone(tmp_path: Path) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        compressed = example("JPEG2000.dcm")
        plain = encoded(small())
        instances = [received(running, item) for item in (compressed, plain)]
        query = identifier(
            "IMAGE", SOPInstanceUID=[i.sop_instance_uid for i in instances]
        )
        statuses, failed = move(running, query)
    assert counts(statuses[-1]) == (0xB000, 1, 1, 0)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == compressed.sop_instance_uid
    assert [a.data for a in archive.arrivals] == [plain.data]


def test_a_destination_that_is_away_fails_the_whole(tmp_path: Path) -> None:
    with recovering(tmp_path, Archive(), grants=["NOWHERE"]) as running:
        for number in (1, 2):
            received(running, encoded(small(f"1.2.3.{number}")))
        query = identifier("STUDY", StudyInstanceUID="1.2.3")
        statuses, failed = move(running, query, "NOWHERE")
    assert counts(statuses[-1]) == (0xA702, 0, 2, 0)
    assert failed is not None
    assert list(failed.FailedSOPInstanceUIDList) == ["1.2.3.1", "1.2.3.2"]


def test_a_destination_lost_on_the_way_is_called_again(tmp_path: Path) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        send(running.port, *(encoded(small(f"1.2.3.{n}")) for n in (1, 2, 3)))
        archive.leaves_at = "1.2.3.2"
        statuses, failed = move(running, identifier("STUDY", StudyInstanceUID="1.2.3"))
    assert counts(statuses[-1]) == (0xB000, 2, 1, 0)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.3.2"
    assert archive.associations == 2


def test_nothing_leaves_when_the_trail_cannot_be_written(tmp_path: Path) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        instance = received(running, encoded(small()))
        wait_until(lambda: bool(running.audited("receive", "success")))
        running.audit.path.unlink()
        running.audit.path.mkdir()
        (status,), _ = move(running, image(instance))
        running.audit.path.rmdir()
    assert status.Status == 0xA702
    assert archive.arrivals == []


def test_a_cancelled_move_stops_and_says_how_far_it_came(tmp_path: Path) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        send(running.port, *(encoded(small(f"1.2.3.{n}")) for n in range(40)))
        query = identifier("STUDY", StudyInstanceUID="1.2.3")
        with associated(
            running.recovery_port,
            [(STUDY_ROOT, EXPLICIT)],
            calling=WORKSTATION,
            called="MIAD-RECOVERY",
        ) as association:
            statuses = []
            answers = association.send_c_move(query, ARCHIVE, STUDY_ROOT, msg_id=9)
            for status, _ in answers:
                if not statuses:
                    association.send_c_cancel(9, None, STUDY_ROOT)
                statuses.append(status)
    last = statuses[-1]
    assert last.Status == 0xFE00
    sent = last.NumberOfCompletedSuboperations
    assert sent == len(archive.arrivals) < 40
    assert last.NumberOfRemainingSuboperations == 40 - sent


def test_who_leaves_in_the_middle_stops_the_move(tmp_path: Path) -> None:
    archive = Archive()
    with recovering(tmp_path, archive) as running:
        send(running.port, *(encoded(small(f"1.2.3.{n}")) for n in range(40)))
        query = identifier("STUDY", StudyInstanceUID="1.2.3")
        with associated(
            running.recovery_port,
            [(STUDY_ROOT, EXPLICIT)],
            calling=WORKSTATION,
            called="MIAD-RECOVERY",
        ) as association:
            next(iter(association.send_c_move(query, ARCHIVE, STUDY_ROOT)))
            association.abort()
        wait_until(lambda: bool(running.audited("move-end", "failure")))
        (end,) = running.audited("move-end", "failure")
    assert end["completed"] == len(archive.arrivals) < 40


def test_a_move_says_in_the_trail_what_went_where(tmp_path: Path) -> None:
    with recovering(tmp_path, Archive()) as running:
        instance = received(running, encoded(small(PatientName="Doe^Jane")))
        move(running, image(instance))
        (start,) = running.audited("move", "success")
        (end,) = running.audited("move-end", "success")
        text = running.audit.path.read_text()
        running.audit.verify()
    details: dict[str, Any] = {
        "calling_ae": WORKSTATION,
        "peer_address": "127.0.0.1",
        "destination": ARCHIVE,
    }
    assert details.items() <= start.items()
    assert details.items() <= end.items()
    assert (start["studies"], start["instances"]) == (["1.2.3"], 1)
    assert (end["completed"], end["status"]) == (1, "0x0000")
    assert "Doe" not in text


# Originals that take long to be rebuilt


def test_a_destination_that_hangs_up_meanwhile_is_called_again(
    tmp_path: Path,
) -> None:
    item = example("CT_small.dcm")
    assert isinstance(item.data, bytes)
    archive = Archive()
    archive.patience = 0.2  # DCMTK's storescp: 60 s
    with recovering(tmp_path, archive, [(item.sop_class_uid, EXPLICIT)]) as running:
        instance = received(running, item)
        running.protect(instance, item.data)

        def is_connected() -> bool:
            return any(
                thread.is_established
                for thread in threading.enumerate()
                if isinstance(thread, Association)
                and thread.ae.ae_title == "MIAD-RECOVERY"
                and thread.is_requestor
            )

        def until_it_hung_up() -> None:
            assert archive.associations == 1
            wait_until(lambda: not is_connected())

        running.restorer.takes = until_it_hung_up
        statuses, failed = move(running, image(instance))
    assert counts(statuses[-1]) == (0x0000, 1, 0, 0)
    assert failed is None
    assert archive.associations == 2
    (arrival,) = archive.arrivals
    assert arrival.data == item.data


def test_who_asked_hears_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve_order, "TOLD_SECONDS", 0.05)
    item = example("CT_small.dcm")
    assert isinstance(item.data, bytes)
    told = threading.Semaphore(0)
    respond = retrieve_order.Order.respond

    def counted(order: Any, status: Any, progress: Any) -> None:
        respond(order, status, progress)
        told.release()

    monkeypatch.setattr(retrieve_order.Order, "respond", counted)
    archive = Archive()
    with recovering(tmp_path, archive, [(item.sop_class_uid, EXPLICIT)]) as running:
        instance = received(running, item)
        running.protect(instance, item.data)
        running.restorer.takes = lambda: [told.acquire(timeout=30) for _ in range(3)]
        statuses, _ = move(running, image(instance))
    *pending, last = statuses
    assert len(pending) >= 3
    for status in pending:
        assert status.Status == 0xFF00
        assert status.NumberOfRemainingSuboperations == 1
    assert counts(last) == (0x0000, 1, 0, 0)
