"""Reading PDUs off a connection into one buffer, ahead of what is asked for.

A slice of a CT comes in four PDUs, and each would cost two reads and two waits.
Here one read takes whatever has come, and the thread waits in `poll` only where
nothing has.
"""

from __future__ import annotations

import select
import ssl
import struct
import time
from typing import TYPE_CHECKING, Final

from gateway.dicom.pdu_checks import HEADER_BYTES, PDU_TYPES
from gateway.errors import InvalidPdu

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gateway.dicom.connections import PeerLimits

FIRST_BYTES: Final = 1 << 14
"""Of the buffer, until a larger PDU comes: most connections never send one."""
AHEAD_BYTES: Final = 1 << 18
"""Of the buffer at least, once it has grown."""
HEADER: Final = struct.Struct(">BxL")  # type, reserved, length (PS3.8 9.3.1)
NOT_YET: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class PduReader:
    """Takes whole PDUs out of what comes; in one thread at a time.

    Parameters
    ----------
    connection
        Connected; it does not block from now on.
    limits
        What the peer may take.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        connection: socket.socket,
        limits: PeerLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._view = memoryview(bytearray(FIRST_BYTES))
        self._begin = self._end = 0
        self._over: OSError | None = None
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until octets or the end have come; False where the time is over."""
        if self._begin < self._end or self._fill():
            return True
        deadline = self._clock() + seconds
        # Not every record of TLS brings octets: then it goes on.
        while (left := deadline - self._clock()) > 0 or seconds == 0:
            self._poll.poll(max(0.0, left) * 1000)
            if self._fill():
                return True
            if seconds == 0:
                return False
        return False

    def next(self) -> memoryview:
        """Read one whole PDU, header included; valid until the next is read.

        Raises
        ------
        InvalidPdu
            It is none, above what was announced, or slower than is allowed.
        OSError
            The connection ended.
        """
        start = self._clock()
        self._need(HEADER_BYTES, start + self._limits.pdu_seconds)
        kind, length = HEADER.unpack_from(self._view, self._begin)
        self._check(kind, length)
        size = HEADER_BYTES + length
        self._need(size, start + self._limits.seconds_for(length))
        begin = self._begin
        self._begin += size
        return self._view[begin : begin + size]

    def _check(self, kind: int, length: int) -> None:
        if kind not in PDU_TYPES:
            raise InvalidPdu(f"PDU of unknown type {kind}")
        if length > max(self._limits.max_pdu_bytes, AHEAD_BYTES):
            raise InvalidPdu(f"PDU above {self._limits.max_pdu_bytes} octets")

    def _need(self, size: int, deadline: float) -> None:
        """Have so many octets at hand, in one piece."""
        if size > len(self._view) - self._begin:
            self._make_room(size)
        while self._end - self._begin < size:
            if self._over is not None:
                raise self._over
            if self._fill() and self._over is None:
                continue
            left = deadline - self._clock()
            if left <= 0:
                raise InvalidPdu("a PDU did not come whole in time")
            self._poll.poll(left * 1000)

    def _make_room(self, size: int) -> None:
        """Move what is at hand to the start, of a larger buffer if need be."""
        held = self._view[self._begin : self._end]
        if size > len(self._view):
            self._view = memoryview(bytearray(max(size, AHEAD_BYTES)))
        self._view[: len(held)] = held
        self._begin, self._end = 0, len(held)

    def _fill(self) -> bool:
        """Take what has come without waiting; whether anything has, or the end."""
        if self._over is not None:
            return True
        if self._begin == self._end:
            self._begin = self._end = 0
        try:
            count = self._connection.recv_into(self._view[self._end :])
        except NOT_YET:
            return False
        except (OSError, ValueError) as error:  # also one closed by another thread
            self._over = ConnectionResetError("the connection is closed")
            self._over.__cause__ = error
            return True
        if not count:
            self._over = ConnectionResetError("the peer closed the connection")
        self._end += count
        return True
