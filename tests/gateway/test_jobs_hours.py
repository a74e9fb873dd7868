"""When a destination takes objects, and how long is waited."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import DAYS, Hours
from gateway.stages.backoff import SPREAD, wait_seconds
from gateway.stages.hours import Schedule

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "20:00", "to": "06:00"}


def schedule(zone: ZoneInfo, *windows: dict[str, object]) -> Schedule:
    return Schedule(tuple(Hours.model_validate(one) for one in windows), zone)


@pytest.mark.parametrize(
    ("shown", "is_open"),
    [
        ("2026-03-02T19:59:59", False),  # Monday
        ("2026-03-02T20:00:00", True),
        ("2026-03-03T05:59:59", True),
        ("2026-03-03T06:00:00", False),
        ("2026-03-07T03:00:00", True),  # Saturday: the night of Friday
        ("2026-03-07T21:00:00", False),
        ("2026-03-09T03:00:00", False),  # Monday: no window of Sunday
    ],
)
def test_a_window_over_midnight_is_its_first_days(shown: str, is_open: bool) -> None:
    nights = schedule(BERLIN, NIGHTS)
    moment = datetime.fromisoformat(shown).replace(tzinfo=BERLIN)
    assert nights.is_open(moment) is is_open


def test_the_night_of_a_change_to_summer_time_is_an_hour_shorter() -> None:
    nights = schedule(BERLIN, NIGHTS | {"days": ["sat"]})
    opens = nights.opens(datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert opens == datetime(2026, 3, 28, 19, tzinfo=UTC)
    assert nights.is_open(datetime(2026, 3, 29, 3, 59, tzinfo=UTC))
    assert not nights.is_open(datetime(2026, 3, 29, 4, tzinfo=UTC))


def test_times_that_a_change_skips_or_repeats_lose_no_window() -> None:
    # On 29 March 2026 no clock in Berlin shows 02:30; on 25 October it comes twice.
    early = schedule(BERLIN, {"from": "02:30", "to": "02:45"})
    assert early.opens(datetime(2026, 3, 29, 0, 50, tzinfo=UTC)) == datetime(
        2026, 3, 29, 1, 30, tzinfo=UTC
    )
    assert early.is_open(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    assert early.is_open(datetime(2026, 10, 25, 1, 44, tzinfo=UTC))
    assert not early.is_open(datetime(2026, 10, 25, 1, 45, tzinfo=UTC))


zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kabul"]
).map(ZoneInfo)
times = st.builds(time, st.integers(0, 23), st.integers(0, 59))
windows = (
    st.tuples(st.sets(st.sampled_from(DAYS), min_size=1), times, times)
    .filter(lambda given: given[1] != given[2])
    .map(
        lambda given: {
            "days": sorted(given[0]),
            "from": given[1],
            "to": given[2],
        }
    )
)
moments = st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)).map(  # noqa: DTZ001 - as clocks show it
    lambda one: one.replace(tzinfo=UTC)
)


@given(zones, st.lists(windows, min_size=1, max_size=3), moments)
def test_it_opens_within_a_week_and_not_before(
    zone: ZoneInfo, given_windows: list[dict[str, object]], moment: datetime
) -> None:
    chosen = schedule(zone, *given_windows)
    opens = chosen.opens(moment)
    assert timedelta(0) <= opens - moment <= timedelta(days=7, hours=2)
    assert chosen.is_open(opens)
    if opens > moment:
        assert not chosen.is_open(moment)
        middle = moment + (opens - moment) / 2
        assert not chosen.is_open(middle)
        assert not chosen.is_open(opens - timedelta(seconds=1))


@given(
    st.text(),
    st.integers(1, 10_000),
    st.floats(0.1, 100.0),
    st.floats(1.0, 10_000.0),
)
def test_a_wait_grows_up_to_its_cap_and_is_the_jobs_own(
    job: str, failures: int, first: float, more: float
) -> None:
    cap = first * more
    wait = wait_seconds(job, failures, first, cap)
    assert wait == wait_seconds(job, failures, first, cap)
    assert first * (1 - SPREAD) <= wait <= cap
    assert wait <= wait_seconds(job, failures + 1, first, cap)


def test_jobs_that_fail_at_once_do_not_come_again_at_once() -> None:
    waits = {wait_seconds(f"export:{n}:x#1.1", 5, 5.0, 600.0) for n in range(100)}
    assert max(waits) - min(waits) > 0.2 * max(waits)
    assert len(waits) == 100
