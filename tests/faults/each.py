"""Every named point once: a process dies exactly there, and everything recovers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.faults.launcher import Order
from tests.faults.points import BY_NAME, ROTATING, Point
from tests.faults.world import World

PROTECTED, ORIGINALS = 2, 1
FIRED_SECONDS = 180.0
ROTATED_SECONDS = 120.0
STARTING = ("migrate:before", "migrate:after")


@dataclass(frozen=True, kw_only=True)
class Passed:
    """How it went at one point.

    Attributes
    ----------
    seconds
        From the kill until everything that was sent then was delivered.
    """

    point: Point
    seconds: float


def kill_at(world: World, point: Point) -> Passed:
    """Have the process that passes a point die there, with objects under way.

    What is left of the work is then finished by the processes started anew, and
    everything is delivered.
    """
    controls = world.site.controls
    role = "worker" if point.role == "any" else point.role
    world.disturb("point", name=point.name)
    if point in ROTATING:
        return _kill_rotation(world, point)
    controls.arm(point.name, Order(action="kill", role=role))
    if point.name in STARTING:
        world.site.kill(role)
    items = [*world.make("protected", PROTECTED), *world.make("originals", ORIGINALS)]
    for one in (items[:PROTECTED], items[PROTECTED:]):
        world.send_all(one)
    world.site.wait(
        lambda: controls.fired(point.name), FIRED_SECONDS, f"somebody passes {point}"
    )
    begun = time.monotonic()
    world.disturb("killed", name=point.name)
    world.wait_sent(items, 300.0)
    return Passed(point=point, seconds=time.monotonic() - begun)


def _kill_rotation(world: World, point: Point) -> Passed:
    """Kill ``keys rotate`` at a point; given again it goes on and ends well."""
    controls = world.site.controls
    controls.arm(point.name, Order(action="kill", role="keys", skip=1))
    killed = world.site.cli("keys", "rotate")
    assert controls.fired(point.name), f"nobody passed {point.name}: {killed.stderr}"
    assert killed.returncode == -9, killed.stderr
    begun = time.monotonic()
    world.send_all(items := world.make("protected", 1))
    world.site.wait(
        lambda: world.site.cli("keys", "rotate", "--json").returncode == 0,
        ROTATED_SECONDS,
        "keys rotate, given again while files are written, ends well",
    )
    world.wait_sent(items, 300.0)
    return Passed(point=point, seconds=time.monotonic() - begun)


def chosen(names: Sequence[str] | None, points: Sequence[Point]) -> list[Point]:
    """Return points by name; all of them where none is named."""
    return [BY_NAME[name] for name in names] if names else list(points)


def kill_at_each(
    world: World, points: Sequence[Point], tell: Callable[[str], object]
) -> list[Passed]:
    """Do it for each in one site; those that the journal has are not repeated."""
    done = {event["name"] for event in world.journal.events("passed")}
    world.site.start()
    world.site.ready()
    passed = []
    for point in points:
        if point.name in done:
            continue
        one = kill_at(world, point)
        world.journal.note("passed", name=point.name, seconds=one.seconds)
        tell(f"{point.name}: {point.step}; all delivered {one.seconds:.1f} s later")
        passed.append(one)
    world.settle()
    return passed
