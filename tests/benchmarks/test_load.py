"""The load test tells leaks, stuck jobs and lost objects; and a small run is flat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load import Load, Reading, page_of, run_load

READ = Reading(resident=200 << 20, private=100 << 20, threads=5, files=20)


def good() -> Load:
    return Load(
        associations=2,
        instances=40,
        route="originals",
        accepted=40,
        delivered=40,
        distinct=40,
        jobs={"SUCCESS": 4},
        warm={"receiver": READ},
        last={"receiver": READ},
    )


BROKEN: dict[str, Callable[[Load], Load]] = {
    "39 of 40 accepted": lambda load: replace(load, accepted=39),
    "39 of 40 outside": lambda load: replace(load, distinct=39),
    "jobs left: {'PENDING': 1}": lambda load: replace(load, jobs={"PENDING": 1}),
    "receiver grew by 10.0%": lambda load: replace(
        load, last={"receiver": replace(READ, resident=220 << 20)}
    ),
    "receiver has 60 open files": lambda load: replace(
        load, last={"receiver": replace(READ, files=60)}
    ),
}


def test_a_good_run_has_no_fault() -> None:
    assert good().faults == []
    assert "As promised" in page_of(good())


@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_is_named(fault: str) -> None:
    load = BROKEN[fault](good())
    assert load.faults == [fault]
    assert fault in page_of(load)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_load_leaves_nothing_behind(tmp_path: Path) -> None:
    load, sampler = run_load(tmp_path, 4, 120, "protected", 120.0)
    assert load.faults == []
    assert load.states["instances"] == {"protected": 120}
    assert {"receiver", "worker", "auditor", "serve"} <= set(sampler.series[-1][2])
