"""The named faults of docs/reliability.md."""

from __future__ import annotations

import errno
import signal
import sqlite3
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from gateway.app.places import Places
from tests.faults import peers
from tests.faults.disk import filled
from tests.faults.launcher import Order
from tests.faults.scenario import Scenario, Seen
from tests.faults.site import Machine

if TYPE_CHECKING:
    from tests.faults.objects import Item
    from tests.faults.world import World

DAY = 86_400
SLOW_MILLISECONDS = 200
LOCKED_SECONDS = 5.0
BACK_SECONDS = 60.0
"""So soon everything is delivered once a fault is mended: waits are capped at 2 s."""
REFUSED = "Refused: OutOfResources"
PROCESSING_FAILURE = "Failed: ProcessingFailure"


def _ordinary(world: World) -> None:
    """Have some of both kinds delivered, so that everything is warm."""
    both = [*world.send("protected", 2), *world.send("originals", 2)]
    world.wait_sent(both)


def _delivered_within(
    world: World, seen: Seen, items: list[Item], seconds: float = BACK_SECONDS
) -> None:
    took = world.wait_sent(items, 300.0)
    seen.must(took <= seconds, f"all delivered {took:.1f} s after the fault was mended")


# The disk


def disk_full(world: World, seen: Seen) -> None:
    _ordinary(world)
    waiting = world.make("protected", 2)
    disk = world.site.data.parent
    with filled(disk, leave_bytes=0):
        answers = world.try_to_send(waiting)
        seen.must(
            len(answers) == len(waiting) and "Success" not in answers.values(),
            f"full: senders were answered {sorted(set(answers.values()))}",
        )
        seen.must(world.site.alive(), "the gateway kept running")
    world.send_all(waiting)
    _delivered_within(world, seen, waiting)


def disk_full_at_work(world: World, seen: Seen) -> None:
    """The disk fills up while the worker protects what was received before."""
    _ordinary(world)
    world.site.controls.arm(
        "vault.put:before", Order(action="sleep", seconds=5.0, role="worker")
    )
    items = world.send("protected", 3)
    world.site.wait(
        lambda: world.site.controls.fired("vault.put:before"), 120, "protection"
    )
    with filled(world.site.data.parent, leave_bytes=0):
        world.pause(15.0)
    _held_are_retried(world, seen)
    _delivered_within(world, seen, items)


def _held_are_retried(world: World, seen: Seen) -> None:
    """Do what operations says of what was held: ``retry``."""
    with world.site.index() as index:
        held = index.instances_in_state("held")
        revisions = index.revisions("held")
    reasons = sorted({one.reason for one in held} | {r.reason for r in revisions})
    seen.fact(f"held meanwhile: {len(held)} objects {reasons}")
    seen.must(all(reasons), "each with a reason")
    if held or revisions:
        done = world.site.cli("jobs", "replay", "all", "--reason", "tried again")
        seen.must(done.returncode == 0, "`retry --all` took them up")


def _disk_error(number: int, world: World, seen: Seen) -> None:
    _ordinary(world)
    machine = _machine(world)
    waiting = world.make("protected", 2)
    machine.set(error=number)
    answers = world.try_to_send(waiting, 20)
    world.pause(5.0)
    machine.set()
    seen.must("Success" not in answers.values(), "no sender was told Success")
    seen.fact(f"senders were answered {sorted(set(answers.values())) or 'nothing'}")
    seen.must(machine.failed > 0, f"{machine.failed} calls failed")
    world.send_all(waiting)
    _held_are_retried(world, seen)
    _delivered_within(world, seen, waiting)


def slow_disk(world: World, seen: Seen) -> None:
    _ordinary(world)
    machine = _machine(world)
    machine.set(fsync_milliseconds=SLOW_MILLISECONDS)
    begun = time.monotonic()
    items = [*world.send("protected", 3), *world.send("originals", 5)]
    seen.fact(f"8 objects acknowledged in {time.monotonic() - begun:.1f} s")
    took = world.wait_sent(items, 300.0)
    seen.fact(f"and delivered {took:.1f} s later")
    seen.must(machine.slowed > 0, f"{machine.slowed} waits for the disk were slowed")
    machine.set()


