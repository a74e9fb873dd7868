"""Connections before anyone knows whose they are: how many, how fast.

A connection costs a thread and a descriptor from the moment it is accepted, and
nothing has been proved yet. So each address has a rate and a number of
connections, and those that have not been admitted are few in total. Where they
are too many, the oldest of the address with the most of them makes room: a peer
that opens connections and stays silent never locks another out.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

import structlog

from config.schema import Limits, Site
from gateway.audit.log import AuditLog
from gateway.audit.refusals import RefusalLog
from gateway.dicom.counts import CONNECTIONS, Counts

LOG = structlog.get_logger(component="connections")

ADDRESSES_KEPT: Final = 10_000
"""Whose rates are remembered; the longest idle are forgotten first."""

SLOWEST_BYTES_PER_SECOND: Final = 4096
"""A large PDU may take longer: so much more as a line of 33 kbit/s needs."""

TOO_FAST: Final = "too-many-connections-per-second"
TOO_MANY: Final = "too-many-connections"
CLOSED: Final = "stopping"
NO_PLACE: Final = "too-many-unidentified-connections"


def counted_address(address: str) -> str:
    """Return what counts as one peer: an IPv4 address, or a /64 of IPv6.

    Anyone who has one IPv6 address has all of its /64 (RFC 6177).
    """
    parsed = ip_address(address.partition("%")[0])
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return str(parsed)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"


@dataclass(frozen=True, kw_only=True)
class PeerLimits:
    """What a peer may take of one connection.

    Attributes
    ----------
    request_seconds
        Until its association request has come whole.
    pdu_seconds
        From the first to the last octet of a PDU of no great size.
    max_pdu_bytes
        Announced to it.
    requests_per_second
        Of one association, in the long run.
    max_command_bytes, max_identifier_bytes
        Of a command set, and of the data set of any request but C-STORE.
    """

    request_seconds: float
    pdu_seconds: float
    max_pdu_bytes: int
    requests_per_second: float
    max_command_bytes: int
    max_identifier_bytes: int

    @classmethod
    def of(cls, site: Site) -> PeerLimits:
        """Return those of a site."""
        limits = site.limits
        return cls(
            request_seconds=limits.request_seconds,
            pdu_seconds=limits.pdu_seconds,
            max_pdu_bytes=site.receiver.max_pdu_bytes,
            requests_per_second=limits.requests_per_second,
            max_command_bytes=limits.max_command_bytes,
            max_identifier_bytes=limits.max_identifier_bytes,
        )

    def seconds_for(self, size: int) -> float:
        """Return how long a PDU of that size may take."""
        return self.pdu_seconds + size / SLOWEST_BYTES_PER_SECOND


class TokenBucket:
    """Allows so many in the long run, and a burst.

    Parameters
    ----------
    per_second
        In the long run.
    burst
        At once.
    now
        Seconds, of the same clock as later.
    """

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one if there is one."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_seconds(self, now: float) -> float:
        """Take one in advance; return how long to wait for it."""
        self._fill(now)
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._per_second)

    def _fill(self, now: float) -> None:
        gained = (now - self._at) * self._per_second
        self._tokens = min(self._burst, self._tokens + gained)
        self._at = now


@dataclass
class _Peer:
    bucket: TokenBucket
    connections: int = 0


class Passage:
    """A connection that was let in; made by `ConnectionGate.enter`."""

    def __init__(
        self, gate: ConnectionGate, key: str, connection: socket.socket
    ) -> None:
        self._gate = gate
        self._connection = connection
        self._lock = threading.Lock()
        self.key = key
        self.gone = False
        self.dropped = False
        """Whether it had to make room for another, and was shut down."""

    def carries(self, connection: socket.socket) -> None:
        """Say that TLS was put around the connection: that is shut down then.

        Raises
        ------
        ConnectionAbortedError
            It was dropped meanwhile.
        """
        with self._lock:
            self._connection = connection
            if self.dropped:
                raise ConnectionAbortedError("dropped in favour of another connection")

    def identified(self) -> None:
        """Say that its association was admitted: it makes room for no one now."""
        self._gate.identify(self)

    def leave(self) -> None:
        """Say that it is closed; may be said again."""
        self._gate.leave(self)

    def drop(self) -> None:
        """Shut the connection down: a thread that reads from it goes on at once."""
        with self._lock:
            self.dropped = True
            # Not that of an SSLSocket, which touches what another thread uses.
            with suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


class ConnectionGate:
    """Decides on connections by address and number; one for all ports.

    Parameters
    ----------
    limits
        The site's.
    refusals
        Where refused connections are recorded.
    clock
        Seconds that never go back.
    counts
        What other receiving processes count; None: there are none.
    """

    def __init__(
        self,
        limits: Limits,
        refusals: RefusalLog,
        clock: Callable[[], float] = time.monotonic,
        counts: Counts | None = None,
    ) -> None:
        self._counts = counts or Counts()
        # Each process has its share: only it can send its own away.
        self._most_unidentified = max(
            1, limits.unidentified_connections // self._counts.processes
        )
        self._limits = limits
        self._refusals = refusals
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._unidentified: OrderedDict[Passage, None] = OrderedDict()  # by age
        self._clock = clock
        self._closed = False

    def enter(self, connection: socket.socket, address: str) -> Passage | None:
        """Let a connection in, or say no (None): then it is to be closed.

        Parameters
        ----------
        connection
            As accepted.
        address
            Of the peer, as the socket gives it.
        """
        key = counted_address(address)
        with self._lock, self._counts.alone():
            passage, dropped, reason = self._decide(key, connection)
        if dropped is not None:
            dropped.drop()
            self._note(dropped.key, NO_PLACE)
        if passage is None:
            self._note(key, reason)
        return passage

    def close(self) -> None:
        """Let no one in any more, and send away who has not been admitted."""
        with self._lock:
            self._closed = True
            waiting = [*self._unidentified]
        for passage in waiting:
            passage.drop()

    def note(self, passage: Passage, reason: str) -> None:
        """Record that a connection came to nothing."""
        self._note(passage.key, reason)

    def tick(self) -> None:
        """Record what is due; called now and then."""
        self._refusals.flush()

    @property
    def unidentified(self) -> int:
        """How many connections have not been admitted, at this moment."""
        with self._lock:
            return len(self._unidentified)

    def identify(self, passage: Passage) -> None:
        """See `Passage.identified`."""
        with self._lock:
            self._unidentified.pop(passage, None)

    def leave(self, passage: Passage) -> None:
        """See `Passage.leave`."""
        with self._lock:
            self._remove(passage)

    def _decide(
        self, key: str, connection: socket.socket
    ) -> tuple[Passage | None, Passage | None, str]:
        """Return who may pass, who makes room, and why no one passes."""
        peer = self._peer(key)
        if self._closed:
            return None, None, CLOSED
        if not peer.bucket.take(self._clock()):
            return None, None, TOO_FAST
        dropped = None
        there = self._counts.elsewhere(key)
        if peer.connections + there >= self._limits.connections_per_address:
            dropped = self._oldest(key)
            if dropped is None:
                return None, None, TOO_MANY
        elif len(self._unidentified) >= self._most_unidentified:
            waiting = Counter(passage.key for passage in self._unidentified)
            most = max(waiting.values())
            dropped = self._oldest(*(k for k, n in waiting.items() if n == most))
        if dropped is not None:
            self._remove(dropped)
        passage = Passage(self, key, connection)
        peer.connections += 1
        self._counts.change(key, 1)
        self._counts.change(CONNECTIONS, 1)
        self._unidentified[passage] = None
        return passage, dropped, ""

    def _oldest(self, *keys: str) -> Passage | None:
        """Return who waits longest of those addresses."""
        return next((p for p in self._unidentified if p.key in keys), None)

    def _peer(self, key: str) -> _Peer:
        peer = self._peers.get(key)
        if peer is None:
            self._forget()
            limits = self._limits
            bucket = TokenBucket(
                limits.connections_per_second, limits.connection_burst, self._clock()
            )
            peer = self._peers[key] = _Peer(bucket)
        self._peers.move_to_end(key)
        return peer

    def _forget(self) -> None:
        """Forget addresses without connections, the longest idle first."""
        for key in [*self._peers][: max(0, len(self._peers) - ADDRESSES_KEPT + 1)]:
            if not self._peers[key].connections:
                del self._peers[key]

    def _remove(self, passage: Passage) -> None:
        if passage.gone:
            return
        passage.gone = True
        self._unidentified.pop(passage, None)
        peer = self._peers[passage.key]  # not forgotten while it has connections
        peer.connections -= 1
        self._counts.change(passage.key, -1)
        self._counts.change(CONNECTIONS, -1)

    def _note(self, address: str, reason: str) -> None:
        if self._refusals.note("connection", address, reason=reason):
            LOG.warning("connection refused", peer_address=address, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What stands before the services of a site, the same for all its ports."""

    gate: ConnectionGate
    limits: PeerLimits
    refusals: RefusalLog
    counts: Counts

    @classmethod
    def of(cls, site: Site, audit: AuditLog, counts: Counts) -> Guard:
        """Return that of a site, in a process that counts with others."""
        refusals = RefusalLog(audit)
        return cls(
            gate=ConnectionGate(site.limits, refusals, counts=counts),
            limits=PeerLimits.of(site),
            refusals=refusals,
            counts=counts,
        )
