"""Storage commitment asked of the receiver (PS3.4 J), by pynetdicom as modality."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, config

from config.schema import Site
from gateway.store.clock import timestamp
from tests.gateway.committing import (
    Reports,
    ask,
    commitment_to,
    references,
    request,
)
from tests.gateway.scp import (
    CT_IMAGE,
    MODALITY,
    WORKSTATION,
    Gateway,
    encoded,
    gateway,
    node,
    send,
    site,
    small,
)
from tests.gateway.stored import flip
from tests.waiting import wait_until

READER = "READER"


def with_address(directory: Path, port: int) -> Site:
    """A site whose modality takes reports at a port."""
    place = {"ae_title": MODALITY, "host": "127.0.0.1", "port": port, "plain": True}
    return site(directory, nodes=[node(MODALITY, "store", commitment=place)])


def stored(running: Gateway, *uids: str) -> list[tuple[str, str]]:
    statuses = send(running.port, *(encoded(small(uid)) for uid in uids))
    assert set(statuses) == {0}
    return [(CT_IMAGE, uid) for uid in uids]


def uids(sequence: object) -> list[str]:
    return [item.ReferencedSOPInstanceUID for item in sequence]  # type: ignore[attr-defined]


def test_what_is_durable_is_committed_to_on_the_same_association(
    tmp_path: Path,
) -> None:
    reports = Reports()
    with gateway(site(tmp_path)) as running:
        pairs = stored(running, "1.2.3.1", "1.2.3.2")
        with commitment_to(running.port, reports=reports) as association:
            assert ask(association, request("1.2.9.1", *pairs)) == 0
            assert reports.changed.wait(20)
        [(kind, heard)] = reports.heard
        assert kind == 1
        assert heard.TransactionUID == "1.2.9.1"
        assert uids(heard.ReferencedSOPSequence) == ["1.2.3.1", "1.2.3.2"]
        assert "FailedSOPSequence" not in heard
        wait_until(lambda: len(running.index.commitment_requests("reported")) == 1)
        steps = [e["step"] for e in running.audited("commitment", "success")]
        assert steps == ["asked", "reported"]


def test_what_is_not_whole_here_is_said_so(tmp_path: Path) -> None:
    reports = Reports()
    with gateway(site(tmp_path)) as running:
        stored(running, "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4")
        damaged = running.index.instance("1.2.3.2")
        gone = running.index.instance("1.2.3.3")
        assert damaged is not None
        assert gone is not None
        flip(running.store, damaged.path)
        running.store.path_of(gone.path).unlink()
        other = encoded(small("1.2.3.4", PatientID="P2"))
        assert send(running.port, other) == [0xC0C0]
        asked = [
            (CT_IMAGE, "1.2.3.1"),
            (CT_IMAGE, "1.2.3.2"),
            (CT_IMAGE, "1.2.3.3"),
            (CT_IMAGE, "1.2.3.4"),
            (CT_IMAGE, "1.2.3.5"),
            ("1.2.840.10008.5.1.4.1.1.4", "1.2.3.1"),
        ]
        with commitment_to(running.port, reports=reports) as association:
            assert ask(association, request("1.2.9.1", *asked)) == 0
            assert reports.changed.wait(20)
        [(kind, heard)] = reports.heard

    assert kind == 2
    assert uids(heard.ReferencedSOPSequence) == ["1.2.3.1"]
    failed = [
        (item.ReferencedSOPInstanceUID, item.FailureReason)
        for item in heard.FailedSOPSequence
    ]
    assert failed == [
        ("1.2.3.2", 0x0110),  # damaged
        ("1.2.3.3", 0x0112),  # erased
        ("1.2.3.4", 0x0110),  # what this node sent under it is kept aside
        ("1.2.3.5", 0x0112),  # never came
        ("1.2.3.1", 0x0119),  # of another class
    ]


def test_a_node_with_an_address_is_told_there(tmp_path: Path) -> None:
    reports = Reports()
    with (
        reports.listening() as port,
        gateway(with_address(tmp_path, port)) as running,
    ):
        pairs = stored(running, "1.2.3.1")
        with commitment_to(running.port) as association:
            assert ask(association, request("1.2.9.1", *pairs)) == 0
        wait_until(lambda: len(running.index.commitment_requests("reported")) == 1)

    [(kind, heard)] = reports.heard
    assert (kind, heard.TransactionUID) == (1, "1.2.9.1")


def test_a_report_is_tried_until_it_is_taken_also_after_a_restart(
    tmp_path: Path,
) -> None:
    reports = Reports(status=0x0110)
    with reports.listening() as port:
        settings = with_address(tmp_path, port)
        with gateway(settings) as running:
            pairs = stored(running, "1.2.3.1")
            with commitment_to(running.port) as association:
                assert ask(association, request("1.2.9.1", *pairs)) == 0
            index = running.index
            wait_until(lambda: index.commitment_requests("waiting")[0].attempts == 1)
            [waiting] = index.commitment_requests("waiting")
            assert "0x0110" in waiting.last_error
        reports.status = 0
        with gateway(settings) as running:
            # Its time has come, as it would have some seconds later.
            now = timestamp(datetime.now(UTC) - timedelta(seconds=1))
            with running.index.database.write() as connection:
                connection.exec_driver_sql(
                    f"UPDATE commitment_requests SET next_at = '{now}'"
                )
            wait_until(lambda: len(running.index.commitment_requests("reported")) == 1)

    assert len(reports.heard) == 1


def test_a_report_nobody_takes_is_given_up_visibly(tmp_path: Path) -> None:
    reports = Reports(status=0x0110)
    with reports.listening() as port:
        base = with_address(tmp_path, port)
        hurried = base.receiver.model_copy(update={"commitment_hours": 1e-9})
        settings = base.model_copy(update={"receiver": hurried})
        with gateway(settings) as running:
            pairs = stored(running, "1.2.3.1")
            with commitment_to(running.port) as association:
                assert ask(association, request("1.2.9.1", *pairs)) == 0
            wait_until(lambda: len(running.index.commitment_requests("given-up")) == 1)
            [line] = running.audited("commitment", "failure")
            assert line["step"] == "given-up"


def test_the_same_request_again_is_reported_again_another_is_refused(
    tmp_path: Path,
) -> None:
    reports = Reports()
    with gateway(site(tmp_path)) as running:
        pairs = stored(running, "1.2.3.1", "1.2.3.2")
        for _ in range(2):
            reports.changed.clear()
            with commitment_to(running.port, reports=reports) as association:
                assert ask(association, request("1.2.9.1", *pairs)) == 0
                assert reports.changed.wait(20)
        with commitment_to(running.port, reports=reports) as association:
            assert ask(association, request("1.2.9.1", pairs[0])) == 0x0131

    assert len(reports.heard) == 2


def without(keyword: str) -> Dataset:
    dataset = request("1.2.9.1", (CT_IMAGE, "1.2.3.1"))
    delattr(dataset, keyword)
    return dataset


def emptied() -> Dataset:
    dataset = request("1.2.9.1", (CT_IMAGE, "1.2.3.1"))
    dataset.ReferencedSOPSequence = []
    return dataset


def unnamed() -> Dataset:
    dataset = request("1.2.9.1")
    dataset.ReferencedSOPSequence = references([(CT_IMAGE, "")])
    return dataset


def with_no_uid() -> Dataset:
    dataset = request("1.2.9.1", (CT_IMAGE, "1.2.3.1"))
    wrong = DataElement(0x00081195, "UI", "no uid", validation_mode=config.IGNORE)
    dataset.add(wrong)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "options", "status"),
    [
        (without("TransactionUID"), {}, 0x0120),
        (without("ReferencedSOPSequence"), {}, 0x0120),
        (emptied(), {}, 0x0120),
        (unnamed(), {}, 0x0121),
        (with_no_uid(), {}, 0x0106),
        (request("1.2.9.1", (CT_IMAGE, "1.2.3.1")), {"action": 2}, 0x0123),
        (request("1.2.9.1", (CT_IMAGE, "1.2.3.1")), {"instance": "1.2.3"}, 0x0112),
    ],
)
def test_a_bad_request_is_answered_with_its_fault(
    tmp_path: Path, dataset: Dataset, options: dict[str, object], status: int
) -> None:
    with gateway(site(tmp_path)) as running:
        with commitment_to(running.port) as association:
            assert ask(association, dataset, **options) == status  # type: ignore[arg-type]
            assert association.is_established
        assert running.index.commitment_requests("waiting") == []
        [line] = running.audited("commitment", "refused")
        assert line["status"] == f"0x{status:04X}"


def test_only_who_stores_may_ask(tmp_path: Path) -> None:
    nodes = [node(READER, "read"), node(WORKSTATION, "commit")]
    with gateway(site(tmp_path, nodes=nodes, grants=[])) as running:
        with commitment_to(running.port, READER) as association:
            assert association.is_aborted or not association.accepted_contexts
        with commitment_to(running.port, WORKSTATION) as association:
            asked = request("1.2.9.1", (CT_IMAGE, "1.2.3.1"))
            assert ask(association, asked) == 0x0124
        assert running.index.commitment_requests("waiting") == []


def test_one_that_leaves_without_its_report_is_remembered(tmp_path: Path) -> None:
    with gateway(site(tmp_path)) as running:
        pairs = stored(running, "1.2.3.1")
        with commitment_to(running.port) as association:
            assert ask(association, request("1.2.9.1", *pairs)) == 0
            association.abort()
        wait_until(lambda: running.index.commitment_requests("waiting")[0].attempts > 0)
        [waiting] = running.index.commitment_requests("waiting")
        assert "no address for reports" in waiting.last_error
