"""Kill -9 at random moments, round after round, of one long-running site."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event

from tests.faults.invariants import Report
from tests.faults.world import World

TARGETS = {
    "worker": 35,
    "receiver": 30,
    "all": 15,
    "serve": 8,
    "web": 8,
    "auditor": 4,
}
"""How often each is killed, of a hundred; ``all``: the whole group at once."""

READY_WORDS = {"receiver": "listening", "worker": "working"}
"""What a process says in the log when it has begun its work."""

WORKED_FIRST = 0.6
"""So often the target is at work when its last moment is drawn; else it may as well
be in the middle of its start."""

LATEST = {"worker": 6.0}
LATEST_SECONDS = 2.5
"""The last moment is drawn from so many seconds."""

CHECKED_EVERY = 25
PATIENCE_SECONDS = 60.0


@dataclass
class KillResult:
    """What the rounds came to."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    report: Report = field(default_factory=Report)

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items()))
        return f"{self.rounds} rounds in {self.seconds:.0f} s ({killed}): {self.report}"


class KillRounds:
    """Rounds of kill -9 against a world under load.

    Parameters
    ----------
    world
        Entered; rounds that its journal knows count.
    seed
        Of targets and moments.
    tell
        Gets a line of progress.
    """

    def __init__(self, world: World, seed: str, tell: Callable[[str], object]) -> None:
        self._world = world
        self._seed = seed
        self._tell = tell
        self._seen: dict[str, int] = {}
        self._since = 0

    def run(self, rounds: int, until: float | None = None) -> KillResult:
        """Do rounds until there are so many, or the time has come; then check all.

        Parameters
        ----------
        until
            Of ``time.monotonic``.
        """
        done = list(self._world.journal.events("round"))
        begun = time.monotonic()
        self._world.site.start()
        self._world.site.ready()
        self._world.start_load()
        for number in range(len(done) + 1, rounds + 1):
            if until is not None and time.monotonic() > until:
                break
            self._round(number)
            if number % CHECKED_EVERY == 0:
                self._checkpoint(number)
        self._world.settle()
        result = self._result(time.monotonic() - begun)
        self._world.journal.note(
            "result",
            rounds=result.rounds,
            broken=result.report.broken,
            figures=result.report.figures,
        )
        return result

    def _round(self, number: int) -> None:
        moment = random.Random(f"{self._seed}:{number}")
        (target,) = moment.choices([*TARGETS], [*TARGETS.values()])
        at_work = moment.random() < WORKED_FIRST
        wait = moment.uniform(0.0, LATEST.get(target, LATEST_SECONDS))
        begun = time.monotonic()
        if at_work:
            self._wait_at_work(target)
        Event().wait(wait)
        killed = self._kill(target)
        self._world.disturb("killed", target=target)
        if not self._world.site.alive():
            self._since = self._log_size()
            self._seen.clear()
            self._world.site.start()
        self._seen[target] = self._log_size()
        seconds = time.monotonic() - begun
        self._world.journal.note(
            "round", number=number, target=target, killed=len(killed), seconds=seconds
        )
        self._tell(
            f"round {number}: {target} ({len(killed)} processes) after {wait:.1f} s"
            f"{' at work' if at_work else ''}; {len(self._world.ledger.kept())} "
            f"acknowledged, {self._world.outside.count} outside, "
            f"{self._world.archive.count} at the archive"
        )

    def _kill(self, target: str) -> list[int]:
        """Kill what is of a kind; wait for it where it is between two lives."""
        killed: list[int] = []

        def tried() -> bool:
            self._world.disturb("kill", target=target)
            killed.extend(self._world.site.kill(target))
            return bool(killed)

        if not tried():
            self._world.site.wait(tried, PATIENCE_SECONDS, f"a {target}")
        return killed

    def _wait_at_work(self, target: str) -> None:
        """Wait until the log says that a target has begun its work since its end."""
        word = READY_WORDS.get(target, READY_WORDS["receiver"])
        since = self._seen.get(target, self._since)
        with suppress(AssertionError):
            self._world.site.wait(
                lambda: word in self._log_from(since), PATIENCE_SECONDS, word
            )

    def _log_size(self) -> int:
        return self._world.site.log.stat().st_size

    def _log_from(self, place: int) -> str:
        with self._world.site.log.open("rb") as stream:
            stream.seek(place)
            return stream.read().decode("utf-8", "replace")

    def _checkpoint(self, number: int) -> None:
        report = self._world.check_running()
        self._world.journal.note("checked", number=number, broken=report.broken)
        self._tell(f"checked after round {number}: {report}")
        assert not report.broken, str(report)

    def _result(self, seconds: float) -> KillResult:
        rounds = list(self._world.journal.events("round"))
        earlier = sum(e["seconds"] for e in self._world.journal.events("ran"))
        self._world.journal.note("ran", seconds=seconds)
        return KillResult(
            rounds=len(rounds),
            kills=Counter(event["target"] for event in rounds),
            seconds=earlier + seconds,
            report=self._world.check(),
        )
