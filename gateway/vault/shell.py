"""The received octets around native pixel values, and how to put them back.

Original = prefix + encoded frames (exclusive or the correction) + suffix. The
correction holds what stored values do not: overlay bits above BitsStored, odd
sign extension, the padding octet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.store.spool import Spool
from gateway.vault.codec import LARGE
from gateway.vault.large import PackedOctets, Packer
from gateway.vault.layout import PixelLayout, pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from gateway.store.octets import Octets


PADDING: Final = 1 << 20
"""Octets beyond the frames that are taken at once."""


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
    correction: Octets = field(repr=False)


class ShellTaker:
    """Takes the shell of received octets while their frames are gone through.

    Parameters
    ----------
    received
        The whole received octets; a frame of them is read at a time.
    bounds
        Start and end (exclusive) of the pixel data value in them.
    layout
        How the value is encoded.
    spool
        Where a large correction goes; None: one of its own.
    """

    def __init__(
        self,
        received: Octets,
        bounds: tuple[int, int],
        layout: PixelLayout,
        spool: Spool | None = None,
    ) -> None:
        self._received = received
        self._start, self._end = bounds
        self._layout = layout
        self._at = self._start
        self._correction = _Correction(self._end - self._start, spool or Spool())

    def add(self, frame: NDArray[np.int32]) -> None:
        """Go on to the next frame: its int32 stored values."""
        packed = pack([frame], self._layout)
        end = min(self._at + len(packed), self._end)
        self._compare(packed[: end - self._at], end)

    def shell(self) -> Shell:
        """Shell of the octets, after the last frame."""
        while self._at < self._end:
            end = min(self._at + PADDING, self._end)
            self._compare(bytes(end - self._at), end)
        return Shell(
            prefix=self._received[: self._start],
            suffix=self._received[self._end :],
            layout=self._layout,
            value_length=self._end - self._start,
            correction=self._correction.octets(),
        )

    def _compare(self, encoded: bytes, end: int) -> None:
        difference = _xor(encoded, self._received[self._at : end])
        self._correction.add(difference)
        self._at = end


class _Correction:
    """Takes differences in order; made only from the first that is none on."""

    def __init__(self, size: int, spool: Spool) -> None:
        self._size = size
        self._spool = spool
        self._at = 0
        self._small: bytearray | None = None
        self._large: Packer | None = None

    def add(self, difference: NDArray[np.uint8]) -> None:
        differs = difference.any()
        if differs and self._small is None and self._large is None:
            self._begin()
        if self._large is not None:
            self._large.write(difference.tobytes())
        elif self._small is not None and differs:
            end = self._at + len(difference)
            self._small[self._at : end] = difference.tobytes()
        self._at += len(difference)

    def octets(self) -> Octets:
        if self._large is not None:
            return PackedOctets(self._large.blob())
        return bytes(self._small or b"")

    def _begin(self) -> None:
        if self._size <= LARGE:
            self._small = bytearray(self._size)
            return
        self._large = Packer(self._size, self._spool)
        for start in range(0, self._at, PADDING):
            self._large.write(bytes(min(PADDING, self._at - start)))


def take_shell(
    received: Octets,
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
    while at < shell.value_length:
        zeros = bytes(min(PADDING, shell.value_length - at))
        yield _corrected(zeros, shell.correction, at)
        at += len(zeros)
    yield shell.suffix


def fill_shell(shell: Shell, frames: Iterable[NDArray[np.int32]]) -> bytes:
    """Received octets as a whole; see `shell_pieces`."""
    return b"".join(shell_pieces(shell, frames))


def _corrected(value: bytes, correction: Octets, at: int) -> bytes:
    if not len(correction):
        return value
    return _xor(value, correction[at : at + len(value)]).tobytes()


def _xor(first: bytes, second: bytes) -> NDArray[np.uint8]:
    left, right = np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8)
    return left ^ right
