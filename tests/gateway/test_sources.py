"""Every kind of pixel, window and transfer syntax that a source may have."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from io import BytesIO
from itertools import islice

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian

from gateway.dicom.decode import FrameDecoder
from gateway.dicom.parse import DEFLATED_FRAMES, parse_object
from gateway.dicom.pixels import Reading, Source, read_source, read_stored_values
from gateway.errors import Unprotectable
from gateway.vault.shell import fill_shell, take_shell
from tests.gateway.object_cases import (
    EXPLICIT,
    colour_dataset,
    encoded,
    grey_dataset,
    look_up_table,
)

READING = Reading(max_frames=2000)
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
HTJ2K = [f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)]


def read(
    dataset: Dataset, syntax: str = EXPLICIT, reading: Reading = READING
) -> Source:
    return read_source(encoded(dataset), syntax, reading=reading)


def compressed(dataset: Dataset, streams: list[bytes]) -> Dataset:
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def ramp(bits: int, frames: int = 1, *, signed: bool = False) -> NDArray[np.int64]:
    values = np.arange(frames * 48 * 40).reshape(frames, 48, 40) * 3 % (1 << bits)
    return values - (1 << (bits - 1)) * signed


def picture(frames: int = 1) -> NDArray[np.uint8]:
    values = np.arange(frames * 48 * 40 * 3) * 7 % 256
    return values.reshape(frames, 48, 40, 3).astype(np.uint8)


def stored(source: Source) -> NDArray[np.int32]:
    return np.stack([frame.stored for frame in source.frames()])


# Bits


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "high"), [(12, 15), (12, 13), (10, 15), (7, 7 + 8)])
def test_left_aligned_samples_are_shifted_and_come_back(
    bits: int, high: int, signed: bool
) -> None:
    values = ramp(bits, signed=signed)
    dataset = grey_dataset(values, bits_stored=bits, signed=signed)
    dataset.BitsAllocated, dataset.HighBit = 16, high
    below = np.arange(values.size).reshape(values.shape) % (1 << (high + 1 - bits))
    placed = (values << (high + 1 - bits)) + below
    dataset.PixelData = (placed & 0xFFFF).astype("<u2").tobytes()
    source = read(dataset)
    assert np.array_equal(stored(source), values)
    assert (source.minimum, source.maximum) == (
        -(1 << (bits - 1)) * signed,
        (1 << (bits - signed)) - 1,
    )
    received = encoded(dataset)
    assert source.native is not None
    bounds = (source.native.start, source.native.end)
    frames = list(stored(source))
    shell = take_shell(received, bounds, source.native.layout, frames)
    assert fill_shell(shell, frames) == received


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("allocated", [8, 16])
def test_fewer_than_8_bits(bits: int, allocated: int) -> None:
    values = ramp(bits)
    dataset = grey_dataset(values, bits_stored=bits)
    dataset.BitsAllocated = allocated
    dataset.PixelData = values.astype(f"<u{allocated // 8}").tobytes()
    source = read(dataset)
    assert np.array_equal(stored(source), values)
    assert source.maximum == (1 << bits) - 1
    assert source.renderings[0][0].hi == source.maximum


def bitmap(bits: NDArray[np.bool_]) -> Dataset:
    dataset = grey_dataset(bits.astype(int), bits_stored=8)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    return dataset


def test_bitmaps_are_held_or_converted() -> None:
    bits = (np.arange(3 * 41 * 37) % 5 < 2).reshape(3, 41, 37)  # frames end in octets
    dataset = bitmap(bits)
    dataset.WindowCenter, dataset.WindowWidth = "0.5", "2"
    with pytest.raises(Unprotectable, match="one_bit") as held:
        read(dataset)
    assert held.value.reason == "unsupported-pixels"
    source = read(dataset, reading=Reading(max_frames=9, one_bit="convert"))
    assert np.array_equal(stored(source), bits * 255)
    assert (source.bits_stored, source.maximum, source.native) == (8, 255, None)
    assert (source.renderings[0][0].lo, source.renderings[0][0].hi) == (0, 255)


def test_bitmap_that_is_too_short() -> None:
    dataset = bitmap(np.ones((3, 41, 37), np.bool_))
    dataset.PixelData = dataset.PixelData[:-2]
    with pytest.raises(Unprotectable) as held:
        read(dataset, reading=Reading(max_frames=9, one_bit="convert"))
    assert held.value.reason == "short-pixel-data"


# Colour


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_by_pixel_and_by_plane(planar: int) -> None:
    values = picture(2)
    dataset = colour_dataset(values)
    dataset.PlanarConfiguration = planar
    if planar:
        dataset.PixelData = values.transpose(0, 3, 1, 2).tobytes()
    source = read(dataset)
    assert source.colour
    assert np.array_equal(stored(source), values)


def test_ybr_full_422_of_an_uncompressed_object() -> None:
    """Two pixels share their colour: Y1 Y2 CB CR (PS3.3 C.7.6.3.1.2)."""
    dataset = colour_dataset(picture())
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    pair = np.array([[60, 200, 128, 128]], np.uint8)
    dataset.PixelData = np.repeat(pair, 48 * 20, axis=0).tobytes()
    frame = read(dataset).frame(0).stored
    assert (frame[:, 0::2] == 60).all()
    assert (frame[:, 1::2] == 200).all()
    dataset.PixelData = dataset.PixelData[:-4]
    with pytest.raises(Unprotectable) as held:
        read(dataset)
    assert held.value.reason == "short-pixel-data"


def palette_dataset(bits: int) -> Dataset:
    dataset = grey_dataset(ramp(8), bits_stored=8)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
    return dataset


def test_16_bit_palette_becomes_8_bits() -> None:
    dataset = palette_dataset(16)
    ramps = {"Red": np.arange(256) << 8, "Green": np.full(256, 0x8080), "Blue": 65535}
    for name, values in ramps.items():
        table = np.broadcast_to(values, 256).astype("<u2").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", table)
    source = read(dataset)
    frame = source.frame(0).stored
    assert source.bits_stored == 8
    assert np.array_equal(frame[..., 0], ramp(8)[0])
    assert (frame[..., 1] == 0x80).all()
    assert (frame[..., 2] == 0xFF).all()


def test_segmented_palette() -> None:
    dataset = palette_dataset(16)
    # discrete: one entry 0; linear: 255 more up to 0xFF00 (PS3.3 C.7.9.2)
    segments = np.array([0, 1, 0, 1, 255, 0xFF00], "<u2").tobytes()
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"Segmented{name}PaletteColorLookupTableData", segments)
    frame = read(dataset).frame(0).stored
    assert np.abs(frame[..., 0] - ramp(8)[0]).max() <= 1


def test_palette_without_a_table_is_held() -> None:
    with pytest.raises(Unprotectable) as held:
        read(palette_dataset(16))
    assert held.value.reason == "undecodable"


# Windows


def with_attributes(**attributes: object) -> Dataset:
    signed = bool(attributes.pop("signed", False))
    dataset = grey_dataset(ramp(12, signed=signed), bits_stored=12, signed=signed)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def bounds(source: Source) -> list[tuple[float, float]]:
    return [(window.lo, window.hi) for window in source.renderings[0]]


def test_own_windows_come_first_and_presets_follow() -> None:
    dataset = with_attributes(
        WindowCenter=["100", "700", "900"],
        WindowWidth=["51", "11", "21"],
        RescaleSlope="2",
        RescaleIntercept="-100",
    )
    reading = Reading(max_frames=1, windows=((40, 81), (100, 51)), max_own_windows=2)
    source = read(dataset, reading=reading)
    # The preset that is the first own window is judged once.
    assert bounds(source) == [(87.25, 112.25), (397.25, 402.25), (49.75, 89.75)]
    assert len(source.windows[0]) == 3
    assert source.frame(0).renderings == source.renderings[0]


def test_made_window_has_presets_too() -> None:
    source = read(with_attributes(), reading=Reading(max_frames=1, windows=((9, 5),)))
    assert not source.own_window
    assert bounds(source)[1] == (6.5, 10.5)


def test_colour_has_no_presets() -> None:
    dataset = colour_dataset(picture())
    source = read(dataset, reading=Reading(max_frames=1, windows=((9, 5),)))
    assert bounds(source) == [(0, 255)]


def test_sigmoid_is_its_tangent() -> None:
    dataset = with_attributes(
        WindowCenter="100", WindowWidth="50", VOILUTFunction="SIGMOID"
    )
    source = read(dataset)
    assert source.own_window
    assert bounds(source) == [(75, 125)]


def sequence(first: int, values: NDArray[np.integer]) -> Sequence:
    return Sequence([look_up_table(first, values)])


RISING = np.arange(4096) * 2
FLAT_ENDS = np.clip(np.arange(1000) - 200, 0, 500)


def test_window_goes_through_the_inverse_of_a_modality_lut() -> None:
    dataset = with_attributes(
        WindowCenter="1000.5",
        WindowWidth="401",
        ModalityLUTSequence=sequence(0, RISING),
    )
    source = read(dataset, reading=Reading(max_frames=1, windows=((4000.5, 2001),)))
    assert source.own_window
    assert bounds(source) == [(400, 600), (1500, 2500)]


def test_falling_modality_lut_turns_the_polarity() -> None:
    dataset = with_attributes(
        WindowCenter="1000.5",
        WindowWidth="401",
        ModalityLUTSequence=sequence(0, RISING[::-1]),
    )
    source = read(dataset)
    assert bounds(source) == [(4095 - 600, 4095 - 400)]
    assert source.renderings[0][0].inverted


def test_modality_lut_of_negative_inputs() -> None:
    dataset = with_attributes(
        signed=True,
        WindowCenter="1000.5",
        WindowWidth="401",
        ModalityLUTSequence=sequence(-2048, RISING),
    )
    assert bounds(read(dataset)) == [(400 - 2048, 600 - 2048)]


@pytest.mark.parametrize(
    "values", [np.abs(np.arange(4096) - 2048), np.full(4096, 7)], ids=["bent", "flat"]
)
def test_no_window_goes_through_a_lut_without_an_inverse(
    values: NDArray[np.integer],
) -> None:
    dataset = with_attributes(
        WindowCenter="9", WindowWidth="5", ModalityLUTSequence=sequence(0, values)
    )
    source = read(dataset, reading=Reading(max_frames=1, windows=((40, 80),)))
    assert not source.own_window
    assert len(source.renderings[0]) == 1


def test_logarithmic_angiography_is_shown_without_its_modality_lut() -> None:
    dataset = with_attributes(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1",
        PixelIntensityRelationship="LOG",
        WindowCenter="100",
        WindowWidth="51",
        ModalityLUTSequence=sequence(0, RISING),
    )
    assert bounds(read(dataset)) == [(74.5, 124.5)]


def test_voi_lut_is_the_window_where_it_is_not_flat() -> None:
    dataset = with_attributes(VOILUTSequence=sequence(100, FLAT_ENDS))
    source = read(dataset)
    assert source.own_window
    assert bounds(source) == [(300, 800)]
    assert not source.renderings[0][0].inverted


def test_voi_lut_behind_a_rescale() -> None:
    dataset = with_attributes(
        RescaleSlope="2",
        RescaleIntercept="-1000",
        VOILUTSequence=sequence(-900, FLAT_ENDS),
    )
    assert bounds(read(dataset)) == [(150, 400)]


def test_falling_voi_lut_turns_the_polarity() -> None:
    source = read(with_attributes(VOILUTSequence=sequence(100, FLAT_ENDS[::-1])))
    assert source.renderings[0][0].inverted


def test_linear_window_goes_before_a_voi_lut() -> None:
    dataset = with_attributes(
        WindowCenter="100",
        WindowWidth="51",
        VOILUTSequence=sequence(100, FLAT_ENDS),
    )
    assert bounds(read(dataset)) == [(74.5, 124.5)]


def test_padding_range_read_without_its_sign() -> None:
    """An implicit encoding leaves open whether 63488 is -2048."""
    values = ramp(9, signed=True)
    values[0, :20] = -2048
    values[0, 20:24] = -2000
    dataset = grey_dataset(values, bits_stored=12, signed=True)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2048)
    dataset.add_new("PixelPaddingRangeLimit", "US", 65536 - 2000)
    assert read(dataset).renderings[0][0].lo >= -256


# Transfer syntaxes


@pytest.mark.parametrize("syntax", HTJ2K)
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_htj2k(syntax: str, kind: str) -> None:
    grey = kind == "grey"
    values = ramp(12, 2).astype(np.uint16) if grey else picture(2)
    streams = [imagecodecs.htj2k_encode(frame, reversible=True) for frame in values]
    dataset = grey_dataset(values, bits_stored=16) if grey else colour_dataset(values)
    if not grey:
        dataset.PhotometricInterpretation = "YBR_RCT"
    source = read(compressed(dataset, streams), syntax)
    assert np.array_equal(stored(source), values)


def deflated(values: NDArray[np.generic]) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(values.tobytes()) + packer.flush()


def test_deflated_image_frames() -> None:
    values = ramp(12, 3).astype("<u2")
    dataset = compressed(
        grey_dataset(values, bits_stored=12), [deflated(frame) for frame in values]
    )
    source = read(dataset, DEFLATED_FRAMES)
    assert np.array_equal(stored(source), values)
    assert source.native is None
    short = compressed(dataset, [deflated(frame[:-1]) for frame in values])
    with pytest.raises(Unprotectable) as held:
        read(short, DEFLATED_FRAMES)
    assert held.value.reason == "short-pixel-data"


@pytest.mark.parametrize("number", [110, 111, 112])
def test_jpeg_xl_is_held_with_its_name(number: int) -> None:
    with pytest.raises(Unprotectable, match="JPEG XL") as held:
        read(grey_dataset(ramp(8), bits_stored=8), f"1.2.840.10008.1.2.4.{number}")
    assert held.value.reason == "unsupported-pixels"


def test_big_endian_bitmap_is_held() -> None:
    stream = BytesIO()
    dataset = bitmap(np.ones((1, 40, 40), np.bool_))
    dataset.save_as(stream, implicit_vr=False, little_endian=False)
    with pytest.raises(Unprotectable) as held:
        read_source(
            stream.getvalue(),
            ExplicitVRBigEndian,
            reading=Reading(max_frames=1, one_bit="convert"),
        )
    assert held.value.reason == "unsupported-pixels"


# Frames on demand


def rle(frame: NDArray[np.uint8]) -> bytes:
    return RLELosslessEncoder.encode(
        frame.tobytes(),
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
    )


def cine(frames: int) -> tuple[Dataset, list[bytes], NDArray[np.int64]]:
    values = ramp(8, frames)
    dataset = grey_dataset(values, bits_stored=8)
    return dataset, [rle(frame.astype(np.uint8)) for frame in values], values


@pytest.mark.parametrize("table", ["basic", "extended", "none", "wrong"])
def test_frames_are_found_with_and_without_an_offset_table(table: str) -> None:
    dataset, streams, values = cine(4)
    compressed(dataset, streams)
    if table == "extended":
        found = encapsulate_extended(streams)
        dataset.PixelData, dataset.ExtendedOffsetTable = found[:2]
        dataset.ExtendedOffsetTableLengths = found[2]
    elif table == "none":
        dataset.PixelData = encapsulate(streams, has_bot=False)
    elif table == "wrong":
        octets = bytearray(encapsulate(streams))
        octets[12:16] = b"\xff\0\0\0"
        dataset.PixelData = bytes(octets)
    source = read(dataset, RLE)
    for index in (3, 0, 2, 1):
        assert np.array_equal(source.frame(index).stored, values[index])


@pytest.mark.parametrize("has_bot", [True, False])
def test_frames_in_several_fragments(has_bot: bool) -> None:
    values = picture(3)
    streams = [as_jpeg(frame) for frame in values]
    dataset = compressed(colour_dataset(values), streams)
    dataset.PhotometricInterpretation = "YBR_FULL"
    whole = stored(read(dataset, JPEG))
    dataset.PixelData = encapsulate(streams, fragments_per_frame=3, has_bot=has_bot)
    assert np.array_equal(stored(read(dataset, JPEG)), whole)


def as_jpeg(frame: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def test_any_frame_of_many_is_reached_at_once() -> None:
    """Looking the fragments up anew for each frame takes an hour here."""
    dataset, streams, values = cine(4)
    count = 20_000
    dataset.NumberOfFrames = count
    compressed(dataset, streams * (count // 4))
    started = time.monotonic()
    found = read_stored_values(encoded(dataset), RLE)
    for index in range(count - 1, 0, -1000):
        assert np.array_equal(found.frame(index), values[index % 4])
    assert time.monotonic() - started < 20


def test_nothing_is_decoded_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = read(grey_dataset(ramp(12, 50), bits_stored=12))
    decode = FrameDecoder.decode
    asked: list[int] = []

    def counting(self: FrameDecoder, index: int) -> NDArray[np.int32]:
        asked.append(index)
        return decode(self, index)

    monkeypatch.setattr(FrameDecoder, "decode", counting)
    frames = source.frames()
    assert not asked
    next(frames)
    source.frame(49)
    assert asked == [0, 49]


def big_object(kind: str) -> tuple[bytes, str, int]:
    """A cine or a volume that takes hundreds of MiB decoded; values of a frame."""
    if kind == "cine":
        frame = np.zeros((768, 1024, 3), np.uint8)
        dataset = colour_dataset(frame[None])
        dataset.NumberOfFrames = 100
        del dataset.PixelData
        value = b"\xe0\x7f\x10\0OB\0\0" + (frame.size * 100).to_bytes(4, "little")
        return encoded(dataset) + value + bytes(frame.size * 100), EXPLICIT, frame.size
    frame = np.zeros((512, 512), np.uint16)
    dataset = grey_dataset(frame[None], bits_stored=12)
    dataset.NumberOfFrames = 500
    dataset.PerFrameFunctionalGroupsSequence = [volume_group() for _ in range(500)]
    # Two segments of 2048 runs of 128 zeros each (PS3.5 G.3).
    header = np.array([2, 64, 64 + 4096, *[0] * 13], "<u4").tobytes()
    streams = [header + b"\x81\0" * 4096] * 500
    return encoded(compressed(dataset, streams)), RLE, frame.size


def volume_group() -> Dataset:
    group, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = "1", "-1024"
    group.PixelValueTransformationSequence = [rescale]
    return group


@pytest.mark.parametrize("kind", ["cine", "volume"])
def test_memory_is_that_of_a_few_frames(kind: str) -> None:
    data, syntax, frame_size = big_object(kind)
    tracemalloc.start()
    try:
        source = read_source(data, syntax, reading=READING)
        assert sum(1 for _ in islice(source.frames(), 100)) == 100
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A few int32 frames, a sample of values, and the attributes of each frame.
    assert peak < 8 * 4 * frame_size + (16 << 20)


def test_attributes_are_read_up_to_the_pixels_only() -> None:
    data = encoded(grey_dataset(ramp(12), bits_stored=12))
    parsed = parse_object(data, EXPLICIT)
    assert parsed.body is data
    assert "PixelData" not in parsed.dataset