def _machine(world: World) -> Machine:
    assert world.machine is not None
    return world.machine


# The clock


def _clock(seconds: int, world: World, seen: Seen) -> None:
    _ordinary(world)
    before = [*world.send("protected", 2), *world.send("originals", 2)]
    _machine(world).set(clock_seconds=seconds)
    after = [*world.send("protected", 2), *world.send("originals", 2)]
    took = world.wait_sent([*before, *after], 300.0)
    seen.must(took <= BACK_SECONDS, f"all delivered within {took:.1f} s of the jump")
    # A destination that is away while the clock jumps back: its waits hang on it.
    world.outside.pause()
    waiting = world.send("protected", 2)
    _until_tried(world, waiting)
    _machine(world).set()
    world.outside.resume()
    _delivered_within(world, seen, waiting)


def _until_tried(world: World, items: list[Item]) -> None:
    """Wait until an export of these was tried and failed."""
    with world.site.index() as index:
        world.site.wait(
            lambda: any(
                delivery.attempts
                for item in items
                if (row := index.instance(item.uid)) is not None
                and row.revision_id is not None
                for delivery in index.deliveries_of(row.revision_id)
            ),
            120,
            "an export was tried",
        )


# Databases


def index_locked(world: World, seen: Seen) -> None:
    _ordinary(world)
    waiting = world.make("originals", 2)
    with world.site.index() as index, index.database.write():
        world.start_sending(waiting)
        world.pause(LOCKED_SECONDS)
        seen.must(not world.acknowledged(waiting), "nothing acknowledged meanwhile")
    world.wait_sending()
    seen.must(world.acknowledged(waiting) == 2, "both acknowledged after it")
    _delivered_within(world, seen, waiting)


def jobs_locked(world: World, seen: Seen) -> None:
    _ordinary(world)
    path = Places(world.site.data).jobs
    with closing(sqlite3.connect(path, isolation_level=None)) as jobs:
        jobs.execute("BEGIN IMMEDIATE")
        items = [*world.send("protected", 2), *world.send("originals", 2)]
        seen.fact("4 objects received and acknowledged meanwhile")
        world.pause(LOCKED_SECONDS)
        jobs.execute("ROLLBACK")
    _delivered_within(world, seen, items)


def database_restarted(number: signal.Signals, world: World, seen: Seen) -> None:
    _ordinary(world)
    assert world.cluster is not None
    before = world.send("protected", 2)
    waiting = world.make("originals", 2)
    world.cluster.stop(number)
    world.start_sending(waiting)
    world.pause(LOCKED_SECONDS)
    seen.must(not world.acknowledged(waiting), "nothing acknowledged meanwhile")
    world.cluster.start()
    world.wait_sending()
    world.send_all(waiting)
    seen.must(world.site.alive(), "the gateway kept running")
    _delivered_within(world, seen, [*before, *waiting])


def objects_fail(world: World, seen: Seen) -> None:
    _ordinary(world)
    assert world.front is not None
    before = world.send("protected", 2)
    waiting = world.make("originals", 2)
    world.front.fault = "500"
    asked = len(world.front.requests)
    answers = world.try_to_send(waiting)
    world.pause(LOCKED_SECONDS)
    seen.must("Success" not in answers.values(), "no sender was told Success")
    seen.fact(f"senders were answered {sorted(set(answers.values())) or 'nothing'}")
    failed = len(world.front.requests) - asked
    seen.must(failed > 0, f"{failed} requests were answered 500")
    world.front.fault = ""
    world.send_all(waiting)
    _held_are_retried(world, seen)
    _delivered_within(world, seen, [*before, *waiting])


# Destinations


