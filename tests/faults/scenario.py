"""A named fault: what is done, what must come of it, and what did."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.site import Machine
from tests.faults.world import World


@dataclass
class Seen:
    """What was seen of a scenario, sentence by sentence."""

    facts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def fact(self, what: str) -> None:
        """Note something for the table."""
        self.facts.append(what)

    def must(self, holds: bool, what: str) -> None:
        """Note something that has to be so, and whether it is."""
        (self.facts if holds else self.wrong).append(what)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One fault.

    Attributes
    ----------
    name
        As the table and the command line say it.
    done
        What is done to the gateway, or to what is around it.
    stated
        What is promised to come of it.
    act
        Does it in a world that runs and has everything delivered, and leaves the
        fault mended: what comes after is that everything is delivered.
    options
        Of `World`.
    machine, own_disk
        Whether it needs a slow disk or wrong clock; a disk of its own, in MiB.
    """

    name: str
    done: str
    stated: str
    act: Callable[[World, Seen], None]
    options: dict[str, object] = field(default_factory=dict)
    machine: bool = False
    own_disk: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a scenario went."""

    scenario: Scenario
    facts: tuple[str, ...]
    wrong: tuple[str, ...]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether what was stated was seen."""
        return not self.wrong

    def __str__(self) -> str:
        seen = "; ".join([*self.facts, *(f"WRONG: {w}" for w in self.wrong)])
        verdict = "as stated" if self.good else "NOT AS STATED"
        return (
            f"{self.scenario.name}: {verdict} ({self.seconds:.0f} s)\n"
            f"  done:   {self.scenario.done}\n"
            f"  stated: {self.scenario.stated}\n"
            f"  seen:   {seen}"
        )


def _machine(folder: Path) -> Machine:
    return Machine.build(folder / "machine", folder / "data")


def play(scenario: Scenario, folder: Path, seed: str = "1") -> Outcome:
    """Run a scenario on a new site: load, the fault, its end, and all invariants."""
    begun = time.monotonic()
    seen = Seen()
    with ExitStack() as stack:
        machine = _machine(folder) if scenario.machine else None
        data = None
        if scenario.own_disk:
            from tests.faults.disk import mounted, small

            data = stack.enter_context(
                mounted(folder / "disk", *small(scenario.own_disk))
            )
        world = World(
            folder,
            seed,
            machine=machine,
            data=None if data is None else data / "data",
            **scenario.options,  # type: ignore[arg-type]
        )
        stack.enter_context(world)
        world.site.start()
        world.site.ready()
        world.disturb("begin", scenario=scenario.name)
        scenario.act(world, seen)
        world.disturb("end", scenario=scenario.name)
        world.settle()
        report = world.check()
    for one in report.broken:
        seen.must(False, one)
    seen.fact(
        f"afterwards {report.figures['acknowledged']} of "
        f"{report.figures['acknowledged']} acknowledged objects stored and given back "
        f"exactly, {report.figures['objects at outside']} marked objects outside"
        if not report.broken
        else "invariants broken"
    )
    return Outcome(
        scenario=scenario,
        facts=tuple(seen.facts),
        wrong=tuple(seen.wrong),
        seconds=time.monotonic() - begun,
    )
