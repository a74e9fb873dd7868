"""Kill -9 at random moments, round after round, of one long-running site."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Self

from tests.faults.invariants import Report
from tests.faults.world import World

TARGETS = {
    "worker": 35,
    "receiver": 33,
    "all": 12,
    "web": 10,
    "serve": 6,
    "auditor": 4,
}
"""How often each is killed, of a hundred; ``all``: the whole group at once."""

WORK: Mapping[str, tuple[str, ...]] = {
    "worker": ("outside", "archive"),
    "receiver": ("received",),
    "web": ("web",),
    "auditor": ("received",),
    "all": ("received", "outside", "archive"),
    "serve": ("received", "outside", "archive"),
}
"""By what, of `World.progress`, one sees that a target is at work; drawn where there
are several."""

DONE_BY = {
    "received": "receiver",
    "web": "web",
    "outside": "worker",
    "archive": "worker",
}
"""Who does it: it counts from when that was killed last."""

AT_WORK = 0.5
"""So often the target is at work when its last moment is drawn; else it may as well
be in the middle of its start."""

ONE_OF_SEVERAL = 0.6
"""So often only one of several receivers or workers is killed."""

LATEST_AT_WORK_SECONDS = 1.0
LATEST = {"worker": 5.0}
LATEST_SECONDS = 2.5
"""The last moment is drawn from so many seconds: at work, or of its start."""

WITHIN_SECONDS = 0.2
"""Of an association that is open then: what receives is killed in its midst."""

CHECKED_EVERY = 25
PATIENCE_SECONDS = 60.0
SENDER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Whom a round kills, and when; all of it follows from the seed.

    Attributes
    ----------
    work
        What the target has to have done before; empty: nothing.
    wait
        Seconds after that.
    within
        Seconds after a sender was seen at it.
    share
        Of several only the one at this place is killed; None: all.
    """

    target: str
    work: str
    wait: float
    within: float
    share: float | None

    @classmethod
    def drawn(cls, seed: str) -> Self:
        """Draw the moment of one round."""
        drawn = random.Random(seed)
        (target,) = drawn.choices([*TARGETS], [*TARGETS.values()])
        at_work = drawn.random() < AT_WORK
        starting = LATEST.get(target, LATEST_SECONDS)
        latest = LATEST_AT_WORK_SECONDS if at_work else starting
        return cls(
            target=target,
            work=drawn.choice(WORK[target]) if at_work else "",
            wait=drawn.uniform(0.0, latest),
            within=drawn.uniform(0.0, WITHIN_SECONDS),
            share=drawn.random() if drawn.random() < ONE_OF_SEVERAL else None,
        )

    @property
    def receives(self) -> bool:
        """Whether its work is to receive."""
        return self.work in ("received", "web")

    def __str__(self) -> str:
        when = f"at work ({self.work})" if self.work else "at any moment"
        return f"{self.target} {when} + {self.wait:.1f} s"


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


@dataclass(frozen=True)
class End:
    """When a target was killed last, and what had been done by then."""

    at: float
    progress: Mapping[str, int]


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
        self._ends: dict[str, End] = {}

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
        end = End(time.monotonic(), self._world.progress())
        self._ends = dict.fromkeys(DONE_BY.values(), end)
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
        world = self._world
        moment = Moment.drawn(f"{self._seed}:{number}")
        begun, before = time.monotonic(), world.progress()
        at_work = bool(moment.work) and self._wait_at_work(moment)
        Event().wait(moment.wait)
        if at_work and moment.receives:
            self._wait_sending(moment)
        sending = world.sending() + world.sending(web=True)
        killed = self._kill(moment)
        world.disturb("killed", target=moment.target)
        after = world.progress()
        end = self._ends[moment.target] = End(time.monotonic(), after)
        if not world.site.alive():
            world.site.start()
            self._ends = dict.fromkeys(DONE_BY.values(), end)
        seconds = time.monotonic() - begun
        done = {name: after[name] - before[name] for name in after}
        world.journal.note(
            "round",
            number=number,
            target=moment.target,
            at_work=at_work,
            killed=len(killed),
            sending=sending,
            seconds=seconds,
            **done,
        )
        self._tell(
            f"round {number}: {moment} ({len(killed)} processes), {seconds:.1f} s, "
            f"{sending} sending; {', '.join(f'{k} +{n}' for k, n in done.items())}"
        )

    def _kill(self, moment: Moment) -> list[int]:
        """Kill what is of a kind; wait for it where it is between two lives."""
        killed: list[int] = []

        def tried() -> bool:
            self._world.disturb("kill", target=moment.target)
            killed.extend(self._world.site.kill(moment.target, moment.share))
            return bool(killed)

        if not tried():
            self._world.site.wait(tried, PATIENCE_SECONDS, f"a {moment.target}")
        return killed

    def _wait_at_work(self, moment: Moment) -> bool:
        """Wait until what is to be seen has been done since its doer's last kill."""
        world, work = self._world, moment.work
        end = self._ends[DONE_BY[work]]

        def works() -> bool:
            if moment.receives:
                return world.received_since(end.at, web=work == "web")
            return world.progress()[work] > end.progress[work]

        return self._waited(works, PATIENCE_SECONDS)

    def _wait_sending(self, moment: Moment) -> None:
        """Wait for somebody who sends, and a little."""
        web = moment.work == "web"
        if self._waited(lambda: self._world.sending(web=web) > 0, SENDER_SECONDS):
            Event().wait(moment.within)

    def _waited(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or not self._world.site.alive():
                return False
            Event().wait(0.02)
        return True

    def _checkpoint(self, number: int) -> None:
        report = self._world.check_running()
        self._world.journal.note("checked", number=number, broken=report.broken)
        self._tell(f"checked after round {number}: {report}")
        assert not report.broken, str(report)
        with self._world.site.index() as index:
            if held := self._world.replay_held(index):
                self._tell(f"{held} revisions that were held are tried again")

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
