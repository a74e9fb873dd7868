"""Two workers share a site on PostgreSQL; one is killed in the middle of a series."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.faults.invariants import Report
from tests.faults.launcher import Order
from tests.faults.world import World

LIMIT_SECONDS = 60.0
WORKING_POINT = "vault.put:before"
SERIES = 6


@dataclass(frozen=True, kw_only=True)
class TakeOver:
    """How long it took.

    Attributes
    ----------
    seconds
        From the last sign of life of the killed worker until its series was sent.
    """

    seconds: float
    report: Report

    @property
    def good(self) -> bool:
        """Whether it was in time and nothing was lost."""
        return self.seconds < LIMIT_SECONDS and not self.report.broken


def take_over(world: World) -> TakeOver:
    """Kill the worker that protects a series; it may not come back.

    The point lets the first worker that comes by hang, so that it is the one; the
    supervisor is stopped (SIGSTOP) so that nobody starts it anew. Its heartbeat goes
    on until it is killed, so its last beat is at most one interval before.
    """
    site = world.site
    site.start()
    site.ready()
    site.wait(lambda: len(site.processes().get("worker", [])) == 2, 60, "two workers")
    site.wait(lambda: site.said("working") >= 2, 180, "both work")
    warm = world.send("protected", 1)
    world.wait_sent(warm)
    site.controls.arm(WORKING_POINT, Order(action="hang", role="worker"))
    items = world.send("protected", SERIES)
    site.wait(lambda: site.controls.fired(WORKING_POINT), 120, "one works")
    guilty = site.controls.who(WORKING_POINT)
    site.suspend_supervisor()
    begun = time.monotonic()
    world.disturb("killed", target="worker")
    site.kill_process(guilty)
    world.wait_sent(items, 300.0)
    seconds = time.monotonic() - begun
    site.resume_supervisor()
    world.settle()
    return TakeOver(seconds=seconds, report=world.check())
