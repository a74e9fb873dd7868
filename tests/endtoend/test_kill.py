"""kill -9 in the middle of a study: nothing lost, nothing unprotected."""

from __future__ import annotations

import threading
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from gateway.demo.cases import demo_cases
from gateway.demo.nodes import StorageNode
from gateway.demo.site import OUTSIDE
from tests.endtoend.support import LONG_SECONDS, Gateway, Ports

if TYPE_CHECKING:
    from pathlib import Path

    from pynetdicom.events import Event

    from gateway.demo.cases import Case
    from gateway.store.index import Index

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class StuckNode(StorageNode):
    """Answers some C-STORE requests and then none until it is let go."""

    def __init__(self, ae_title: str, answers: int) -> None:
        super().__init__(ae_title)
        self.answers = answers
        self.stuck = threading.Event()
        self.let_go = threading.Event()

    def _on_store(self, event: Event) -> int:
        if len(self.arrivals) < self.answers or self.let_go.is_set():
            return super()._on_store(event)
        self.stuck.set()
        self.let_go.wait(LONG_SECONDS)
        return 0xC000  # whoever asked is gone


def test_kill_9_while_protecting_loses_nothing_and_leaks_nothing(
    tmp_path: Path,
) -> None:
    cases = demo_cases()[:4]
    with (
        StorageNode(OUTSIDE) as outside,
        Gateway(tmp_path, Ports(outside=outside.port, workstation=1)) as gateway,
    ):
        assert gateway.send(cases) == [0] * len(cases)
        index = gateway.index()
        gateway.wait(lambda: index.counts()["instances"].get("protected", 0) >= 1)
        gateway.kill()
        assert len(outside.arrivals) < len(cases), "the kill came too late"
        gateway.start()
        gateway.wait(lambda: delivered(index) == len(cases))
        index.close()
    assert_each_came_out_protected_once(cases, outside)


def test_kill_9_while_sending_loses_nothing_and_sends_nothing_confirmed_again(
    tmp_path: Path,
) -> None:
    cases = demo_cases()[:4]
    with (
        StuckNode(OUTSIDE, answers=2) as outside,
        Gateway(tmp_path, Ports(outside=outside.port, workstation=1)) as gateway,
    ):
        assert gateway.send(cases) == [0] * len(cases)
        index = gateway.index()
        gateway.wait(outside.stuck.is_set)
        gateway.wait(lambda: delivered(index) == 2)
        gateway.kill()
        outside.let_go.set()
        gateway.start()
        gateway.wait(lambda: delivered(index) == len(cases))
        index.close()
    assert_each_came_out_protected_once(cases, outside)


def delivered(index: Index) -> int:
    return index.counts()["deliveries"].get("sent", 0)


def assert_each_came_out_protected_once(
    cases: list[Case], outside: StorageNode
) -> None:
    arrived = [arrival.sop_instance_uid for arrival in outside.arrivals]
    assert len(arrived) == len(set(arrived)) == len(cases)
    originals = {case.sop_instance_uid: case for case in cases}
    assert not set(originals) & set(arrived)
    for arrival in outside.arrivals:
        marked = dcmread(BytesIO(arrival.part10))
        source = marked.SourceImageSequence[0].ReferencedSOPInstanceUID
        original = dcmread(BytesIO(originals.pop(source).part10))
        assert marked.PixelData != original.PixelData
    assert originals == {}
