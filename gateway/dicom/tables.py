"""Look-up tables of a data set: palettes, modality and VOI LUTs (PS3.3 C.11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from pydicom.pixels.processing import apply_color_lut

from gateway.dicom.lenient import numbers, value
from gateway.errors import Unprotectable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

FULL_TABLE: Final = 1 << 16
"""Entries that a descriptor writes as 0 (PS3.3 C.11.1.1)."""

LONGEST_SEGMENTS: Final = 1 << 20
"""Octets of a segmented palette; a full one in discrete segments has 131,076."""

DISCRETE: Final = 0
INDIRECT: Final = 2
"""Kinds of segments (PS3.3 C.7.9.2)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A look-up table that never falls, or never rises.

    Attributes
    ----------
    first
        Input that the first entry is for.
    values
        float64 entries, never falling; a falling table is kept mirrored.
    falling
        Whether the table as given falls.
    """

    first: int
    values: NDArray[np.float64]
    falling: bool

    @property
    def slope(self) -> int:
        """Sign of the table."""
        return -1 if self.falling else 1

    @property
    def changing(self) -> tuple[float, float]:
        """Inputs between which entries change: outside of them the table is flat."""
        low = int(np.searchsorted(self.values, self.values[0], side="right")) - 1
        high = int(np.searchsorted(self.values, self.values[-1], side="left"))
        return float(self.first + low), float(self.first + high)

    def inputs(self, low: float, high: float) -> tuple[float, float]:
        """Find inputs whose entries span the outputs from ``low`` to ``high``."""
        if self.falling:
            low, high = -high, -low
        places = np.arange(self.values.size, dtype=np.float64) + self.first
        levels, firsts = np.unique(self.values, return_index=True)
        lasts = np.append(firsts[1:] - 1, self.values.size - 1)
        return (
            float(np.interp(low, levels, places[lasts])),
            float(np.interp(high, levels, places[firsts])),
        )


def read_table(item: Dataset, *, signed: bool, little: bool) -> Table | None:
    """Look-up table of a sequence item; None where it is not a monotone one.

    Parameters
    ----------
    item
        Of a Modality or VOI LUT Sequence.
    signed
        Whether inputs may be negative.
    little
        Byte order of the data set.
    """
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    entries = int(descriptor[0]) % FULL_TABLE or FULL_TABLE
    first = int(descriptor[1])
    if signed and first >= FULL_TABLE // 2:
        first -= FULL_TABLE  # read as unsigned from an ambiguous encoding
    values = _entries(item, entries, little=little)
    if values is None or values.size < 2 or values[0] == values[-1]:
        return None
    steps = np.diff(values)
    if (steps >= 0).all():
        return Table(first=first, values=values, falling=False)
    if (steps <= 0).all():
        return Table(first=first, values=-values, falling=True)
    return None


def _entries(
    item: Dataset, entries: int, *, little: bool
) -> NDArray[np.float64] | None:
    data = value(item, "LUTData")
    if isinstance(data, bytes):
        kind = "u1" if len(data) < 2 * entries else f"{'<' if little else '>'}u2"
        usable = len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize
        found = np.frombuffer(data[:usable], kind)
    else:
        found = np.array(numbers(item, "LUTData"))
    if found.size < entries:
        return None
    return found[:entries].astype(np.float64)


def apply_palette(
    indices: NDArray[np.generic], dataset: Dataset, *, little: bool
) -> NDArray[np.uint8]:
    """Colours of palette indices, 8 bits (PS3.3 C.7.9); segmented palettes too.

    Parameters
    ----------
    indices
        Values of the image.
    dataset
        Has the palette.
    little
        Byte order of the data set.

    Raises
    ------
    Unprotectable
        ``undecodable``: there is no palette, or a damaged one.
    """
    _check_segments(dataset, little=little)
    try:
        colours = apply_color_lut(indices, dataset)
    except Exception as error:
        raise Unprotectable(
            "undecodable", f"palette cannot be applied: {type(error).__name__}"
        ) from error
    if colours.dtype == np.uint16:
        colours = colours >> 8
    return colours[..., :3].astype(np.uint8)


def _check_segments(dataset: Dataset, *, little: bool) -> None:
    """Check what segmented tables expand to before they do (PS3.3 C.7.9.2).

    Six octets of a segment make 65,535 entries, and an indirect one repeats
    others, so a small table can grow without bound.
    """
    for colour in ("Red", "Green", "Blue", "Alpha"):
        octets = value(dataset, f"Segmented{colour}PaletteColorLookupTableData")
        if octets is None:
            continue
        descriptor = numbers(dataset, f"{colour}PaletteColorLookupTableDescriptor")
        wide = len(descriptor) == 3 and descriptor[2] == 16
        if not isinstance(octets, bytes) or len(octets) > LONGEST_SEGMENTS:
            raise Unprotectable("undecodable", "palette segments are too long")
        kind = f"{'<' if little else '>'}u2" if wide else "u1"
        cells = np.frombuffer(octets[: len(octets) // 2 * 2], kind)
        if _expanded(cells.tolist(), wide=wide) > FULL_TABLE:
            raise Unprotectable(
                "undecodable", f"palette segments make over {FULL_TABLE} entries"
            )


def _expanded(
    cells: list[int], *, wide: bool, at: int = 0, segments: int | None = None
) -> int:
    """Count the entries that segments make; it stops above a full table.

    A segment counts as one entry at least, and an indirect one repeats others
    once, so that the count comes to an end.
    """
    total = 0
    left = len(cells) if segments is None else segments
    offset_cells = 2 if wide else 4
    while at + 1 < len(cells) and left and total <= FULL_TABLE:
        kind, length = cells[at], cells[at + 1]
        at += 2
        left -= 1
        if kind != INDIRECT:
            total += max(1, length)
            at += length if kind == DISCRETE else 1
            continue
        bits = 16 if wide else 8
        places = enumerate(cells[at : at + offset_cells])
        start = sum(cell << bits * place for place, cell in places)
        at += offset_cells
        if segments is not None:
            return FULL_TABLE + 1  # a repetition of repetitions
        total += _expanded(cells, wide=wide, at=start, segments=length)
    return total
