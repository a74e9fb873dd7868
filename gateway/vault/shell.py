"""The received octets around native pixel values, and how to put them back.

Original = prefix + encoded frames (exclusive or the correction) + suffix. The
correction holds what stored values do not: overlay bits above BitsStored, odd
sign extension, the padding octet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gateway.vault.layout import PixelLayout, pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Shell:
    """Received octets without their pixel values.

    Attributes
    ----------
    prefix, suffix
        Everything before and after the pixel data value.
    layout
        How the value is encoded.
    value_length
        Octets of the value, padding included.
    correction
        Exclusive or of the value and the encoded frames padded with zeros;
        empty where they are equal.
    """

    prefix: bytes = field(repr=False)
    suffix: bytes = field(repr=False)
    layout: PixelLayout
    value_length: int
    correction: bytes = field(repr=False)


class ShellTaker:
    """Takes the shell of received octets while their frames are gone through.

    Parameters
    ----------
    received
        The whole received octets.
    bounds
        Start and end (exclusive) of the pixel data value in them.
    layout
        How the value is encoded.
    """

    def __init__(
        self, received: bytes, bounds: tuple[int, int], layout: PixelLayout
    ) -> None:
        self._received = received
        self._start, self._end = bounds
        self._layout = layout
        self._at = self._start
        self._correction: bytearray | None = None

    def add(self, frame: NDArray[np.int32]) -> None:
        """Go on to the next frame: its int32 stored values."""
        packed = pack([frame], self._layout)
        end = min(self._at + len(packed), self._end)
        self._compare(packed[: end - self._at], end)

    def shell(self) -> Shell:
        """Shell of the octets, after the last frame."""
        self._compare(bytes(self._end - self._at), self._end)
        return Shell(
            prefix=self._received[: self._start],
            suffix=self._received[self._end :],
            layout=self._layout,
            value_length=self._end - self._start,
            correction=bytes(self._correction or b""),
        )

    def _compare(self, encoded: bytes, end: int) -> None:
        difference = _xor(encoded, self._received[self._at : end])
        if difference.any():
            if self._correction is None:
                self._correction = bytearray(self._end - self._start)
            first = self._at - self._start
            self._correction[first : first + len(encoded)] = difference.tobytes()
        self._at = end


def take_shell(
    received: bytes,
    bounds: tuple[int, int],
    layout: PixelLayout,
    frames: Iterable[NDArray[np.int32]],
) -> Shell:
    """Shell of received octets whose stored values are known.

    Parameters
    ----------
    received, bounds, layout
        As for `ShellTaker`.
    frames
        int32 stored values of every frame.
    """
    taker = ShellTaker(received, bounds, layout)
    for frame in frames:
        taker.add(frame)
    return taker.shell()


def shell_pieces(shell: Shell, frames: Iterable[NDArray[np.int32]]) -> Iterator[bytes]:
    """Received octets in pieces, with the pixel values put back.

    Parameters
    ----------
    shell
        From `take_shell`.
    frames
        int32 stored values, the same as there; taken one after the other.
    """
    yield shell.prefix
    at = 0
    for frame in frames:
        packed = pack([frame], shell.layout)[: shell.value_length - at]
        yield _corrected(packed, shell.correction, at)
        at += len(packed)
    yield _corrected(bytes(shell.value_length - at), shell.correction, at)
    yield shell.suffix


def fill_shell(shell: Shell, frames: Iterable[NDArray[np.int32]]) -> bytes:
    """Received octets as a whole; see `shell_pieces`."""
    return b"".join(shell_pieces(shell, frames))


def _corrected(value: bytes, correction: bytes, at: int) -> bytes:
    if not correction:
        return value
    return _xor(value, correction[at : at + len(value)]).tobytes()


def _xor(first: bytes, second: bytes) -> NDArray[np.uint8]:
    left, right = np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8)
    return left ^ right
