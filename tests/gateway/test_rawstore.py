"""Responses are read by who waits for them, however slow the reactor is."""

from __future__ import annotations

import threading
import time
from typing import Any

from gateway.dicom.rawstore import _pause_reactor, sole_reader, store_bytes
from tests.gateway.scp import (
    ARCHIVE,
    CT_IMAGE,
    EXPLICIT,
    Archive,
    associated,
    encoded,
    small,
)
from tests.waiting import wait_until

SLOW_SECONDS = 0.05


class SlowCheckpoint(threading.Event):
    """Lets the reactor through, but late, as a busy machine does."""

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        time.sleep(SLOW_SECONDS)
        return passed


def test_a_slow_reactor_takes_nothing_from_who_waits() -> None:
    archive = Archive()
    contexts = [(CT_IMAGE, EXPLICIT)]
    with (
        archive.listening(contexts),
        associated(archive.port, contexts, called=ARCHIVE) as association,
    ):
        checkpoint = SlowCheckpoint()
        checkpoint.set()
        association._reactor_checkpoint = checkpoint
        looked, get_msg = threading.Event(), association.dimse.get_msg

        def watched(block: bool = False) -> Any:
            if not block:
                looked.set()
            return get_msg(block)

        association.dimse.get_msg = watched  # type: ignore[method-assign]
        for number in range(1, 6):
            with sole_reader(association):
                looked.clear()
                assert not looked.wait(3 * SLOW_SECONDS)
            item = encoded(small(f"1.2.3.{number}"))
            assert store_bytes(association, item).status == 0x0000
        assert len(archive.arrivals) == 5


class LateCheckpoint(threading.Event):
    """Holds the reactor once between its word that it stands and its standing."""

    def __init__(self) -> None:
        super().__init__()
        self.said = threading.Event()
        self.may_stand = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.said.set()
        self.may_stand.wait(20)
        return super().wait(timeout)


def test_a_reactor_that_stands_unheard_is_sent_round_again() -> None:
    archive = Archive()
    contexts = [(CT_IMAGE, EXPLICIT)]
    with (
        archive.listening(contexts),
        associated(archive.port, contexts, called=ARCHIVE) as association,
    ):
        checkpoint = LateCheckpoint()
        checkpoint.set()
        association._reactor_checkpoint = checkpoint
        assert checkpoint.said.wait(20)
        pausing = threading.Thread(target=_pause_reactor, args=(association,))
        pausing.start()
        wait_until(lambda: not (checkpoint.is_set() or association._is_paused))
        checkpoint.may_stand.set()
        pausing.join(20)
        heard = not pausing.is_alive()
        association._is_paused = True
        checkpoint.set()
        assert heard
