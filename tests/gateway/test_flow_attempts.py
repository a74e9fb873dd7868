from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import Unprotectable
from gateway.stages.attempts import Attempts
from gateway.store.index import open_index
from gateway.store.work import Work
from tests.gateway.stored import INDEX_KEY


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    index = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    yield Work(index.database)
    index.close()


def test_attempts_that_end_leave_nothing(work: Work) -> None:
    attempts = Attempts(work, "a", limit=2)
    for _ in range(5):
        with attempts.attempt([1]):
            assert work.attempts_of([1, 2]) == {1: 1}
        with pytest.raises(ZeroDivisionError), attempts.attempt([1]):
            _ = 1 / 0

    assert work.attempts_of([1]) == {}


def test_an_object_met_too_often_by_any_worker_is_refused_and_may_be_retried(
    work: Work,
) -> None:
    interrupted = [Attempts(work, name, limit=2).attempt([1]) for name in "ab"]
    for attempt in interrupted:
        attempt.__enter__()
    attempts = Attempts(work, "c", limit=2)

    with (
        pytest.raises(Unprotectable, match="ended 2 times") as caught,
        attempts.attempt([1]),
    ):
        pytest.fail("it was let through")

    assert caught.value.reason == "crashes"
    with attempts.attempt([1]), attempts.attempt([2]):
        pass


def test_who_was_under_work_with_it_is_a_suspect_but_not_refused(work: Work) -> None:
    interrupted = Attempts(work, "a", limit=2).attempt([1, 2])
    interrupted.__enter__()
    attempts = Attempts(work, "b", limit=2)

    assert attempts.noted([3, 2])
    assert not attempts.noted([3])
    with attempts.attempt([2]):
        pass
    assert not attempts.noted([2])
    assert attempts.noted([1])


def test_a_stop_that_was_asked_for_counts_for_nothing_but_only_ones_own(
    work: Work,
) -> None:
    attempts = Attempts(work, "a", limit=1)
    stopped = attempts.attempt([1])
    stopped.__enter__()
    interrupted = Attempts(work, "b", limit=1).attempt([2])
    interrupted.__enter__()
    attempts.forget()

    with Attempts(work, "c", limit=1).attempt([1]):
        pass
    assert work.attempts_of([1, 2]) == {2: 1}
