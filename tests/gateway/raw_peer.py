"""A peer that sends octets, well formed or not."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

VERIFICATION = b"1.2.840.10008.1.1"
IMPLICIT = b"1.2.840.10008.1.2"
APPLICATION = b"1.2.840.10008.3.1.1.1"
ABORT, ACCEPT, REJECT, RELEASED = 7, 2, 3, 6
WAIT_SECONDS = 20.0


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def context(
    number: int, abstract: bytes = VERIFICATION, syntaxes: Sequence[bytes] = (IMPLICIT,)
) -> bytes:
    names = item(0x30, abstract) + b"".join(item(0x40, name) for name in syntaxes)
    return item(0x20, bytes([number, 0, 0, 0]) + names)


def user_items(*more: bytes) -> bytes:
    length = item(0x51, struct.pack(">L", 16384))
    return item(0x50, length + item(0x52, b"1.2.3.4") + b"".join(more))


def request(
    calling: bytes = b"MODALITY",
    called: bytes = b"MIAD-GATEWAY",
    *,
    contexts: bytes | None = None,
    users: bytes | None = None,
    version: int = 1,
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    body = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16)
    body += bytes(32) + item(0x10, APPLICATION)
    body += context(1) if contexts is None else contexts
    body += user_items() if users is None else users
    return pdu(1, body)


def value(context_id: int, control: int, data: bytes) -> bytes:
    """A presentation data value item (PS3.8 9.3.5.1)."""
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def command(field: int, *, data_set: bool = False, **more: bytes) -> bytes:
    """A command set; ``more``: elements as ``e0002=b"..."``."""
    elements = {
        0x0100: struct.pack("<H", field),
        0x0110: struct.pack("<H", 1),
        0x0800: struct.pack("<H", 0 if data_set else 0x0101),
        0x0002: VERIFICATION + b"\0",
    }
    elements |= {int(name[1:], 16): encoded for name, encoded in more.items()}
    body = b"".join(
        struct.pack("<HHL", 0, number, len(v)) + v
        for number, v in sorted(elements.items())
    )
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def echo() -> bytes:
    return pdu(4, value(1, 3, command(0x0030)))


class RawPeer:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(WAIT_SECONDS)

    def send(self, octets: bytes) -> None:
        self.connection.sendall(octets)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU; type 0 where the connection has ended."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBL", header)
        return kind, self._exactly(length)

    def associate(self, **options: bytes) -> None:
        self.send(request(**options))
        kind, _ = self.receive()
        assert kind == ACCEPT

    def ends(self) -> list[int]:
        """The types of the PDUs that still come until the connection ends."""
        kinds = []
        while (kind := self.receive()[0]) != 0:
            kinds.append(kind)
        return kinds

    def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            try:
                piece = self.connection.recv(size - len(received))
            except ConnectionResetError:
                break
            if not piece:
                break
            received += piece
        return received


@contextmanager
def raw_peer(port: int, source: str = "127.0.0.1") -> Iterator[RawPeer]:
    with socket.create_connection(
        ("127.0.0.1", port), WAIT_SECONDS, source_address=(source, 0)
    ) as connection:
        yield RawPeer(connection)
