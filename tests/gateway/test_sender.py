from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from pynetdicom import AllStoragePresentationContexts

from gateway.demo.nodes import data_set_of
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.sender import Verdict, verdict_of
from gateway.store.index import open_index
from tests.gateway.outside import (
    FILES,
    Outside,
    destination,
    receive,
    send_objects,
    unused_port,
)
from tests.gateway.stored import INDEX_KEY, a_store


@pytest.fixture
def objects(tmp_path: Path) -> list[OutboundObject]:
    store = a_store(tmp_path / "store")
    index = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    instances = [receive(store, index, name) for name in FILES]
    index.close()
    return [
        OutboundObject(
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            data=partial(store.open, instance.path),
        )
        for instance in instances
    ]


def classes(objects: list[OutboundObject]) -> tuple[str, ...]:
    return tuple({item.sop_class_uid for item in objects})


def data_of(item: OutboundObject) -> bytes:
    assert callable(item.data)
    with item.data() as stream:
        return data_set_of(stream.read())


def test_stored_bytes_arrive_unchanged_whatever_their_syntax(
    objects: list[OutboundObject],
) -> None:
    outside = Outside()
    with outside.listening(classes(objects)):
        results = list(send_objects(destination(outside.port), objects, "GATEWAY"))

    assert [result.verdict for result in results] == [Verdict.SENT] * len(objects)
    assert outside.arrivals == [(o.sop_instance_uid, data_of(o)) for o in objects]
    assert outside.associations == 1


def test_nobody_listens_is_transient(objects: list[OutboundObject]) -> None:
    results = list(send_objects(destination(unused_port()), objects, "GATEWAY"))

    assert {result.verdict for result in results} == {Verdict.TRANSIENT}
    assert "cannot be reached" in results[0].error


def test_a_host_without_address_is_transient(objects: list[OutboundObject]) -> None:
    nowhere = destination(104, host="nowhere.invalid")

    results = list(send_objects(nowhere, objects, "GATEWAY"))

    assert {result.verdict for result in results} == {Verdict.TRANSIENT}


def test_one_refused_object_keeps_no_other_back(
    objects: list[OutboundObject],
) -> None:
    answers = {
        objects[1].sop_instance_uid: 0xC001,
        objects[2].sop_instance_uid: 0xA700,
    }
    outside = Outside(status_of=lambda uid: answers.get(uid, 0))
    with outside.listening(classes(objects)):
        results = list(send_objects(destination(outside.port), objects, "GATEWAY"))

    assert [result.verdict for result in results] == [
        Verdict.SENT,
        Verdict.REFUSED,
        Verdict.TRANSIENT,
        Verdict.SENT,
    ]
    assert results[1].error == "C-STORE status 0xC001"
    assert outside.associations == 1


def test_a_class_the_peer_does_not_take_is_refused(
    objects: list[OutboundObject],
) -> None:
    outside = Outside()
    with outside.listening((objects[0].sop_class_uid,)):
        results = list(send_objects(destination(outside.port), objects, "GATEWAY"))

    by_class = {o.sop_class_uid: r for o, r in zip(objects, results, strict=True)}
    assert by_class.pop(objects[0].sop_class_uid).verdict is Verdict.SENT
    assert {r.verdict for r in by_class.values()} == {Verdict.REFUSED}
    assert {r.status for r in by_class.values()} == {0x0122}


def test_a_peer_that_takes_none_of_the_classes_refuses(
    objects: list[OutboundObject],
) -> None:
    outside = Outside()
    with outside.listening(("1.2.840.10008.1.1",)):
        results = list(send_objects(destination(outside.port), objects, "GATEWAY"))

    assert {result.verdict for result in results} == {Verdict.REFUSED}


def test_an_association_lost_midway_leaves_the_rest_for_later(
    objects: list[OutboundObject], tmp_path: Path
) -> None:
    gone = OutboundObject(
        sop_class_uid=objects[1].sop_class_uid,
        sop_instance_uid=objects[1].sop_instance_uid,
        transfer_syntax_uid=objects[1].transfer_syntax_uid,
        data=(tmp_path / "gone.dcm").open,
    )
    outside = Outside()
    with outside.listening(classes(objects)):
        mixed = [objects[0], gone, *objects[2:]]
        results = list(send_objects(destination(outside.port), mixed, "GATEWAY"))

    assert [result.verdict for result in results] == [
        Verdict.SENT,
        *[Verdict.TRANSIENT] * 3,
    ]


def test_more_contexts_than_an_association_holds(
    objects: list[OutboundObject],
) -> None:
    many = tuple(str(c.abstract_syntax) for c in AllStoragePresentationContexts)
    assert len(many) > 128
    varied = [
        OutboundObject(
            sop_class_uid=uid,
            sop_instance_uid=f"1.2.3.{number}",
            transfer_syntax_uid=objects[0].transfer_syntax_uid,
            data=data_of(objects[0]),
        )
        for number, uid in enumerate(many)
    ]
    outside = Outside()
    with outside.listening(many):
        results = list(send_objects(destination(outside.port), varied, "GATEWAY"))

    assert {result.verdict for result in results} == {Verdict.SENT}
    assert outside.associations == 2


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.SENT),
        (0xB000, Verdict.WARNED),
        (0xB007, Verdict.WARNED),
        (0x0107, Verdict.WARNED),
        (0x0111, Verdict.SENT),
        (0xA700, Verdict.TRANSIENT),
        (0xA7FF, Verdict.TRANSIENT),
        (0xFE00, Verdict.TRANSIENT),
        (0x0110, Verdict.TRANSIENT),
        (0xA900, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0x0122, Verdict.REFUSED),
        (0x0124, Verdict.REFUSED),
    ],
)
def test_what_a_status_means(status: int, verdict: Verdict) -> None:
    assert verdict_of(status) is verdict
