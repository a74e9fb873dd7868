"""Who counts as lost, and what the lost may still do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from gateway.stages.heartbeat import EXIT_LOST, Heartbeat, Silence
from gateway.store.index import Index, open_index
from gateway.store.work import LOST, Work
from tests.gateway.stored import INDEX_KEY
from tests.gateway.worker_process import EXECUTOR

ONE = replace(EXECUTOR, id="a/worker-0/1", machine="a")
TWO = replace(EXECUTOR, id="b/worker-0/1", machine="b")


class Clock:
    """Seconds as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ended(BaseException):
    """The process would have ended here."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    yield opened
    opened.close()


@pytest.fixture
def work(index: Index) -> Work:
    return Work(index.database)


def ends(code: int) -> None:
    assert code == EXIT_LOST
    raise Ended


class Starts(Protocol):
    """Starts a heartbeat whose thread does not come to beat during a test."""

    def __call__(self, clock: Clock, silent: float = 3000.0) -> Heartbeat: ...


@pytest.fixture
def heartbeat(work: Work) -> Iterator[Starts]:
    """Start heartbeats; their threads end with the test, or beat in later ones."""
    with ExitStack() as started:

        def start(clock: Clock, silent: float = 3000.0) -> Heartbeat:
            made = Heartbeat(work, ONE, silent, clock=clock, leave=ends)
            made.start()
            started.callback(made.stop)
            return made

        yield start


def test_one_that_beats_no_more_is_lost_after_the_silence_and_not_before() -> None:
    clock = Clock()
    silence = Silence(30.0, 6.0, clock)
    lost_after = {}
    for second in range(0, 60, 3):
        clock.now = 1000.0 + second
        beats = min(second, 9)
        for one in silence.lost(
            [replace(ONE, beats=beats), replace(TWO, beats=second)]
        ):
            lost_after.setdefault(one.id, second)
    assert lost_after == {ONE.id: 39}


def test_nobody_is_lost_for_an_outage_of_what_they_show_themselves_in() -> None:
    clock = Clock()
    silence = Silence(30.0, 6.0, clock)
    assert silence.lost([ONE, TWO]) == []
    clock.now += 3600.0  # nobody could write, nobody could look
    assert silence.lost([ONE, TWO]) == []
    clock.now += 3.0
    assert silence.lost([replace(ONE, beats=1), replace(TWO, beats=1)]) == []


@given(st.lists(st.floats(0.1, 100_000.0), min_size=1, max_size=40))
def test_however_looks_fall_whoever_beats_between_them_is_not_lost(
    pauses: list[float],
) -> None:
    clock = Clock()
    silence = Silence(30.0, 6.0, clock)
    for number, pause in enumerate(pauses):
        assert silence.lost([replace(ONE, beats=number)]) == []
        clock.now += pause


def test_whoever_is_declared_lost_ends_at_the_next_beat(
    work: Work, heartbeat: Starts
) -> None:
    beating = heartbeat(Clock())
    beating.beat()
    (shown,) = work.executors()
    assert (shown.beats, shown.state) == (1, "live")

    assert not work.declare_lost(ONE.id, 0)  # it has gone on since
    beating.beat()
    assert work.declare_lost(ONE.id, 2)
    with pytest.raises(Ended):
        beating.beat()
    with pytest.raises(Ended):
        beating.check()


def test_an_effect_waits_while_the_process_cannot_show_itself(
    work: Work, heartbeat: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    beating = heartbeat(clock, silent=30.0)
    clock.now += 19.0
    beating.check()

    def away(_id: str) -> bool:
        raise OperationalError("UPDATE", {}, Exception("away"))

    with monkeypatch.context() as patched:
        patched.setattr(work, "beat", away)
        beating.beat()
        clock.now += 2.0
        passed = threading.Event()

        def act() -> None:
            beating.check()
            passed.set()

        acting = threading.Thread(target=act)
        acting.start()
        assert not passed.wait(0.3)
    beating.beat()
    acting.join(30)
    assert passed.is_set()


def test_an_effect_does_not_happen_when_others_took_the_work_up(
    work: Work, heartbeat: Starts
) -> None:
    clock = Clock()
    beating = heartbeat(clock)
    assert work.declare_lost(ONE.id, 0)
    with pytest.raises(Ended):  # though by its own clock it may still act
        beating.check()


def test_who_takes_a_place_ends_the_one_before(work: Work) -> None:
    work.register(ONE)
    work.register(TWO)
    work.register(replace(ONE, id="a/worker-0/2"))
    states = {one.id: one.state for one in work.executors()}
    assert states == {ONE.id: LOST, TWO.id: "live", "a/worker-0/2": "live"}
    assert not work.beat(ONE.id)


def test_a_stop_is_shown_and_ends_nothing(work: Work, heartbeat: Starts) -> None:
    beating = heartbeat(Clock())
    beating.stop()
    (shown,) = work.executors()
    assert shown.state == "stopped"
    work.forget([ONE.id])
    assert work.executors() == []
