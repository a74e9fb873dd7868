"""A selection of what ``make reliability`` does, small enough for every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.each import kill_at_each
from tests.faults.kills import KillRounds
from tests.faults.points import BY_NAME
from tests.faults.scenario import play
from tests.faults.scenarios import BY_NAME as SCENARIOS
from tests.faults.world import World

pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.timeout(900)]

ROUNDS = 5
POINTS = ("response:before", "index.protected:before", "export.send:after")
"""Durable and not answered; made and not known; sent and not noted."""


def test_points_and_rounds_of_kill_9_lose_nothing_and_leak_nothing(
    tmp_path: Path,
) -> None:
    with World(tmp_path, "ci", web=True) as world:
        passed = kill_at_each(world, [BY_NAME[name] for name in POINTS], print)
        assert len(passed) == len(POINTS)
        world.site.end()
        result = KillRounds(world, "ci", print).run(ROUNDS)
    assert result.rounds == ROUNDS
    assert result.kills.total() == ROUNDS
    assert not result.report.broken, str(result)
    assert result.report.figures["objects at outside"] > 0
    assert result.report.figures["objects at archive"] > 0


@pytest.mark.parametrize("name", ["destination-resets"])
def test_a_named_fault_has_its_stated_outcome(name: str, tmp_path: Path) -> None:
    outcome = play(SCENARIOS[name], tmp_path / name)
    assert outcome.good, str(outcome)
