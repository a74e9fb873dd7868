"""Store and forward: what is confirmed, by which address, over which association."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt

from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.sender import Sender, Verdict
from gateway.store.part10 import FileMeta, encode_head
from gateway.store.rows import NewProtected, PartOutcome
from tests.gateway.exporting import CT, MR, Exports
from tests.gateway.outside import Outside, destination, unused_port
from tests.gateway.scp import EXPLICIT, IMPLICIT, encoded, small
from tests.waiting import wait_until

FILES = ("CT_small.dcm", "MR_small.dcm")


@pytest.fixture
def exports(tmp_path: Path) -> Iterator[Exports]:
    opened = Exports(tmp_path, 0)
    yield opened
    opened.close()


def address(port: int, title: str = "OUTSIDE") -> dict[str, object]:
    return {"ae_title": title, "host": "127.0.0.1", "port": port, "plain": True}


def objects(count: int) -> list[OutboundObject]:
    return [encoded(small(f"1.2.3.{number}")) for number in range(1, count + 1)]


# Confirmation per object


def in_parts(exports: Exports) -> list[str]:
    """A delivery of three parts: what one original was split into."""
    [original] = exports.owe("CT_small.dcm")
    instance = exports.index.instance(original)
    assert instance is not None
    uids = [f"2.25.{number}" for number in (1, 2, 3)]
    rows = []
    for part, uid in enumerate(uids):
        made = encoded(small(uid, SeriesInstanceUID="2.25.9"))
        assert isinstance(made.data, bytes)
        meta = FileMeta(
            sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT
        )
        stored = exports.store.write_protected(uid, encode_head(meta) + made.data)
        rows.append(
            NewProtected(
                instance_id=instance.id,
                part=part,
                sop_class_uid=CT,
                sop_instance_uid=uid,
                series_instance_uid="2.25.9",
                study_instance_uid="1.2.3",
                transfer_syntax_uid=EXPLICIT,
                path=stored.path,
                sha256=stored.sha256,
            )
        )
    exports.index.add_protected(*rows)
    exports.index.plan_deliveries(exports.revision, "outside", True, [instance.id])
    # Of the record only the parts' UIDs count here.
    exports.records_of(uids)
    return uids


def protected_states(exports: Exports) -> list[str]:
    [delivery] = [d for d in exports.index.deliveries_of(exports.revision) if d.protect]
    return [delivery.state, *(p.state for p in exports.index.parts_of(delivery.id))]


def test_only_what_was_not_confirmed_of_a_split_object_is_sent_again(
    exports: Exports,
) -> None:
    uids = in_parts(exports)
    answers = {uids[1]: 0xA700}
    outside = Outside(status_of=lambda uid: answers.get(uid, 0))
    with outside.listening((CT,)):
        exports.at(outside.port, originals=False)
        assert exports.attempt() is True
        assert protected_states(exports) == ["pending", "sent", "pending", "sent"]
        answers.clear()
        assert exports.attempt() is False

    assert outside.kept == [uids[0], uids[2], uids[1]]
    assert protected_states(exports) == ["sent"] * 4


def test_each_object_is_recorded_before_the_next_goes_out(exports: Exports) -> None:
    """What a kill -9 between two objects leaves: the first one is confirmed."""
    uids = in_parts(exports)
    seen: list[list[str]] = []

    def looking(_uid: str) -> int:
        seen.append(protected_states(exports)[1:])
        return 0

    outside = Outside(status_of=looking)
    with outside.listening((CT,)):
        exports.at(outside.port, originals=False)
        exports.attempt()

    assert outside.kept == uids
    assert seen == [
        ["pending", "pending", "pending"],
        ["sent", "pending", "pending"],
        ["sent", "sent", "pending"],
    ]


def test_a_delivery_whose_parts_are_all_confirmed_is_settled(exports: Exports) -> None:
    """As after a kill -9 between the last part's record and the delivery's."""
    uids = in_parts(exports)
    [delivery] = [d for d in exports.index.deliveries_of(exports.revision) if d.protect]
    planned = exports.index.plan_parts({delivery.id: [(CT, uid) for uid in uids]})
    for part in planned[delivery.id].values():
        done = PartOutcome(state="sent", status=0, error="")
        exports.index.record_part(part.id, done, last=False)
    assert protected_states(exports)[0] == "pending"
    exports.at(unused_port(), originals=False)
    assert exports.attempt() is False
    assert protected_states(exports) == ["sent"] * 4


def test_no_object_goes_out_once_it_may_not_go_on(exports: Exports) -> None:
    exports.owe(*FILES)
    allowed = iter([True, False])
    outside = Outside()
    with outside.listening((CT, MR)):
        exports.at(outside.port)
        again = exports.exporter.attempt(
            exports.revision, "outside", lambda: next(allowed)
        )

    assert again is True
    assert exports.states == ["sent", "pending"]
    assert len(outside.arrivals) == 1


# What the peer says


def commenting(status: int, comment: str) -> AE:
    def answer(_event: evt.Event) -> Dataset:
        made = Dataset()
        made.Status = status
        made.ErrorComment = comment
        return made

    entity = AE("OUTSIDE")
    entity.add_supported_context(CT, [EXPLICIT, IMPLICIT])
    entity.add_supported_context(MR, [EXPLICIT, IMPLICIT])
    entity.handlers = [(evt.EVT_C_STORE, answer)]  # type: ignore[attr-defined]
    return entity


@pytest.mark.parametrize(
    ("status", "state", "warned"),
    [
        (0xB000, "sent", True),
        (0xB006, "sent", True),
        (0xB007, "sent", True),
        (0xA900, "refused", False),
        (0xC001, "refused", False),
        (0x0122, "refused", False),
        (0xA700, "pending", False),
    ],
)
def test_warnings_and_refusals_are_kept_apart_with_what_the_peer_says(
    exports: Exports, status: int, state: str, warned: bool
) -> None:
    exports.owe("CT_small.dcm")
    entity = commenting(status, "element 0028,1052 coerced")
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=entity.handlers,  # type: ignore[attr-defined]
    )
    try:
        exports.at(server.server_address[1])
        assert exports.attempt() is (state == "pending")
    finally:
        server.shutdown()

    [delivery] = exports.index.deliveries_of(exports.revision)
    assert (delivery.state, delivery.warned) == (state, warned)
    assert delivery.status == status
    assert delivery.last_error == (
        f"C-STORE status 0x{status:04X}: element 0028,1052 coerced"
    )


# Fail-over


def test_the_next_address_takes_over_and_the_first_is_gone_back_to(
    exports: Exports,
) -> None:
    exports.owe(*FILES)
    first, second = Outside(port=unused_port()), Outside()
    with second.listening((CT, MR)):
        place = exports.at(
            first.port, failover=[address(second.port)], failover_seconds=0.0
        )
        assert exports.attempt() is False
    assert len(second.arrivals) == 2
    assert [part.address for part in exports.parts] == [
        f"OUTSIDE@127.0.0.1:{second.port}"
    ] * 2

    with first.listening((CT,)), second.listening((CT,)):
        [result] = exports.sender.send(place, objects(1), "GATEWAY")
    assert result.address == f"OUTSIDE@127.0.0.1:{first.port}"
    assert len(first.arrivals) == 1


def test_an_address_that_is_away_is_left_alone_for_a_while() -> None:
    now = [0.0]
    sender = Sender(clock=lambda: now[0])
    first, second = Outside(port=unused_port()), Outside()
    with second.listening((CT,)):
        place = destination(
            first.port,
            failover=[address(second.port)],
            association_idle_seconds=0,
        )
        list(sender.send(place, objects(1), "GATEWAY"))
        with first.listening((CT,)):
            list(sender.send(place, objects(1), "GATEWAY"))
            assert (len(first.arrivals), len(second.arrivals)) == (0, 2)
            now[0] = 61.0
            list(sender.send(place, objects(1), "GATEWAY"))
            assert (len(first.arrivals), len(second.arrivals)) == (1, 2)
    sender.close()


def test_an_address_that_dies_in_the_middle_is_followed_by_the_next(
    exports: Exports,
) -> None:
    uids = exports.owe(*FILES)
    second = Outside()

    def dies(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == uids[1]:
            event.assoc.abort()
        return 0

    entity = commenting(0, "")
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, dies)]
    )
    try:
        with second.listening((CT, MR)):
            port = server.server_address[1]
            exports.at(port, failover=[address(second.port)])
            assert exports.attempt() is False
    finally:
        server.shutdown()

    assert second.kept == [uids[1]]
    ports = [part.address.rpartition(":")[2] for part in exports.parts]
    assert ports == [str(port), str(second.port)]


def test_a_refusal_of_an_object_is_no_reason_to_go_elsewhere(exports: Exports) -> None:
    exports.owe(*FILES)
    first, second = Outside(status_of=lambda _uid: 0xC001), Outside()
    with first.listening((CT, MR)), second.listening((CT, MR)):
        exports.at(first.port, failover=[address(second.port)])
        assert exports.attempt() is False

    assert second.arrivals == []
    assert exports.states == ["refused", "refused"]


def test_all_addresses_away_is_tried_later(exports: Exports) -> None:
    exports.owe("CT_small.dcm")
    exports.at(unused_port(), failover=[address(unused_port())])

    assert exports.attempt() is True
    assert exports.states == ["pending"]


# Associations between jobs


def test_one_association_carries_several_jobs() -> None:
    sender, outside = Sender(), Outside()
    with outside.listening((CT,)):
        place = destination(outside.port)
        for _ in range(3):
            results = list(sender.send(place, objects(2), "GATEWAY"))
            assert {result.verdict for result in results} == {Verdict.SENT}
        assert outside.associations == 1
        sender.close()
    assert len(outside.arrivals) == 6
    names = {thread.name for thread in threading.enumerate()}
    assert "AssociationPool" not in names


def test_more_contexts_than_were_proposed_cost_a_new_association() -> None:
    sender, outside = Sender(), Outside()
    with outside.listening((CT, MR)):
        place = destination(outside.port)
        list(sender.send(place, objects(1), "GATEWAY"))
        other = encoded(small("1.2.3.9", SOPClassUID=MR))
        [result] = sender.send(place, [other], "GATEWAY")
        assert result.verdict is Verdict.SENT
        assert outside.associations == 2
        sender.close()


def test_an_idle_association_ends_in_time() -> None:
    sender = Sender()
    ended = threading.Event()
    entity = commenting(0, "")
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, lambda _event: 0),
            (evt.EVT_RELEASED, lambda _event: ended.set()),
        ],
    )
    try:
        place = destination(server.server_address[1], association_idle_seconds=0.2)
        list(sender.send(place, objects(1), "GATEWAY"))
        assert not ended.is_set()
        assert ended.wait(20)
    finally:
        sender.close()
        server.shutdown()


def test_a_peer_that_closed_an_idle_association_costs_a_reconnect() -> None:
    sender = Sender()
    entity = commenting(0, "")
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _e: 0)]
    )
    try:
        place = destination(server.server_address[1])
        list(sender.send(place, objects(1), "GATEWAY"))
        [kept] = server.active_associations
        kept.abort()
        [result] = sender.send(place, objects(1), "GATEWAY")
        assert result.verdict is Verdict.SENT
    finally:
        sender.close()
        server.shutdown()


def test_a_peer_that_drops_it_at_the_next_object_costs_a_reconnect() -> None:
    """The association looks whole until it is used."""
    sender = Sender()
    stored: list[int] = []

    def store(event: evt.Event) -> int:
        stored.append(id(event.assoc))
        if len(stored) == 2:
            event.assoc.abort()
        return 0

    entity = commenting(0, "")
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        place = destination(server.server_address[1])
        for _ in range(2):
            [result] = sender.send(place, objects(1), "GATEWAY")
            assert result.verdict is Verdict.SENT
    finally:
        sender.close()
        server.shutdown()
    assert len(stored) == 3
    wait_until(lambda: len(set(stored)) == 2)
