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
    from collections.abc import Sequence

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


def take_shell(
    received: bytes,
    bounds: tuple[int, int],
    layout: PixelLayout,
    frames: Sequence[NDArray[np.int32]],
) -> Shell:
    """Shell of received octets whose stored values are known.

    Parameters
    ----------
    received
        The whole received octets.
    bounds
        Start and end (exclusive) of the pixel data value in them.
    layout
        How the value is encoded.
    frames
        int32 stored values of every frame.
    """
    start, end = bounds
    return Shell(
        prefix=received[:start],
        suffix=received[end:],
        layout=layout,
        value_length=end - start,
        correction=_xor(pack(frames, layout), received[start:end]),
    )


def fill_shell(shell: Shell, frames: Sequence[NDArray[np.int32]]) -> bytes:
    """Received octets, with the pixel values put back.

    Parameters
    ----------
    shell
        From `take_shell`.
    frames
        int32 stored values, the same as there.
    """
    value = pack(frames, shell.layout)
    value = _fit(value, shell.value_length)
    if shell.correction:
        value = _bytes_xor(value, shell.correction)
    return shell.prefix + value + shell.suffix


def _xor(encoded: bytes, value: bytes) -> bytes:
    difference = _bytes_xor(_fit(encoded, len(value)), value)
    return difference if np.frombuffer(difference, np.uint8).any() else b""


def _bytes_xor(first: bytes, second: bytes) -> bytes:
    left, right = np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8)
    return (left ^ right).tobytes()


def _fit(value: bytes, length: int) -> bytes:
    return value[:length].ljust(length, b"\0")
