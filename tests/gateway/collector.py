"""A syslog collector over TLS for tests: RFC 5425, with ways to fail."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.gateway.pki_cases import NodeFiles

MARK = re.compile(rb"\[line (\d+) [0-9a-f]{16}\]")
RESET = struct.pack("ii", 1, 0)


@dataclass
class Collector:
    """Takes messages in order; each is whole when it is in ``messages``.

    Attributes
    ----------
    reset_after
        Resets every connection once it has taken so many messages of it; what
        comes then is not read.
    hold_after
        Reads no more once it has so many messages in all.
    answers
        Whether it answers a close_notify; else it just closes.
    """

    context: ssl.SSLContext
    port: int = 0
    reset_after: int | None = None
    hold_after: int | None = None
    answers: bool = True
    messages: list[bytes] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    taken: threading.Event = field(default_factory=threading.Event)

    def lines(self) -> list[int]:
        """Numbers of the lines that came, in order, with repetitions."""
        found = (MARK.search(message) for message in self.messages)
        return [int(mark[1]) for mark in found if mark]

    @contextlib.contextmanager
    def running(self) -> Iterator[Collector]:
        """Listen; at the end connections are closed too."""
        with socket.create_server(("127.0.0.1", self.port)) as server:
            self.port = server.getsockname()[1]
            server.settimeout(0.05)
            stop = threading.Event()
            thread = threading.Thread(target=self._serve, args=(server, stop))
            thread.start()
            try:
                yield self
            finally:
                stop.set()
                thread.join(30)
                assert not thread.is_alive()

    def _serve(self, server: socket.socket, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                plain, _ = server.accept()
            except TimeoutError:
                continue
            with contextlib.suppress(OSError):
                plain.settimeout(10)
                with self.context.wrap_socket(plain, server_side=True) as connection:
                    self.subjects.append(str(connection.getpeercert()))
                    self._take(connection, stop)

    def _take(self, connection: ssl.SSLSocket, stop: threading.Event) -> None:
        connection.settimeout(0.05)
        octets = b""
        count = 0
        while not stop.is_set():
            try:
                piece = connection.recv(1 << 14)
            except TimeoutError:
                continue
            if not piece:
                self._end(connection)
                return
            octets += piece
            while (message := _message(octets)) is not None:
                if len(self.messages) == self.hold_after:
                    stop.wait()
                    return
                if count == self.reset_after:
                    self._reset(connection)
                    return
                octets = octets[message[0] :]
                self.messages.append(message[1])
                count += 1
                self.taken.set()

    def _end(self, connection: ssl.SSLSocket) -> None:
        if self.answers:
            with contextlib.suppress(OSError):
                connection.settimeout(5)
                connection.unwrap()

    def _reset(self, connection: ssl.SSLSocket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        socket.socket.close(connection)


def _message(octets: bytes) -> tuple[int, bytes] | None:
    """Return the length of the first frame, and its message, once it is whole."""
    head = re.match(rb"([1-9]\d{0,9}) ", octets)
    if head is None:
        assert len(octets) < 11, "not counted as RFC 5425 wants"
        return None
    end = head.end() + int(head[1])
    return (end, octets[head.end() : end]) if len(octets) >= end else None


def server_context(own: NodeFiles, authority: Path) -> ssl.SSLContext:
    """A collector's context: it asks for a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
