"""Where the fragments of each compressed frame lie (PS3.5 A.4).

Found once for the whole object, so that any frame is reached at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from gateway.dicom.lenient import value
from gateway.dicom.parse import UNDEFINED_LENGTH
from gateway.errors import Unprotectable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from gateway.dicom.parse import ParsedObject, PixelElement
    from gateway.store.octets import Octets

ITEM_HEADER: Final = 8
HEADER: Final = struct.Struct("<LL")
ITEM: Final = 0xE000FFFE  # group and element as they lie, read as one number
SEQUENCE_END: Final = 0xE0DDFFFE
MOST_FRAGMENTS_OF_A_FRAME: Final = 10_000
MOST_FRAGMENTS: Final = 1_000_000
END_OF_IMAGE: Final = b"\xff\xd9"
"""JPEG EOI and JPEG 2000 EOC; a padding octet or a few may follow."""
TAIL: Final = 10

Span = tuple[int, int]
"""Start and end (exclusive) of a fragment's octets in the data set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameIndex:
    """Fragments of every frame of encapsulated pixel data.

    Attributes
    ----------
    body
        The data set they lie in.
    frames
        Spans of each frame's fragments, in order.
    """

    body: Octets
    frames: tuple[tuple[Span, ...], ...]

    def size(self, index: int) -> int:
        """How many compressed octets one frame has."""
        return sum(end - start for start, end in self.frames[index])

    def stream(self, index: int) -> bytes:
        """Compressed octets of one frame."""
        return b"".join(self.body[start:end] for start, end in self.frames[index])


def index_frames(parsed: ParsedObject, element: PixelElement, count: int) -> FrameIndex:
    """Find the fragments of each of ``count`` frames.

    Parameters
    ----------
    parsed, element
        The data set and its encapsulated pixel data.
    count
        How many frames the attributes declare.

    Raises
    ------
    Unprotectable
        ``undecodable``: damaged encapsulation; ``short-pixel-data``: fewer
        fragments than frames, or one that ends behind the last octet.
    """
    spans = _spans(parsed.body, element, count)
    offsets, fragments = spans[:1], spans[1:]
    if len(fragments) < count:
        raise Unprotectable(
            "short-pixel-data", f"{len(fragments)} fragments for {count} frames"
        )
    if fragments[-1][1] > len(parsed.body):
        raise Unprotectable("short-pixel-data", "the last fragment is cut off")
    tables = (
        _extended_offsets(parsed.dataset, count),
        _basic_offsets(parsed.body, offsets[0], count),
    )
    frames = _by_offsets(tables, fragments, count) or _by_content(
        parsed.body, fragments, count
    )
    return FrameIndex(body=parsed.body, frames=frames)


def _spans(body: Octets, element: PixelElement, count: int) -> list[Span]:
    most = max(1 + count, min(count * MOST_FRAGMENTS_OF_A_FRAME, MOST_FRAGMENTS))
    found: list[Span] = []
    at = element.start
    while at + ITEM_HEADER <= len(body):
        tag, length = HEADER.unpack(body[at : at + ITEM_HEADER])
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or length == UNDEFINED_LENGTH or len(found) == most:
            raise Unprotectable(
                "undecodable", "encapsulation of the pixel data is damaged"
            )
        at += ITEM_HEADER
        found.append((at, at + length))
        at += length
    if not found:
        raise Unprotectable("undecodable", "pixel data without fragments")
    return found


def _extended_offsets(dataset: Dataset, count: int) -> tuple[int, ...]:
    table = value(dataset, "ExtendedOffsetTable")
    if not isinstance(table, bytes) or len(table) != 8 * count:
        return ()
    return struct.unpack(f"<{count}Q", table)


def _basic_offsets(body: Octets, span: Span, count: int) -> tuple[int, ...]:
    if span[1] - span[0] != 4 * count or span[1] > len(body):
        return ()
    return struct.unpack(f"<{count}L", body[span[0] : span[1]])


def _by_offsets(
    tables: Sequence[tuple[int, ...]], fragments: Sequence[Span], count: int
) -> tuple[tuple[Span, ...], ...] | None:
    """Frames as the first offset table says that fits the fragments."""
    origin = fragments[0][0]
    places = {start - origin: number for number, (start, _) in enumerate(fragments)}
    for table in tables:
        firsts = [places.get(offset, -1) for offset in table]
        rising = all(a < b for a, b in pairwise(firsts))
        if len(firsts) == count and firsts[0] == 0 and rising:
            ends = [*firsts[1:], len(fragments)]
            pairs = zip(firsts, ends, strict=True)
            return tuple(tuple(fragments[first:end]) for first, end in pairs)
    return None


def _by_content(
    body: Octets, fragments: Sequence[Span], count: int
) -> tuple[tuple[Span, ...], ...]:
    """Frames without an offset table: one fragment each, or up to its end marker."""
    if count == 1:
        return (tuple(fragments),)
    if len(fragments) == count:
        return tuple((span,) for span in fragments)
    frames: list[tuple[Span, ...]] = []
    open_frame: list[Span] = []
    for start, end in fragments:
        open_frame.append((start, end))
        if END_OF_IMAGE in body[max(start, end - TAIL) : end]:
            frames.append(tuple(open_frame))
            open_frame = []
    if len(frames) < count:
        raise Unprotectable(
            "short-pixel-data", f"{len(frames)} compressed frames of {count} declared"
        )
    return tuple(frames[:count])
