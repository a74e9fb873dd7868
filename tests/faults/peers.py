"""Destinations that do not do what a storage SCP should."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.gateway.raw_peer import APPLICATION, item, pdu, user_items

ASSOCIATE_RQ, ASSOCIATE_RJ = 1, 3
LONGEST_SECONDS = 300.0

Behaviour = Callable[["Connection"], None]


@dataclass
class Connection:
    """One connection that a gateway opened."""

    socket: socket.socket
    ended: threading.Event

    def exactly(self, size: int) -> bytes:
        """Read so many octets; fewer at the end of the connection."""
        received = b""
        while len(received) < size:
            piece = self.socket.recv(size - len(received))
            if not piece:
                break
            received += piece
        return received

    def pdu(self) -> tuple[int, bytes]:
        """Read a PDU; type 0 at the end of the connection."""
        header = self.exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBL", header)
        return kind, self.exactly(length)

    def accept(self) -> None:
        """Read an association request and accept all its contexts."""
        _, body = self.pdu()
        self.socket.sendall(pdu(2, accepted(body)))

    def reset(self) -> None:
        """End the connection with RST."""
        now = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.socket.close()


def accepted(request: bytes) -> bytes:
    """Return the body of an A-ASSOCIATE-AC that takes every context (PS3.8 9.3.3)."""
    contexts = b""
    place = 68
    while place < len(request):
        kind, _, length = struct.unpack_from(">BBH", request, place)
        body = request[place + 4 : place + 4 + length]
        if kind == 0x20:
            contexts += item(0x21, bytes([body[0], 0, 0, 0]) + _first_syntax(body))
        place += 4 + length
    return request[:68] + item(0x10, APPLICATION) + contexts + user_items()


def _first_syntax(context: bytes) -> bytes:
    place = 4
    while place < len(context):
        kind, _, length = struct.unpack_from(">BBH", context, place)
        body = context[place + 4 : place + 4 + length]
        if kind == 0x40:
            return item(0x40, body)
        place += 4 + length
    raise AssertionError("a presentation context without a transfer syntax")


def rejects(connection: Connection) -> None:
    """Answer with A-ASSOCIATE-RJ: transient, no reason given (PS3.8 9.3.4)."""
    connection.pdu()
    connection.socket.sendall(pdu(ASSOCIATE_RJ, bytes([0, 2, 1, 1])))
    connection.pdu()


def says_nothing(connection: Connection) -> None:
    """Take the connection and never answer."""
    connection.ended.wait(LONGEST_SECONDS)


def hangs(connection: Connection) -> None:
    """Accept the association, read everything, and never answer a request."""
    connection.accept()
    while connection.pdu()[0]:
        pass


def resets(connection: Connection) -> None:
    """Accept the association and end the connection in the middle of a PDU."""
    connection.accept()
    connection.exactly(512)
    connection.reset()


def babbles(connection: Connection) -> None:
    """Accept the association and answer with octets that are no PDU."""
    connection.accept()
    connection.pdu()
    connection.socket.sendall(random.Random(0).randbytes(4096))
    while connection.pdu()[0]:
        pass


def babbles_at_once(connection: Connection) -> None:
    """Answer the association request with octets that are no PDU."""
    connection.pdu()
    connection.socket.sendall(random.Random(1).randbytes(4096))
    while connection.pdu()[0]:
        pass


@dataclass
class HostilePeer:
    """A server that treats every connection in one way.

    Attributes
    ----------
    connections
        How many there were.
    """

    behaviour: Behaviour
    connections: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _open: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(client)
            threading.Thread(target=self._treat, args=(client,), daemon=True).start()

    def end(self) -> None:
        """Let go of everybody."""
        self._ended.set()
        for client in self._open:
            with suppress(OSError):
                client.close()

    def _treat(self, client: socket.socket) -> None:
        client.settimeout(LONGEST_SECONDS)
        with suppress(OSError), client:
            self.behaviour(Connection(client, self._ended))


@contextmanager
def hostile(port: int, behaviour: Behaviour) -> Iterator[HostilePeer]:
    """Listen on a port and treat everybody so while the block lasts."""
    peer = HostilePeer(behaviour)
    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=peer.serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        peer.end()
