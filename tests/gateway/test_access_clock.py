"""Grants end by a clock that setting the machine's clock does not turn back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.gateway.access_cases import DAY, NOON, YEAR, House, add

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("houses")


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A grant that ends in two hours."""
    made = House(tmp_path)
    with made.opened() as access:
        add(access, until=NOON + 2 * HOUR)
    return made


def test_a_grant_ends_when_its_time_has_passed(house: House) -> None:
    with house.opened() as access:
        assert access.holding(lambda _held: True)
        house.clocks.pass_(2 * HOUR - timedelta(seconds=1))
        assert access.holding(lambda _held: True)
        house.clocks.pass_(timedelta(seconds=1))
        assert not access.holding(lambda _held: True)


@pytest.mark.parametrize("back", [DAY, YEAR], ids=["a-day", "a-year"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_a_clock_set_back_revives_no_grant(
    house: House, back: timedelta, restart: bool
) -> None:
    with house.opened() as access:
        house.clocks.pass_(3 * HOUR)
        assert not access.holding(lambda _held: True)
        house.clocks.wall -= back
        assert not access.holding(lambda _held: True)
        if not restart:
            assert access.clock.now() == NOON + 3 * HOUR
            house.clocks.pass_(HOUR)
            assert access.clock.now() == NOON + 4 * HOUR
    if restart:
        house.clocks.monotonic = 0.0
        with house.opened() as access:
            assert not access.holding(lambda _held: True)
            assert access.clock.now() == NOON + 3 * HOUR
    (jump, *more) = house.audited("clock-jump")
    assert (jump["direction"], jump["outcome"]) == ("back", "failure")
    assert jump["seconds"] == back.total_seconds()
    assert len(more) == restart  # once by each process, not at each request


@pytest.mark.parametrize("back", [DAY, YEAR], ids=["a-day", "a-year"])
def test_a_clock_set_back_before_the_end_gives_no_more_time(
    house: House, back: timedelta
) -> None:
    with house.opened() as access:
        house.clocks.pass_(HOUR)
        assert access.holding(lambda _held: True)
        house.clocks.wall -= back
        house.clocks.pass_(HOUR - timedelta(seconds=1))
        assert access.holding(lambda _held: True)
        house.clocks.pass_(timedelta(seconds=1))
        assert not access.holding(lambda _held: True)


@pytest.mark.parametrize("forward", [DAY, YEAR], ids=["a-day", "a-year"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_a_clock_set_forward_ends_grants_until_a_person_resets_it(
    house: House, forward: timedelta, restart: bool
) -> None:
    with house.opened() as running:
        running.clock.now()
        if restart:
            house.clocks.monotonic = 0.0
        house.clocks.wall += forward
        with house.opened() as restarted:
            access = restarted if restart else running
            assert not access.holding(lambda _held: True)
            house.clocks.wall -= forward  # put right: that alone revives nothing
            assert not access.holding(lambda _held: True)
            with house.opened() as command:
                command.reset_clock("tester", "wrong battery")
            assert access.holding(lambda _held: True)
            assert access.clock.now() == house.clocks.wall
    jumps = [e for e in house.audited("clock-jump") if e["direction"] == "forward"]
    assert [e["seconds"] for e in jumps] == [forward.total_seconds()]
    assert jumps[0]["stopped"] is restart
    (reset,) = house.audited("clock-reset")
    assert (reset["who"], reset["reason"]) == ("tester", "wrong battery")


def test_after_a_reset_the_clock_holds_again(house: House) -> None:
    with house.opened() as access:
        access.reset_clock("tester", "test")
        house.clocks.pass_(3 * HOUR)
        access.clock.now()
    house.clocks.wall -= DAY
    house.clocks.monotonic = 0.0
    with house.opened() as access:
        assert not access.holding(lambda _held: True)


def test_a_time_that_nobody_asked_for_is_noted_by_the_tick(house: House) -> None:
    with house.opened() as access:
        house.clocks.pass_(3 * HOUR)
        access.tick()
    house.clocks.wall = NOON
    house.clocks.monotonic = 0.0
    with house.opened() as access:
        assert not access.holding(lambda _held: True)


def test_an_ordinary_clock_raises_no_alarm(house: House) -> None:
    with house.opened() as access:
        for _ in range(50):
            house.clocks.pass_(timedelta(minutes=1))
            house.clocks.wall += timedelta(seconds=1)  # put right now and then
            access.tick()
            house.clocks.wall -= timedelta(seconds=2)
            access.tick()
    house.clocks.monotonic = 0.0
    house.clocks.wall += 8 * HOUR  # a night off
    with house.opened() as access:
        access.tick()
    assert house.audited("clock-jump") == []