def _refuses(status: int, world: World, seen: Seen) -> None:
    _ordinary(world)
    world.outside.answer = lambda _uid: status
    items = world.send("protected", 2)
    others = world.send("originals", 2)
    _until_tried(world, items)
    world.wait_sent(others)
    seen.fact("another destination got its objects meanwhile")
    world.pause(3.0)
    states = _states(world, items)
    world.outside.answer = lambda _uid: 0
    seen.fact(f"deliveries meanwhile: {sorted(states)}")
    if status == 0xC000:
        seen.must(states == {"refused"}, "refused objects are kept apart")
        with world.site.index() as index:
            world.site.wait(lambda: bool(index.revisions("held")), 60, "held")
            (held,) = index.revisions("held")
        seen.must("refused at outside" in held.reason, f"the reason: {held.reason}")
        assert (
            world.site.cli(
                "jobs", "replay", "all", "--reason", "tried again"
            ).returncode
            == 0
        )
    else:
        seen.must(states == {"pending"}, "they wait and are tried again")
    _delivered_within(world, seen, items)


def _states(world: World, items: list[Item]) -> set[str]:
    with world.site.index() as index:
        rows = [index.instance(item.uid) for item in items]
        return {
            delivery.state
            for row in rows
            if row is not None and row.revision_id is not None
            for delivery in index.deliveries_of(row.revision_id)
        }


def _misbehaves(behaviour: peers.Behaviour, world: World, seen: Seen) -> None:
    _ordinary(world)
    port = world.outside.pause()
    with peers.hostile(port, behaviour) as peer:
        items = world.send("protected", 2)
        others = world.send("originals", 2)
        world.wait_sent(others)
        seen.fact("another destination got its objects meanwhile")
        _until_tried(world, items)
        states = _states(world, items)
    world.outside.resume()
    seen.must(peer.connections > 0, f"{peer.connections} connections were treated so")
    seen.must(states == {"pending"}, "its objects waited")
    _delivered_within(world, seen, items)


def away(world: World, seen: Seen) -> None:
    _ordinary(world)
    world.outside.pause()
    items = world.send("protected", 3)
    _until_tried(world, items)
    world.site.kill("all")
    world.site.start()
    world.site.ready()
    more = world.send("protected", 2)
    _until_tried(world, more)
    seen.fact("the gateway was killed and started meanwhile")
    world.outside.resume()
    _delivered_within(world, seen, [*items, *more])


def no_dns(world: World, seen: Seen) -> None:
    _ordinary(world)
    controls = world.site.controls
    controls.arm("dns:before", Order(action="gaierror", role="worker", always=True))
    world.outside.hang_up()  # an association of before needs no name
    items = world.send("protected", 2)
    _until_tried(world, items)
    states = _states(world, items)
    seen.must(controls.fired("dns:before"), "names did not resolve")
    seen.must(states == {"pending"}, "its objects waited")
    controls.disarm("dns:before")
    _delivered_within(world, seen, items)


ON_POSTGRES: dict[str, object] = {"database": "postgres"}
ON_OBJECTS: dict[str, object] = {"database": "postgres", "objects": True}
SMALL_DISK_MIB = 96
QUICK_TIMEOUT: dict[str, object] = {"timeout": 3.0}
WAITS = "its objects wait and are tried again, other destinations get theirs; all is \
delivered when it is back"

