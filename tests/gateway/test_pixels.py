"""The bridge from data sets to frames: values, windows, refusals."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from gateway.dicom.codestream import frame_size
from gateway.dicom.parse import data_set_offset, inflate
from gateway.dicom.pixels import Reading, Source, read_source
from gateway.errors import Unprotectable
from tests.gateway.object_cases import (
    EXPLICIT,
    as_file,
    corpus_file,
    edited,
    encoded,
    grey_dataset,
)

RLE = "1.2.840.10008.1.2.5"
J2K = "1.2.840.10008.1.2.4.90"
JPEG = "1.2.840.10008.1.2.4.50"
DEFLATED = "1.2.840.10008.1.2.1.99"


READING = Reading(max_frames=200)


def read_file(data: bytes, reading: Reading = READING) -> Source:
    offset, syntax = data_set_offset(data)
    return read_source(data[offset:], syntax, reading=reading)


def read_dataset(dataset: Dataset, reading: Reading = READING) -> Source:
    return read_source(encoded(dataset), EXPLICIT, reading=reading)


def read_corpus(name: str) -> Source:
    return read_file(corpus_file(name).read_bytes())


def ramp(bits: int, *, frames: int = 1, offset: int = 0) -> np.ndarray:
    values = np.arange(frames * 48 * 40).reshape(frames, 48, 40) % (1 << bits)
    return values + offset


@pytest.mark.parametrize(
    ("compressed", "native"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("emri_small_RLE.dcm", "emri_small.dcm"),
        ("693_J2KR.dcm", "693_UNCR.dcm"),
        ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm"),
        ("SC_rgb_expb_16bit.dcm", "SC_rgb_16bit.dcm"),
        ("US1_J2KR.dcm", "US1_UNCR.dcm"),
    ],
)
def test_every_syntax_gives_the_same_values(compressed: str, native: str) -> None:
    first, second = read_corpus(compressed), read_corpus(native)
    assert first.count == second.count
    for one, other in zip(first.frames(), second.frames(), strict=True):
        assert np.array_equal(one.stored, other.stored)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_and_sign(bits: int, signed: bool) -> None:
    offset = -(1 << (bits - 1)) if signed else 0
    values = ramp(bits, offset=offset)
    source = read_dataset(grey_dataset(values, bits_stored=bits, signed=signed))
    assert np.array_equal(source.frame(0).stored, values[0])
    assert source.frame(0).minimum == offset
    assert source.frame(0).maximum == offset + (1 << bits) - 1


def test_overlay_bits_are_no_part_of_the_stored_values() -> None:
    values = ramp(12)
    dataset = grey_dataset(values, bits_stored=12)
    dataset.PixelData = (values.astype("<u2") | 0x8000).tobytes()
    dataset["PixelData"].VR = "OW"
    assert np.array_equal(read_dataset(dataset).frame(0).stored, values[0])


def test_palette_becomes_rgb() -> None:
    source = read_corpus("examples_palette.dcm")
    assert source.colour
    assert source.bits_stored == 8
    assert source.native is None
    assert source.frame(0).stored.max() <= 255


def test_ybr_becomes_rgb() -> None:
    ybr = read_corpus("SC_ybr_full_uncompressed.dcm").frame(0).stored
    rgb = read_corpus("SC_rgb.dcm").frame(0).stored
    assert np.abs(ybr - rgb).max() <= 6  # rounding of the two conversions


# Windows


def with_window(**attributes: object) -> Source:
    dataset = grey_dataset(ramp(12), bits_stored=12)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return read_dataset(dataset)


def test_window_is_folded_with_the_rescale() -> None:
    source = with_window(
        WindowCenter="40",
        WindowWidth="401",
        RescaleSlope="2",
        RescaleIntercept="-1024",
    )
    rendering = source.frame(0).rendering
    # c - 0.5 -/+ (w - 1) / 2 is -160.5 and 239.5 (PS3.3 C.11.2.1.2.1)
    assert rendering.lo == (-160.5 + 1024) / 2
    assert rendering.hi == (239.5 + 1024) / 2
    assert source.own_window


def test_first_of_several_windows() -> None:
    source = with_window(WindowCenter=["100", "700"], WindowWidth=["51", "11"])
    assert source.frame(0).rendering.lo == 74.5


def test_linear_exact() -> None:
    source = with_window(
        WindowCenter="100", WindowWidth="50", VOILUTFunction="LINEAR_EXACT"
    )
    assert (source.frame(0).rendering.lo, source.frame(0).rendering.hi) == (75, 125)


def test_falling_rescale_inverts() -> None:
    source = with_window(
        WindowCenter="0", WindowWidth="101", RescaleSlope="-1", RescaleIntercept="500"
    )
    assert source.frame(0).rendering.inverted
    assert source.frame(0).rendering.lo == 450.5


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"WindowCenter": "100", "WindowWidth": "0"},
        {"WindowCenter": None, "WindowWidth": None},
        {
            "WindowCenter": "9",
            "WindowWidth": "5",
            "ModalityLUTSequence": Sequence([Dataset()]),
        },
    ],
)
def test_without_a_linear_window_one_is_made(attributes: dict[str, object]) -> None:
    source = with_window(**attributes)
    lo, hi = np.percentile(source.frame(0).stored, (0.5, 99.5))
    assert not source.own_window
    assert (source.frame(0).rendering.lo, source.frame(0).rendering.hi) == (lo, hi)


def test_padding_does_not_widen_the_made_window() -> None:
    values = ramp(10)
    values[0, :20] = 4000
    dataset = grey_dataset(values, bits_stored=12)
    dataset.PixelPaddingValue = 4000
    assert read_dataset(dataset).frame(0).rendering.hi < 1024


def test_8_bit_without_window_is_shown_as_it_is() -> None:
    source = read_dataset(grey_dataset(ramp(7), bits_stored=8))
    assert (source.frame(0).rendering.lo, source.frame(0).rendering.hi) == (0, 255)


def test_constant_frame_has_a_window() -> None:
    source = read_dataset(grey_dataset(np.full((1, 40, 40), 7), bits_stored=12))
    assert source.frame(0).rendering.hi > source.frame(0).rendering.lo


def test_monochrome1_is_inverted() -> None:
    assert read_corpus("RG3_UNCR.dcm").frame(0).rendering.inverted


def test_each_frame_has_its_own_window() -> None:
    dataset = grey_dataset(ramp(12, frames=2), bits_stored=12)
    dataset.PerFrameFunctionalGroupsSequence = [
        voi_group(str(centre)) for centre in (100, 300)
    ]
    source = read_dataset(dataset)
    assert [frame.rendering.lo for frame in source.frames()] == [49.5, 249.5]


def voi_group(centre: str) -> Dataset:
    voi, group = Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = centre, "101"
    group.FrameVOILUTSequence = [voi]
    return group


# Refusals


def file_of(name: str) -> bytes:
    return corpus_file(name).read_bytes()


def cut(name: str, octets: int) -> bytes:
    return file_of(name)[:-octets]


def float_pixels() -> bytes:
    dataset = dcmread(corpus_file("MR_small.dcm"))
    del dataset.PixelData
    dataset.FloatPixelData = b"\0" * 64 * 64 * 4
    return as_file(dataset)


def with_syntax(name: str, syntax: str) -> bytes:
    """A file whose meta information claims another syntax of the same length."""
    dataset = dcmread(corpus_file(name))
    old = str(dataset.file_meta.TransferSyntaxUID).encode().ljust(len(syntax), b"\0")
    return file_of(name).replace(old, syntax.encode(), 1)


REFUSALS = {
    "structured report": (lambda: file_of("reportsi.dcm"), "no-pixel-data"),
    "plan": (lambda: file_of("rtplan.dcm"), "no-pixel-data"),
    "truncated": (lambda: file_of("MR_truncated.dcm"), "short-pixel-data"),
    "cut": (lambda: cut("CT_small.dcm", 4000), "short-pixel-data"),
    "more rows": (lambda: edited("MR_small.dcm", Rows=65535), "short-pixel-data"),
    "one pixel": (lambda: edited("MR_small.dcm", Rows=1, Columns=1), "too-small"),
    "narrow": (lambda: edited("MR_small.dcm", Columns=31), "too-small"),
    "many frames": (
        lambda: edited("MR_small.dcm", NumberOfFrames=10_000),
        "too-many-frames",
    ),
    "32 bits": (lambda: file_of("SC_rgb_32bit.dcm"), "unsupported-pixels"),
    "1 bit": (
        lambda: edited("MR_small.dcm", BitsAllocated=1, BitsStored=1, HighBit=0),
        "unsupported-pixels",
    ),
    "segmentation": (lambda: file_of("liver.dcm"), "unsupported-pixels"),
    "dose": (lambda: file_of("rtdose.dcm"), "unsupported-pixels"),
    "floats": (float_pixels, "unsupported-pixels"),
    "high bit in no place": (
        lambda: edited("MR_small.dcm", BitsStored=12, HighBit=9),
        "unsupported-pixels",
    ),
    "unknown photometric": (
        lambda: edited("MR_small.dcm", PhotometricInterpretation="CMYK"),
        "unsupported-pixels",
    ),
    "samples": (
        lambda: edited("MR_small.dcm", SamplesPerPixel=3),
        "unsupported-pixels",
    ),
    "for processing": (
        lambda: edited("MR_small.dcm", PresentationIntentType="FOR PROCESSING"),
        "unsupported-pixels",
    ),
    "for processing class": (
        lambda: edited("MR_small.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2.1"),
        "unsupported-pixels",
    ),
    "no rows": (lambda: edited("MR_small.dcm", Rows=None), "missing-attribute"),
    "no bits": (
        lambda: edited("MR_small.dcm", BitsAllocated=None),
        "missing-attribute",
    ),
    "no study": (
        lambda: edited("MR_small.dcm", StudyInstanceUID=""),
        "missing-attribute",
    ),
    "no photometric": (
        lambda: edited("MR_small.dcm", PhotometricInterpretation=None),
        "missing-attribute",
    ),
    "text": (lambda: b"not an image" * 40, "unreadable"),
    "private syntax": (
        lambda: with_syntax("MR_small.dcm", "1.2.826.0.1.3.9"),
        "unknown-transfer-syntax",
    ),
    "no syntax": (
        lambda: file_of("meta_missing_tsyntax.dcm"),
        "unknown-transfer-syntax",
    ),
    "native claimed to be RLE": (
        lambda: with_syntax("MR_small.dcm", RLE),
        "undecodable",
    ),
    "damaged stream": (
        lambda: file_of("693_J2KR.dcm").replace(b"\xff\x4f\xff\x51", b"\0\0\0\0"),
        "undecodable",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_have_their_reason(case: str) -> None:
    make, reason = REFUSALS[case]
    with pytest.raises(Unprotectable) as refusal:
        read_file(make())
    assert refusal.value.reason == reason


def test_video_is_refused() -> None:
    with pytest.raises(Unprotectable) as refusal:
        read_source(b"", "1.2.840.10008.1.2.4.102", reading=Reading(max_frames=1))
    assert refusal.value.reason == "unsupported-pixels"


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KR.dcm", "SC_rgb_rle.dcm"])
def test_any_cut_is_answered(name: str) -> None:
    """Wherever a file ends, the answer is a reason or whole frames."""
    data = file_of(name)
    whole = read_file(data).frame(0).stored
    refused = 0
    for end in range(0, len(data), len(data) // 40):
        try:
            assert np.array_equal(read_file(data[:end]).frame(0).stored, whole)
        except Unprotectable:
            refused += 1
    assert refused >= 36  # only trailing padding and delimiters can be missed


def lying(dataset: Dataset, syntax: str, stream: bytes, frames: int) -> bytes:
    dataset.NumberOfFrames = frames
    dataset.PixelData = encapsulate([stream] * frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    del syntax
    return encoded(dataset)


def big_claim(rows: int, columns: int) -> Dataset:
    dataset = grey_dataset(ramp(12), bits_stored=12)
    dataset.Rows, dataset.Columns = rows, columns
    return dataset


LIES = {
    "native frames": (EXPLICIT, 200, 1000, b"\0" * 4000),
    "rle": (RLE, 1, 12_000, b"\1" + b"\0" * 3 + b"\x40" + b"\0" * 59 + b"\0" * 90),
    "j2k": (J2K, 1, 12_000, b"\xff\x4f\xff\x51" + b"\0" * 40),
    "jpeg": (
        JPEG,
        1,
        12_000,
        b"\xff\xd8\xff\xc0\0\x11\x08\0\x20\0\x20\3" + b"\0" * 40,
    ),
    "absurd": (J2K, 200, 60_000, b"\xff\x4f\xff\x51" + b"\0" * 40),
}


@pytest.mark.parametrize("case", LIES)
def test_lies_about_size_allocate_nothing(case: str) -> None:
    syntax, frames, side, stream = LIES[case]
    dataset = big_claim(side, side)
    if syntax == EXPLICIT:
        dataset.NumberOfFrames = frames
        dataset.PixelData = stream
        data = encoded(dataset)
    else:
        data = lying(dataset, syntax, stream, frames)
    tracemalloc.start()
    try:
        with pytest.raises(Unprotectable):
            read_source(data, syntax, reading=READING)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_deflated_bomb_is_refused() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(1 << 27)) + packer.flush()
    with pytest.raises(Unprotectable) as refusal:
        inflate(bomb)
    assert refusal.value.reason == "unreadable"


def test_frame_count_must_match_the_fragments() -> None:
    data = edited("MR_small_RLE.dcm", NumberOfFrames=3)
    with pytest.raises(Unprotectable) as refusal:
        read_file(data)
    assert refusal.value.reason == "short-pixel-data"


def test_stream_size_is_compared_with_the_attributes() -> None:
    with pytest.raises(Unprotectable) as refusal:
        read_file(edited("693_J2KR.dcm", Rows=600))
    assert refusal.value.reason == "undecodable"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", None),
        (b"\xff\xd8", None),
        (b"\xff\xd8\xff\xda\0\2" + b"\0" * 20, None),
        (b"\xff\xd8\xff\xfe\0\4ab\xff\xc2\0\x0b\x08\0\7\0\5\1\1\1\1", (7, 5, 1)),
        (b"\xff\xd8\xff\xff\xf7\0\x0b\x08\0\7\0\5\1\1\1\1", (7, 5, 1)),
    ],
)
def test_frame_size(stream: bytes, expected: tuple[int, int, int] | None) -> None:
    assert frame_size(stream) == expected


def test_messages_name_no_patient_attribute() -> None:
    with pytest.raises(Unprotectable) as refusal:
        read_file(edited("MR_small.dcm", PatientName="Secret^Name", Rows=1))
    assert "Secret" not in str(refusal.value)


def test_decoders_that_panic_are_answered() -> None:
    """Found by flipping octets: the RLE decoder's panic is no Exception."""
    data = bytearray(file_of("MR_small_RLE.dcm"))
    rng = np.random.default_rng(7)
    start = data.index(b"\xe0\x7f\x10\x00") + 84  # past the RLE header
    outcomes = set()
    for _ in range(20):
        altered = bytearray(data)
        for at in rng.integers(start, len(data) - 8, 8):
            altered[at] = int(rng.integers(0, 256))
        try:
            read_file(bytes(altered))
            outcomes.add("read")
        except Unprotectable as refusal:
            outcomes.add(refusal.reason)
    assert "undecodable" in outcomes
    assert outcomes <= {"read", "undecodable"}
