"""What a compressed frame says about its own size, before it is decoded.

A decoder allocates what the stream or the data set claims. Comparing the two
first means that neither can lie alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SOI: Final = b"\xff\xd8"
SOC: Final = b"\xff\x4f\xff\x51"  # J2K start of codestream and SIZ
JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "
STANDALONE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
# Start of frame of every JPEG process, and of JPEG-LS (F7). Not C4, C8, CC.
START_OF_FRAME: Final = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}


class FrameSize(NamedTuple):
    """What a stream declares of the frame in it."""

    rows: int
    columns: int
    samples: int


def frame_size(stream: bytes) -> FrameSize | None:
    """Rows, columns and samples that a JPEG, JPEG-LS or JPEG 2000 stream declares.

    Parameters
    ----------
    stream
        One compressed frame.

    Returns
    -------
    FrameSize or None
        None where no header of these families is found.
    """
    if stream.startswith(JP2_SIGNATURE):
        at = stream.find(SOC)
        return None if at < 0 else _siz(stream, at)
    if stream.startswith(SOC):
        return _siz(stream, 0)
    if stream.startswith(SOI):
        return _start_of_frame(stream)
    return None


def _siz(stream: bytes, at: int) -> FrameSize | None:
    # SOC(2) SIZ(2) Lsiz(2) Rsiz(2) Xsiz(4) Ysiz(4) XOsiz(4) YOsiz(4): ISO 15444-1 A.5.1
    # and then XTsiz(4) YTsiz(4) XTOsiz(4) YTOsiz(4) Csiz(2).
    fields = stream[at + 8 : at + 42]
    if len(fields) < 34:
        return None
    x, y, x_offset, y_offset = (
        int.from_bytes(fields[i : i + 4], "big") for i in range(0, 16, 4)
    )
    samples = int.from_bytes(fields[32:34], "big")
    return FrameSize(y - y_offset, x - x_offset, samples)


def _start_of_frame(stream: bytes) -> FrameSize | None:
    at = 2
    while at + 10 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xFF:  # fill octet
            at += 1
        elif marker in STANDALONE:
            at += 2
        elif marker in START_OF_FRAME:
            rows = int.from_bytes(stream[at + 5 : at + 7], "big")
            columns = int.from_bytes(stream[at + 7 : at + 9], "big")
            return FrameSize(rows, columns, stream[at + 9])
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
