"""A few rounds of what ``make reliability`` does, small enough for every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import KillRounds, Moment
from tests.faults.world import World

pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.timeout(600)]

SEED = "ci-3652"
ROUNDS = ("receiver", "worker", "all")
"""Whom this seed kills: one of the receivers and the worker at work, then all."""


def test_rounds_of_kill_9_lose_nothing_and_leak_nothing(tmp_path: Path) -> None:
    drawn = [Moment.drawn(f"{SEED}:{n}").target for n, _ in enumerate(ROUNDS, 1)]
    assert drawn == list(ROUNDS)
    with World(tmp_path, "ci") as world:
        result = KillRounds(world, SEED, print).run(len(ROUNDS))
    assert result.kills.total() == len(ROUNDS)
    assert not result.report.broken, str(result)
    assert result.report.figures["objects at outside"] > 0
    assert result.report.figures["objects at archive"] > 0
