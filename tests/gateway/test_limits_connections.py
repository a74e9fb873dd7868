"""The connection gate: rates, numbers, and who makes room for whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from config.schema import Limits
from gateway.audit.log import AuditLog
from gateway.audit.refusals import WHOLE_LINES, RefusalLog
from gateway.dicom.connections import (
    NO_PLACE,
    TOO_FAST,
    TOO_MANY,
    ConnectionGate,
    Passage,
    TokenBucket,
    counted_address,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


class Peers:
    """Connected pairs of sockets, closed at the end."""

    def __init__(self, gate: ConnectionGate, stack: ExitStack) -> None:
        self._gate = gate
        self._stack = stack

    def enter(self, address: str) -> tuple[Passage | None, socket.socket]:
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        self._stack.enter_context(theirs)
        theirs.settimeout(5)
        return self._gate.enter(ours, address), theirs


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def gate(audit: AuditLog, clock: Clock, **limits: float) -> ConnectionGate:
    chosen = Limits.model_validate(limits)
    return ConnectionGate(chosen, RefusalLog(audit, clock), clock)


def reasons(audit: AuditLog) -> list[object]:
    return [e["reason"] for e in audit.entries() if "reason" in e]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
    ],
)
def test_what_counts_as_one_peer(address: str, counted: str) -> None:
    assert counted_address(address) == counted


def test_a_bucket_allows_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(per_second=2.0, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert bucket.wait_seconds(0.5) == pytest.approx(0.5)


def test_an_address_that_connects_too_fast_is_refused_and_another_is_not(
    audit: AuditLog, clock: Clock, stack: ExitStack
) -> None:
    peers = Peers(
        gate(audit, clock, connections_per_second=1.0, connection_burst=2), stack
    )
    assert peers.enter("192.0.2.1")[0] is not None
    assert peers.enter("192.0.2.1")[0] is not None
    assert peers.enter("192.0.2.1")[0] is None
    assert peers.enter("192.0.2.2")[0] is not None
    clock.now += 1.0
    assert peers.enter("192.0.2.1")[0] is not None
    assert reasons(audit) == [TOO_FAST]


def test_silent_connections_of_an_address_make_room_for_its_own(
    audit: AuditLog, clock: Clock, stack: ExitStack
) -> None:
    peers = Peers(gate(audit, clock, connections_per_address=2), stack)
    first, their_end = peers.enter("192.0.2.1")
    second, _ = peers.enter("192.0.2.1")
    third, _ = peers.enter("192.0.2.1")
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.dropped
    assert their_end.recv(1) == b""  # shut down
    second.identified()
    third.identified()
    assert peers.enter("192.0.2.1")[0] is None
    assert reasons(audit) == [NO_PLACE, TOO_MANY]
    second.leave()
    second.leave()
    assert peers.enter("192.0.2.1")[0] is not None


def test_who_has_most_silent_connections_makes_room(
    audit: AuditLog, clock: Clock, stack: ExitStack
) -> None:
    watched = gate(audit, clock, unidentified_connections=4)
    peers = Peers(watched, stack)
    honest, _ = peers.enter("192.0.2.1")
    crowd = [peers.enter("198.51.100.1")[0] for _ in range(50)]
    assert honest is not None
    assert not honest.dropped
    assert sum(p is not None and not p.dropped for p in crowd) == 3
    assert watched.unidentified == 4
    honest.identified()
    assert watched.unidentified == 3


def test_a_dropped_connection_says_so_when_tls_is_put_around_it(
    audit: AuditLog, clock: Clock, stack: ExitStack
) -> None:
    peers = Peers(gate(audit, clock, unidentified_connections=1), stack)
    first, _ = peers.enter("192.0.2.1")
    peers.enter("192.0.2.2")
    assert first is not None
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ConnectionAbortedError):
        first.carries(ours)


def test_refusals_fill_no_audit_trail(audit: AuditLog, clock: Clock) -> None:
    refusals = RefusalLog(audit, clock)
    written = [refusals.note("connection", "192.0.2.1", n=n) for n in range(1000)]
    assert written.count(True) == WHOLE_LINES
    clock.now += 61.0
    refusals.flush()
    lines = [*audit.entries()]
    assert len(lines) == WHOLE_LINES + 1
    assert lines[-1]["further_refusals"] == 1000 - WHOLE_LINES
    assert refusals.note("connection", "192.0.2.1")


def test_refusals_of_many_addresses_are_counted_together(
    audit: AuditLog, clock: Clock
) -> None:
    refusals = RefusalLog(audit, clock)
    for n in range(1500):
        refusals.note("connection", f"192.0.{n // 250}.{n % 250}")
    refusals.flush(now=True)
    lines = [*audit.entries()]
    assert len(lines) == 1001
    assert lines[-1]["further_refusals"] == 500
