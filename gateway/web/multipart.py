"""multipart/related, read and written piece by piece (RFC 2046 5.1, RFC 2387)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from gateway.errors import BadRequest

LONGEST_HEAD_BYTES: Final = 8192
LONGEST_BOUNDARY: Final = 70
DASHES: Final = b"--"
LINE_END: Final = b"\r\n"


class Part(Protocol):
    """Takes one part in."""

    def write(self, piece: bytes) -> None:
        """Take a piece of it."""

    def finish(self) -> None:
        """Know that it is complete."""

    def abandon(self) -> None:
        """Know that its end never comes."""


class MultipartReader:
    """Takes a body apart as it comes; memory is bounded, whatever comes.

    Parameters
    ----------
    boundary
        As the Content-Type says.
    begin
        Called with the headers of each part, names in lower case; returns who
        takes it in.

    Raises
    ------
    BadRequest
        There is no usable boundary.
    """

    def __init__(
        self, boundary: str, begin: Callable[[Mapping[str, str]], Part]
    ) -> None:
        if not 0 < len(boundary) <= LONGEST_BOUNDARY or not boundary.isascii():
            raise BadRequest("The Content-Type has no usable boundary")
        self._mark = LINE_END + DASHES + boundary.encode("ascii")
        self._begin = begin
        # The first boundary may stand at the very beginning, without a line end.
        self._waiting = bytearray(LINE_END)
        self._part: Part | None = None
        self._step: Callable[[], bool] = self._skip_preamble
        self._over = False

    def feed(self, piece: bytes) -> None:
        """Take what has come.

        Raises
        ------
        BadRequest
            It is no multipart body.
        """
        self._waiting += piece
        while self._step():
            pass

    def close(self) -> None:
        """Know that the body is over.

        Raises
        ------
        BadRequest
            Its last boundary is missing.
        """
        if not self._over:
            raise BadRequest("The body ends before its last boundary")

    def abandon(self) -> None:
        """Let go of a part that never ends; may be called in any case."""
        if self._part is not None:
            self._part.abandon()
            self._part = None

    def _skip_preamble(self) -> bool:
        at = self._waiting.find(self._mark)
        if at < 0:
            self._drop(len(self._waiting) - len(self._mark))
            return False
        self._drop(at + len(self._mark))
        self._step = self._after_boundary
        return True

    def _after_boundary(self) -> bool:
        """Tell the last boundary from one with a part behind it."""
        if self._waiting.startswith(DASHES):
            self._over = True
            self._step = self._skip_epilogue
            return True
        end = self._waiting.find(LINE_END)
        if end < 0:
            if len(self._waiting) > LONGEST_HEAD_BYTES:
                raise BadRequest("A boundary line has no end")
            return False
        if self._waiting[:end].strip(b" \t"):
            raise BadRequest("A boundary is followed by something else")
        self._drop(end)  # its line end is the first of the head
        self._step = self._read_head
        return True

    def _read_head(self) -> bool:
        end = self._waiting.find(LINE_END + LINE_END)
        if end < 0:
            if len(self._waiting) > LONGEST_HEAD_BYTES:
                raise BadRequest("The headers of a part are too long")
            return False
        if end > LONGEST_HEAD_BYTES:
            raise BadRequest("The headers of a part are too long")
        head = bytes(self._waiting[:end])
        # An empty part begins with its boundary at once: its line end stays.
        self._drop(end + len(LINE_END))
        self._part = self._begin(_headers(head))
        self._step = self._drop_blank
        return True

    def _drop_blank(self) -> bool:
        if self._waiting.startswith(self._mark):  # nothing in it
            self._step = self._read_content
            return True
        if len(self._waiting) < len(self._mark):
            return False
        self._drop(len(LINE_END))
        self._step = self._read_content
        return True

    def _read_content(self) -> bool:
        assert self._part is not None
        at = self._waiting.find(self._mark)
        if at < 0:
            certain = len(self._waiting) - len(self._mark)
            if certain > 0:
                self._part.write(bytes(self._waiting[:certain]))
                self._drop(certain)
            return False
        if at:
            self._part.write(bytes(self._waiting[:at]))
        self._drop(at + len(self._mark))
        part, self._part = self._part, None
        part.finish()
        self._step = self._after_boundary
        return True

    def _skip_epilogue(self) -> bool:
        self._waiting.clear()
        return False

    def _drop(self, count: int) -> None:
        if count > 0:
            del self._waiting[:count]


def part_head(boundary: str, headers: Mapping[str, str], *, first: bool) -> bytes:
    """Return what stands before a part."""
    lines = [f"--{boundary}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return (b"" if first else LINE_END) + "\r\n".join(lines).encode("ascii")


def last_boundary(boundary: str) -> bytes:
    """Return what stands after the last part."""
    return f"\r\n--{boundary}--\r\n".encode("ascii")


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
        elif line.strip():
            raise BadRequest("A header of a part cannot be read")
    return found
