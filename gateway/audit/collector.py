"""The connection to a collector: syslog over TLS (RFC 5425), and its end.

Syslog has no acknowledgement. What there is: a receiver that gets a
close_notify must answer with its own (RFC 5425 4.4), which it can only after it
has read all that came before. So connections are short, and what was sent over
one counts as delivered when it ended in order.
"""

from __future__ import annotations

import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

Connect = Callable[[], ssl.SSLSocket]

_POLL_SECONDS: Final = 0.01
_LINGER_NOT: Final = struct.pack("ii", 1, 0)


class CollectorLost(OSError):
    """The collector did not take what was sent, as far as can be told."""


class Delivery:
    """One connection, over which messages go until `confirm`.

    Parameters
    ----------
    connection
        To the collector, the handshake done.
    timeout_seconds
        How long a write, and the end, may take.
    """

    def __init__(self, connection: ssl.SSLSocket, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout = timeout_seconds

    def send(self, octets: bytes) -> None:
        """Send frames.

        Raises
        ------
        OSError
            The collector is gone, or takes nothing.
        """
        self._connection.settimeout(self._timeout)
        self._connection.sendall(octets)

    def check(self) -> None:
        """Check that the collector has not ended the connection.

        Raises
        ------
        OSError
            It has, or says what a collector does not say.
        """
        self._connection.settimeout(0.0)
        with suppress(ssl.SSLWantReadError):  # nothing to read: all is well
            self._connection.recv(1)
            raise CollectorLost("the collector ended the connection")

    def confirm(self) -> None:
        """End the connection, and return when all that was sent was read.

        Raises
        ------
        OSError
            That cannot be told: send it again.
        """
        self.check()
        self._connection.settimeout(self._timeout)
        plain: socket.socket
        try:
            plain = self._connection.unwrap()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            # It ended without a close_notify, which RFC 5425 does not allow; what
            # its system acknowledged and did not drop was still read.
            plain = self._connection
        except OSError as error:
            if error.errno != 0:  # 0 is how an end without close_notify is told
                raise
            plain = self._connection
        self._check_read(plain)

    def abandon(self) -> None:
        """Let the connection go at once."""
        with suppress(OSError):
            self._connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT
            )
        with suppress(OSError):
            self._connection.close()

    def _check_read(self, plain: socket.socket) -> None:
        """Check that the other system took everything and threw nothing away.

        One that closes a socket with unread octets in it, or gets some for a
        socket that is closed, resets the connection.
        """
        deadline = time.monotonic() + self._timeout
        descriptor = plain.fileno()
        with suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_WR)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        remaining = max(0.0, deadline - time.monotonic())
        if not poll.poll(remaining * 1000):
            raise CollectorLost("the collector does not end the connection")
        while _not_acknowledged(descriptor):
            _raise_error_of(plain)
            if time.monotonic() > deadline:
                raise CollectorLost("the collector's system acknowledges no more")
            time.sleep(_POLL_SECONDS)
        _raise_error_of(plain)


def _not_acknowledged(descriptor: int) -> int:
    """Return how many octets the other system has not acknowledged (tcp(7))."""
    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
    (octets,) = struct.unpack("i", answer)
    return int(octets)


def _raise_error_of(plain: socket.socket) -> None:
    number = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise CollectorLost(number, "the collector reset the connection")
