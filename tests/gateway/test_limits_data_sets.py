"""Data sets made to exhaust a parser: refused by name, in little time and memory."""

from __future__ import annotations

import resource
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from gateway.dicom import structure
from gateway.dicom.elements import read_elements
from gateway.dicom.parse import DEFLATED_FRAMES, Bounds, inflate, parse_object
from gateway.dicom.pixels import Reading, read_source
from gateway.dicom.structure import check_structure
from gateway.dicom.tables import apply_palette
from gateway.errors import InvalidObject, Unprotectable
from tests.gateway.scp import encoded, small

if TYPE_CHECKING:
    from typing import Any

READING = Reading(max_frames=100)
ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
UNDEFINED = 0xFFFFFFFF
SQ_TAG = (0x0040, 0x0555)  # Acquisition Context Sequence
MEMORY_BYTES = 8 << 20


@contextmanager
def little_memory(most: int = MEMORY_BYTES) -> Iterator[None]:
    """The block allocates no more at its peak than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def header(order: str, implicit: bool, length: int) -> bytes:
    if implicit:
        return struct.pack(f"{order}HHL", *SQ_TAG, length)
    return struct.pack(f"{order}HH2sHL", *SQ_TAG, b"SQ", 0, length)


def nested(depth: int, *, implicit: bool, order: str, defined: bool) -> bytes:
    """Sequences within sequences, each with one item."""
    if not defined:
        opening = header(order, implicit, UNDEFINED) + struct.pack(
            f"{order}HHL", 0xFFFE, ITEM, UNDEFINED
        )
        closing = struct.pack(
            f"{order}HHLHHL", 0xFFFE, ITEM_END, 0, 0xFFFE, SEQUENCE_END, 0
        )
        return opening * depth + closing * depth
    pieces: list[bytes] = []
    size = 0
    for _ in range(depth):
        item = struct.pack(f"{order}HHL", 0xFFFE, ITEM, size)
        sequence = header(order, implicit, size + 8)
        pieces.append(sequence + item)
        size += len(sequence) + 8
    return b"".join(reversed(pieces))


SYNTAXES = {
    "implicit": (ImplicitVRLittleEndian, True, "<"),
    "explicit": (ExplicitVRLittleEndian, False, "<"),
    "big endian": (ExplicitVRBigEndian, False, ">"),
}


@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
@pytest.mark.parametrize("name", SYNTAXES)
def test_10_000_sequences_in_each_other_are_held(name: str, defined: bool) -> None:
    syntax, implicit, order = SYNTAXES[name]
    data = nested(10_000, implicit=implicit, order=order, defined=defined)
    with (
        little_memory(),
        pytest.raises(Unprotectable, match="deeper than 64") as caught,
    ):
        parse_object(data, syntax)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
@pytest.mark.parametrize("name", SYNTAXES)
def test_as_many_as_are_allowed_are_read(name: str, defined: bool) -> None:
    syntax, implicit, order = SYNTAXES[name]
    data = nested(40, implicit=implicit, order=order, defined=defined)
    parsed = parse_object(data, syntax, Bounds(max_depth=40))
    depth, found = 0, parsed.dataset
    while "AcquisitionContextSequence" in found:
        found = found.AcquisitionContextSequence[0]
        depth += 1
    assert depth == 40
    with pytest.raises(Unprotectable, match="deeper than 39"):
        parse_object(data, syntax, Bounds(max_depth=39))


def test_unknown_vr_of_undefined_length_counts_as_a_sequence() -> None:
    inner = nested(100, implicit=True, order="<", defined=False)
    unknown = struct.pack("<HH2sHL", 0x0009, 0x1001, b"UN", 0, UNDEFINED)
    item = struct.pack("<HHL", 0xFFFE, ITEM, UNDEFINED)
    data = unknown + item + inner
    with pytest.raises(InvalidObject, match="deeper"):
        check_structure(data, implicit=False, little=True, max_depth=64)


def test_elements_without_number_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert structure.MOST_ELEMENTS == 1_000_000  # which takes too long here
    monkeypatch.setattr(structure, "MOST_ELEMENTS", 20_000)
    one = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)
    parse_object(one * 20_000, ExplicitVRLittleEndian)
    with little_memory(), pytest.raises(Unprotectable, match="over 20000 elements"):
        parse_object(one * 20_001, ExplicitVRLittleEndian)


def test_at_reception_100_000_elements_of_a_head_are_too_many() -> None:
    one = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)
    stream = BytesIO(one * 100_001)
    with little_memory(), pytest.raises(InvalidObject, match="over 100000 elements"):
        read_elements(stream, ExplicitVRLittleEndian, 0x00200013)


def test_at_reception_only_what_the_index_keeps_takes_memory() -> None:
    value = bytes(60_000)
    data = b"".join(
        struct.pack("<HH2sHL", 0x0009, 0x1000 + n, b"OB", 0, len(value)) + value
        for n in range(500)
    )
    stream = BytesIO(data)
    with little_memory(1 << 20):
        found = read_elements(stream, ExplicitVRLittleEndian, wanted={0x00091002})
    assert [*found.values] == [0x00091002]


@pytest.mark.parametrize(
    "element",
    [
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFFE),
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"UT", 0, 0xFFFFFFF0) + b"short",
        struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFE),
        struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, UNDEFINED),
        struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, UNDEFINED)
        + struct.pack("<HHL", 0xFFFE, ITEM, 0xFFFFFFFE),
        struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 0xFFFF) + b"CT",
    ],
    ids=["4 GiB", "4 GiB text", "4 GiB sequence", "no end", "4 GiB item", "64 KiB"],
)
def test_a_length_beyond_the_end_is_refused_at_reception(element: bytes) -> None:
    with little_memory(), pytest.raises(InvalidObject, match="ends within"):
        read_elements(BytesIO(element), ExplicitVRLittleEndian, 0x00200013)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def bomb(size: int, head: bytes = b"") -> bytes:
    """What inflates to a head and so many zeros.

    A flushed block stands for itself, so that one can be repeated.
    """
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (size >> 20) + packer.flush()


def test_a_deflated_bomb_is_held_before_it_takes_memory() -> None:
    data = bomb(1 << 30)
    assert len(data) < 1_200_000
    with little_memory(), pytest.raises(Unprotectable, match="grows beyond"):
        parse_object(data, DeflatedExplicitVRLittleEndian)


def test_the_limit_of_the_site_holds_for_what_is_deflated() -> None:
    data = deflated(np.random.default_rng(1).bytes(3 << 20))
    assert len(inflate(data, 3 << 20)) == 3 << 20
    with pytest.raises(Unprotectable, match="grows beyond"):
        inflate(data, (3 << 20) - 1)


def test_a_large_honest_data_set_is_inflated_in_little_more_time() -> None:
    honest = np.random.default_rng(1).integers(0, 9, 40 << 20, np.uint8).tobytes()
    packed = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    data = packed.compress(honest) + packed.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert inflate(data) == honest
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5.0


def picture(syntax: str, pixel_data: bytes) -> bytes:
    dataset = small(
        Rows=64,
        Columns=64,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
    )
    head = bytes(encoded(dataset).data)
    vr = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED)
    assert UID(syntax).is_encapsulated or syntax == DEFLATED_FRAMES
    return head + vr + pixel_data


def jpeg_head(rows: int, columns: int, samples: int = 1) -> bytes:
    body = struct.pack(">BHHB", 8, rows, columns, samples) + b"\1\x11\0" * samples
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", 2 + len(body)) + body + b"\xff\xd9"


def j2k_head(rows: int, columns: int, samples: int = 1) -> bytes:
    siz = struct.pack(
        ">HLLLLLLLLH", 0, columns, rows, 0, 0, columns, rows, 0, 0, samples
    )
    siz += b"\7\1\1" * samples
    return b"\xff\x4f\xff\x51" + struct.pack(">H", 2 + len(siz)) + siz + b"\xff\xd9"


NO_TABLE = struct.pack("<HHL", 0xFFFE, ITEM, 0)


def one_fragment(stream: bytes) -> bytes:
    return encapsulate([stream + b"\0" * (len(stream) % 2)])


BOMBS: dict[str, tuple[str, Callable[[], bytes], dict[str, Any], str]] = {
    "RLE of 65535x65535": (
        RLELossless,
        lambda: one_fragment(bytes(64)),
        {"Rows": 65535, "Columns": 65535},
        "unsupported-pixels",
    ),
    "RLE of 16384x16384": (
        RLELossless,
        lambda: one_fragment(bytes(64)),
        {"Rows": 16384, "Columns": 16384},
        "too-large",
    ),
    "RLE of 6000x6000": (
        RLELossless,
        lambda: one_fragment(bytes(64)),
        {"Rows": 6000, "Columns": 6000},
        "short-pixel-data",
    ),
    "65535 square frames times 2147483647": (
        RLELossless,
        lambda: one_fragment(bytes(64)),
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 2147483647},
        "too-many-frames",
    ),
    "JPEG that says 65535x65535": (
        JPEGBaseline8Bit,
        lambda: one_fragment(jpeg_head(65535, 65535)),
        {},
        "undecodable",
    ),
    "JPEG of 255 samples": (
        JPEGBaseline8Bit,
        lambda: one_fragment(jpeg_head(64, 64, 255)),
        {},
        "undecodable",
    ),
    "JPEG 2000 that says 65535x65535": (
        JPEG2000Lossless,
        lambda: one_fragment(j2k_head(65535, 65535)),
        {},
        "undecodable",
    ),
    "JPEG 2000 of 16384 samples": (
        JPEG2000Lossless,
        lambda: one_fragment(j2k_head(64, 64, 16384)),
        {},
        "undecodable",
    ),
    "no size in the codestream": (
        JPEGBaseline8Bit,
        lambda: one_fragment(b"\xff\xd8" + bytes(200) + jpeg_head(9000, 9000)),
        {},
        "undecodable",
    ),
    "deflated frame bomb": (
        DEFLATED_FRAMES,
        lambda: one_fragment(bomb(256 << 20)),
        {},
        "unreadable",
    ),
    "fragment of 4 GiB": (
        RLELossless,
        lambda: (
            encapsulate([bytes(64)])[:8] + struct.pack("<HHL", 0xFFFE, ITEM, 0xFFFFFFFE)
        ),
        {},
        "short-pixel-data",
    ),
    "fragment of undefined length": (
        RLELossless,
        lambda: NO_TABLE + struct.pack("<HHL", 0xFFFE, ITEM, UNDEFINED),
        {},
        "undecodable",
    ),
    "no fragment at all": (RLELossless, lambda: b"", {}, "undecodable"),
    "100,000 empty fragments for a frame": (
        RLELossless,
        lambda: NO_TABLE * 100_000,
        {},
        "undecodable",
    ),
    "offset table of 4 MiB": (
        RLELossless,
        lambda: (
            struct.pack("<HHL", 0xFFFE, ITEM, 4 << 20)
            + bytes(4 << 20)
            + encapsulate([bytes(8)], has_bot=False)[8:]
        ),
        {},
        "short-pixel-data",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_would_grow_is_held_before_it_does(name: str) -> None:
    syntax, make, changes, reason = BOMBS[name]
    data = changed(picture(syntax, make()), **changes)
    with little_memory(24 << 20), pytest.raises(Unprotectable) as caught:
        read_source(data, syntax, reading=READING)
    assert caught.value.reason == reason


def changed(data: bytes, **values: int) -> bytes:
    """Other sizes in the head, the pixel data as they are."""
    at = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    head = parse_object(data, ExplicitVRLittleEndian).dataset
    for keyword, value in values.items():
        setattr(head, keyword, value)
    return bytes(encoded(head).data) + data[at:]


def segmented(cells: list[int]) -> Dataset:
    dataset = Dataset()
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    packed = struct.pack(f"<{len(cells)}H", *cells)
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [0, 0, 16])
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", packed)
    return dataset


def test_a_segmented_palette_is_applied() -> None:
    dataset = segmented([0, 2, 0, 65535, 1, 65534, 0])
    found = apply_palette(np.array([[0, 1]], np.uint16), dataset, little=True)
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize(
    "cells",
    [
        [0, 1, 5] + [1, 65535, 9] * 20_000,
        [0, 1, 5] + [2, 65535, 0, 0] * 20_000,
        [0, 1, 5, 2, 65535, 3, 0],
        [0, 1, 5] + [1, 0, 5] * 70_000,
    ],
    ids=["linear", "indirect", "indirect to itself", "empty segments"],
)
def test_a_segmented_palette_that_grows_is_refused(cells: list[int]) -> None:
    with (
        little_memory(32 << 20),
        pytest.raises(Unprotectable, match="palette segments") as caught,
    ):
        apply_palette(np.zeros((2, 2), np.uint16), segmented(cells), little=True)
    assert caught.value.reason == "undecodable"
