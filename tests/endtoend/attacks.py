"""Peers that mean no good, and how a process takes it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.gateway.raw_peer import echo, raw_peer, request

MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True)
class Process:
    """What Linux tells of a process (proc(5))."""

    pid: int

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith(name + ":"))
        return int(line.split()[1])

    @property
    def memory_bytes(self) -> int:
        """Resident now."""
        return self._status("VmRSS") * 1024

    @property
    def peak_bytes(self) -> int:
        """Most that was ever resident, since the last `forget_peak`."""
        return self._status("VmHWM") * 1024

    def forget_peak(self) -> None:
        with suppress(PermissionError):  # then the peak is of all that was
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def threads(self) -> int:
        return self._status("Threads")

    @property
    def sockets(self) -> int:
        count = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                count += str(link.readlink()).startswith("socket:")
        return count

    @property
    def command_line(self) -> bytes:
        return Path(f"/proc/{self.pid}/cmdline").read_bytes()

    @property
    def environment(self) -> bytes:
        return Path(f"/proc/{self.pid}/environ").read_bytes()

    def parent(self) -> Process:
        return Process(self._status("PPid"))

    def children(self) -> list[Process]:
        pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [Process(int(pid)) for pid in pids]

    def child(self, name: str) -> Process:
        """The child whose command line has that word."""
        wanted = name.encode()
        (found,) = (
            one for one in self.children() if wanted in one.command_line.split(b"\0")
        )
        return found


def dribble(
    send: Callable[[bytes], object], octets: bytes, stop: threading.Event
) -> None:
    """Send one octet after another, one in 0.2 s, until told to stop or cut off."""
    for octet in octets:
        if stop.wait(0.2):
            return
        try:
            send(bytes([octet]))
        except OSError:
            return


@contextmanager
def silent(port: int, count: int, address: str = "127.0.0.1") -> Iterator[None]:
    """Connections that say nothing."""
    with ExitStack() as stack:
        for number in range(count):
            source = address.format(1 + number % 200)
            with suppress(OSError):
                stack.enter_context(raw_peer(port, source))
        yield


@contextmanager
def slow_requests(port: int, count: int) -> Iterator[None]:
    """Association requests that come one octet at a time."""
    with _dribbling(port, count, lambda _connection: request()):
        yield


@contextmanager
def slow_handshakes(port: int, count: int) -> Iterator[None]:
    """TLS handshakes that come one octet at a time."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="x").do_handshake()
    hello = outgoing.read()
    with _dribbling(port, count, lambda _connection: hello):
        yield


@contextmanager
def slow_data(port: int, count: int) -> Iterator[None]:
    """Admitted associations whose next PDU comes one octet at a time."""

    def after_association(connection: socket.socket) -> bytes:
        connection.sendall(request(calling=b"STORESCU"))
        connection.settimeout(20)
        connection.recv(1 << 16)
        return echo()

    with _dribbling(port, count, after_association):
        yield


@contextmanager
def _dribbling(
    port: int, count: int, what: Callable[[socket.socket], bytes]
) -> Iterator[None]:
    stop = threading.Event()
    threads = []
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(raw_peer(port)).connection
            octets = what(connection)
            threads.append(
                threading.Thread(
                    target=dribble, args=(connection.sendall, octets, stop)
                )
            )
            threads[-1].start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
