"""Overlay planes of a protected object (PS3.3 C.9.2, C.9.3).

Planes are kept as they are. Those that lie in unused bits of the pixels
(retired) become planes of their own, since the pixels are written anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from gateway.dicom.repair import valid_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from gateway.dicom.derived_pixels import Part
    from gateway.dicom.pixels import Source

GROUPS: Final = range(0x6000, 0x6020, 2)
ROWS: Final = 0x0010
COLUMNS: Final = 0x0011
FRAMES: Final = 0x0015
TYPE: Final = 0x0040
ORIGIN: Final = 0x0050
FIRST_FRAME: Final = 0x0051
BITS_ALLOCATED: Final = 0x0100
BIT_POSITION: Final = 0x0102
DATA: Final = 0x3000
WORDS: Final = ((0x0022, "LO"), (0x0045, "LO"), (0x1500, "LO"))
"""Description, subtype and label."""

TYPES: Final = ("G", "R")
"""Graphics and region of interest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """One overlay group of a source.

    Attributes
    ----------
    group
        0x6000 to 0x601E, even.
    rows, columns, origin, kind, words
        Size, place on the image from (1, 1), type, and texts by element.
    first, count
        First frame of the source it is for, from 0, and how many.
    data
        Its bits, least significant first; None where they are in the pixels.
    position
        Bit of the pixels; None where they are not there.
    repeats
        Whether one plane lies over every frame.
    """

    group: int
    rows: int
    columns: int
    origin: tuple[int, int]
    kind: str
    words: tuple[tuple[int, str], ...]
    first: int
    count: int
    data: bytes | None
    position: int | None
    repeats: bool

    @property
    def size(self) -> int:
        """Bits of one frame."""
        return self.rows * self.columns


def copy_overlays(source: Source, part: Part, target: Dataset) -> None:
    """Take over the overlay planes that are for frames of a part.

    Parameters
    ----------
    source, target
        From and to.
    part
        The frames.
    """
    found = [_read_plane(source, group) for group in GROUPS]
    planes = [
        (plane, covered)
        for plane in found
        if plane is not None and (covered := _covered(plane, part))
    ]
    for plane, covered in planes:
        # Validators look for the first plane in group 6000.
        group = plane.group - planes[0][0].group + GROUPS.start
        written = covered[:1] if plane.repeats else covered
        bits = (_bits(source, plane, frame) for frame in written)
        _write_plane(plane, group, target, _packed(bits, plane.size))
        if not (part.single or plane.repeats):
            target.add_new(Tag(group, FRAMES), "IS", str(len(covered)))
            first = covered.start - part.frames.start + 1
            target.add_new(Tag(group, FIRST_FRAME), "US", first)


def _covered(plane: Plane, part: Part) -> range:
    """Frames of a part that a plane is for."""
    return range(
        max(part.frames.start, plane.first),
        min(part.frames.stop, plane.first + plane.count),
    )


def _read_plane(source: Source, group: int) -> Plane | None:
    """Plane of a group; None where it has none that is valid."""
    dataset = source.dataset
    rows, columns = _number(dataset, group, ROWS), _number(dataset, group, COLUMNS)
    data = _data(source, group)
    embedded = data is None and (rows, columns) == source.shape[:2]
    position = _number(dataset, group, BIT_POSITION) if embedded else None
    if rows < 1 or columns < 1 or (data is None and not _unused(source, position)):
        return None
    frames = _number(dataset, group, FRAMES)
    if embedded or frames < 1:
        first, count = 0, source.count
    else:
        first, count = max(0, _number(dataset, group, FIRST_FRAME) - 1), frames
    needed = rows * columns * max(1, frames)
    if data is not None and 8 * len(data) < needed:
        return None
    kind = str(_value(dataset, group, TYPE)).strip()
    origin = _value(dataset, group, ORIGIN)
    placed = isinstance(origin, MultiValue | list) and len(origin) == 2
    return Plane(
        group=group,
        rows=rows,
        columns=columns,
        origin=(int(origin[0]), int(origin[1])) if placed else (1, 1),
        kind=kind if kind in TYPES else "G",
        words=tuple(_words(dataset, group)),
        first=first,
        count=count,
        data=data,
        position=position,
        repeats=not embedded and frames < 1,
    )


def _unused(source: Source, position: int | None) -> bool:
    """Whether a bit of the pixels is none of the stored ones."""
    pixel = source.decoder.pixel
    if position is None or not source.decoder.holds_all_bits:
        return False
    if not 0 <= position < pixel.bits_allocated:
        return False
    return not pixel.shift <= position < pixel.shift + pixel.bits_stored


def _data(source: Source, group: int) -> bytes | None:
    try:
        element = source.dataset[Tag(group, DATA)]
    except KeyError:
        return None
    data = element.value
    if not isinstance(data, bytes) or not data:
        return None
    if element.VR == "OW" and not source.decoder.parsed.little:
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
    return data


def _bits(source: Source, plane: Plane, frame: int) -> NDArray[np.uint8]:
    """Bits of the plane over one frame, as 0 and 1."""
    if plane.position is not None:
        every = source.decoder.allocated_bits(frame)
        return ((every.reshape(-1) >> plane.position) & 1).astype(np.uint8)
    assert plane.data is not None
    first = 0 if plane.repeats else (frame - plane.first) * plane.size
    octets = np.frombuffer(plane.data, np.uint8)[first // 8 :]
    octets = octets[: (first % 8 + plane.size + 7) // 8]
    return np.unpackbits(octets, bitorder="little")[first % 8 :][: plane.size]


def _packed(frames: Iterator[NDArray[np.uint8]], size: int) -> bytes:
    if size % 8 == 0:
        return b"".join(np.packbits(f, bitorder="little").tobytes() for f in frames)
    return np.packbits(np.concatenate(list(frames)), bitorder="little").tobytes()


def _write_plane(plane: Plane, group: int, target: Dataset, data: bytes) -> None:
    target.add_new(Tag(group, ROWS), "US", plane.rows)
    target.add_new(Tag(group, COLUMNS), "US", plane.columns)
    target.add_new(Tag(group, TYPE), "CS", plane.kind)
    target.add_new(Tag(group, ORIGIN), "SS", list(plane.origin))
    target.add_new(Tag(group, BITS_ALLOCATED), "US", 1)
    target.add_new(Tag(group, BIT_POSITION), "US", 0)
    for element, words in plane.words:
        target.add_new(Tag(group, element), "LO", words)
    target.add_new(Tag(group, DATA), "OW", data + b"\0" * (len(data) % 2))


def _words(dataset: Dataset, group: int) -> Iterator[tuple[int, str]]:
    for element, vr in WORDS:
        found = _value(dataset, group, element)
        repaired = valid_text(vr, found) if isinstance(found, str) else None
        if repaired:
            yield element, repaired


def _value(dataset: Dataset, group: int, element: int) -> Any:  # noqa: ANN401
    try:
        return dataset[Tag(group, element)].value
    except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
        return None


def _number(dataset: Dataset, group: int, element: int) -> int:
    """Return a number of the group; 0 where it has none."""
    found = _value(dataset, group, element)
    try:
        return int(found)
    except (TypeError, ValueError):
        return 0
