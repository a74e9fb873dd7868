from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import Unprotectable
from gateway.stages.attempts import Attempts


def test_attempts_that_end_leave_nothing(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "notes", limit=2)
    for _ in range(5):
        with attempts.attempt([1]):
            pass
        with pytest.raises(ZeroDivisionError), attempts.attempt([1]):
            _ = 1 / 0

    assert list((tmp_path / "notes").iterdir()) == []


def test_an_object_met_too_often_is_refused_and_may_be_retried(tmp_path: Path) -> None:
    held = [Attempts(tmp_path / "notes", limit=2).attempt([1]) for _ in range(2)]
    for attempt in held:
        attempt.__enter__()
    attempts = Attempts(tmp_path / "notes", limit=2)

    with (
        pytest.raises(Unprotectable, match="ended 2 times") as caught,
        attempts.attempt([1]),
    ):
        pytest.fail("it was let through")

    assert caught.value.reason == "crashes"
    with attempts.attempt([1]), attempts.attempt([2]):
        pass


def test_who_was_under_work_with_it_is_a_suspect_but_not_refused(
    tmp_path: Path,
) -> None:
    interrupted = Attempts(tmp_path / "notes", limit=2).attempt([1, 2])
    interrupted.__enter__()
    attempts = Attempts(tmp_path / "notes", limit=2)

    assert attempts.noted([3, 2])
    assert not attempts.noted([3])
    with attempts.attempt([2]):
        pass
    assert not attempts.noted([2])
    assert attempts.noted([1])


def test_a_stop_that_was_asked_for_counts_for_nothing(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "notes", limit=1)
    interrupted = attempts.attempt([1])
    interrupted.__enter__()
    attempts.forget()

    with Attempts(tmp_path / "notes", limit=1).attempt([1]):
        pass