SCENARIOS = (
    Scenario(
        name="disk-full",
        done="the disk of the data directory is filled to the last octet, then freed",
        stated="objects are refused with 0xA7xx while it is full; receiving goes on by "
        "itself when there is room",
        act=disk_full,
        own_disk=SMALL_DISK_MIB,
    ),
    Scenario(
        name="disk-full-at-work",
        done="the disk fills up while the worker protects, for 15 s",
        stated="what could not be kept is tried again or held with a reason, and "
        "nothing leaves; `retry` takes it up",
        act=disk_full_at_work,
        own_disk=SMALL_DISK_MIB,
    ),
    Scenario(
        name="read-only",
        done="everything that changes a file of the data directory fails with EROFS",
        stated="no sender is told Success; when it is writable again all goes on",
        act=partial(_disk_error, errno.EROFS),
        machine=True,
    ),
    Scenario(
        name="disk-errors",
        done="everything that changes a file of the data directory fails with EIO",
        stated="no sender is told Success; when it is well again all goes on",
        act=partial(_disk_error, errno.EIO),
        machine=True,
    ),
    Scenario(
        name="slow-disk",
        done=f"every fsync takes {SLOW_MILLISECONDS} ms longer",
        stated="all is received and delivered, later",
        act=slow_disk,
        machine=True,
    ),
    Scenario(
        name="clock-forward",
        done="the clock jumps a day ahead in the middle of the load, and back while a "
        "destination is away",
        stated="all is delivered, within a minute of each jump",
        act=partial(_clock, DAY),
        machine=True,
    ),
    Scenario(
        name="clock-back",
        done="the clock jumps a day back in the middle of the load, and ahead while a "
        "destination is away",
        stated="all is delivered, within a minute of each jump",
        act=partial(_clock, -DAY),
        machine=True,
    ),
    Scenario(
        name="index-locked",
        done=f"another program holds the index's write lock for {LOCKED_SECONDS:.0f} s",
        stated="senders wait; they are answered Success when the lock is gone",
        act=index_locked,
    ),
    Scenario(
        name="jobs-locked",
        done=f"another program holds the job queue's write lock for "
        f"{LOCKED_SECONDS:.0f} s",
        stated="receiving goes on; jobs go on when the lock is gone",
        act=jobs_locked,
    ),
    Scenario(
        name="database-restarted",
        done="PostgreSQL is stopped in the middle of the load (its connections are "
        f"cut) and started {LOCKED_SECONDS:.0f} s later",
        stated="senders wait or are told to send again; all goes on by itself",
        act=partial(database_restarted, signal.SIGINT),
        options=ON_POSTGRES,
    ),
    Scenario(
        name="database-crashed",
        done="PostgreSQL crashes (SIGQUIT) in the middle of the load and is started "
        f"{LOCKED_SECONDS:.0f} s later",
        stated="senders wait or are told to send again; all goes on by itself",
        act=partial(database_restarted, signal.SIGQUIT),
        options=ON_POSTGRES,
    ),
    Scenario(
        name="objects-500",
        done="the object store answers every request with 500",
        stated="no sender is told Success; all goes on when it answers again",
        act=objects_fail,
        options=ON_OBJECTS,
    ),
    Scenario(
        name="destination-busy",
        done="a destination answers 0xA700",
        stated=WAITS,
        act=partial(_refuses, 0xA700),
    ),
    Scenario(
        name="destination-refuses",
        done="a destination answers 0xC000",
        stated="its objects are kept apart with the reason, other destinations get "
        "theirs; `jobs replay` sends them",
        act=partial(_refuses, 0xC000),
    ),
    Scenario(
        name="destination-rejects",
        done="a destination answers A-ASSOCIATE-RJ",
        stated=WAITS,
        act=partial(_misbehaves, peers.rejects),
    ),
    Scenario(
        name="destination-silent",
        done="a destination takes the connection and says nothing",
        stated=WAITS,
        act=partial(_misbehaves, peers.says_nothing),
        options=QUICK_TIMEOUT,
    ),
    Scenario(
        name="destination-hangs",
        done="a destination takes the association and the object and never answers",
        stated=WAITS,
        act=partial(_misbehaves, peers.hangs),
        options=QUICK_TIMEOUT,
    ),
    Scenario(
        name="destination-resets",
        done="a destination ends the connection (RST) in the middle of a PDU",
        stated=WAITS,
        act=partial(_misbehaves, peers.resets),
    ),
    Scenario(
        name="destination-garbage",
        done="a destination answers the object with octets that are no PDU",
        stated=WAITS,
        act=partial(_misbehaves, peers.babbles),
        options=QUICK_TIMEOUT,
    ),
    Scenario(
        name="destination-garbage-at-once",
        done="a destination answers the association request with what is no PDU",
        stated=WAITS,
        act=partial(_misbehaves, peers.babbles_at_once),
        options=QUICK_TIMEOUT,
    ),
    Scenario(
        name="destination-away",
        done="a destination is not there while the gateway is killed and started",
        stated=WAITS,
        act=away,
    ),
    Scenario(
        name="no-dns",
        done="host names do not resolve any more",
        stated=WAITS,
        act=no_dns,
        options={"outside_host": "localhost"},
    ),
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
