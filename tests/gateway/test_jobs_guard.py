"""What is asked before each object leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

from config.schema import Destination
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.sender import SendResult, Verdict
from gateway.stages.guard import CLOSED, GuardedSend
from tests.gateway.outside import destination

OBJECTS = [
    OutboundObject(
        sop_class_uid="1.2",
        sop_instance_uid=f"1.2.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        data=BytesIO,
    )
    for number in range(4)
]


class Peer:
    """Takes what it is sent, and remembers what and whether it was left."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.left = False

    def send(
        self, _to: Destination, objects: Sequence[OutboundObject], _calling: str
    ) -> Iterator[SendResult]:
        try:
            for one in objects:
                self.taken.append(one.sop_instance_uid)
                yield SendResult(
                    sop_instance_uid=one.sop_instance_uid,
                    status=0,
                    error="",
                    verdict=Verdict.SENT,
                )
        finally:
            self.left = True


def test_at_the_end_of_the_hours_it_stops_between_two_objects() -> None:
    peer = Peer()
    guarded = GuardedSend(
        send=peer.send, check=lambda: None, is_open=lambda: len(peer.taken) < 2
    )
    results = list(guarded(destination(1), OBJECTS, "GATEWAY"))

    assert peer.taken == ["1.2.0", "1.2.1"]
    assert peer.left
    assert [one.verdict for one in results] == [Verdict.SENT] * 2 + [
        Verdict.TRANSIENT
    ] * 2
    assert [one.sop_instance_uid for one in results] == [
        one.sop_instance_uid for one in OBJECTS
    ]
    assert {one.error for one in results[2:]} == {CLOSED}


def test_whoever_may_not_act_any_more_sends_no_further_object() -> None:
    peer = Peer()

    def check() -> None:
        if len(peer.taken) == 3:
            raise SystemExit

    guarded = GuardedSend(send=peer.send, check=check, is_open=lambda: True)
    sent = []
    try:
        sent.extend(guarded(destination(1), OBJECTS, "GATEWAY"))
    except SystemExit:
        assert peer.taken == ["1.2.0", "1.2.1", "1.2.2"]
    else:
        raise AssertionError("it went on")
