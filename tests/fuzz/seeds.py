"""Valid inputs: small, made here, without patients; as peers and clients send them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any, Final

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset

from gateway.store.part10 import FileMeta, encode_head
from tests.gateway.raw_peer import command as command_set
from tests.gateway.raw_peer import (
    context,
    echo,
    item,
    pdu,
    request,
    user_items,
    value,
)

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"
BASELINE: Final = "1.2.840.10008.1.2.4.50"
EXTENDED: Final = "1.2.840.10008.1.2.4.51"
LOSSLESS: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
J2K_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
J2K: Final = "1.2.840.10008.1.2.4.91"
RLE: Final = "1.2.840.10008.1.2.5"
HTJ2K: Final = "1.2.840.10008.1.2.4.201"

SYNTAXES: Final = (
    EXPLICIT,
    IMPLICIT,
    BIG_ENDIAN,
    DEFLATED,
    BASELINE,
    EXTENDED,
    LOSSLESS,
    JPEG_LS,
    J2K_LOSSLESS,
    J2K,
    RLE,
    HTJ2K,
    DEFLATED_FRAMES,
)
"""The first octet of an input, modulo their number, chooses one."""

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
SIDE: Final = 40


def encoding_of(data: bytes) -> tuple[bool, bool]:
    """Whether an input is explicit VR, and little endian."""
    syntax = syntax_of(data)
    return syntax != IMPLICIT, syntax != BIG_ENDIAN


def syntax_of(data: bytes) -> str:
    """Return the transfer syntax that an input chooses."""
    return SYNTAXES[(data[0] if data else 0) % len(SYNTAXES)]


def chosen(syntax: str, data: bytes) -> bytes:
    """Put the octet that chooses a transfer syntax before a data set."""
    return bytes([SYNTAXES.index(syntax)]) + data


def octets_of(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    """Encode a data set in a native syntax."""
    stream = BytesIO()
    target = DicomFileLike(stream)
    target.is_implicit_VR = syntax == IMPLICIT
    target.is_little_endian = syntax != BIG_ENDIAN
    write_dataset(target, dataset)
    return stream.getvalue()


def image(values: Any, *, bits_stored: int) -> Dataset:
    """A minimal valid image; ``values`` is (frames, rows, columns[, 3])."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    dataset.Modality = "OT"
    count, dataset.Rows, dataset.Columns = values.shape[:3]
    if count > 1:
        dataset.NumberOfFrames = count
    dataset.SamplesPerPixel = values.shape[3] if values.ndim == 4 else 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if values.ndim == 4:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated = 8 if bits_stored <= 8 else 16
    dataset.BitsStored, dataset.HighBit = bits_stored, bits_stored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = values.astype(f"<u{dataset.BitsAllocated // 8}").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def described(dataset: Dataset) -> Dataset:
    """Add what real objects carry: names, sequences, private elements, overlays."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientID, dataset.PatientName = "FUZZ", "Nobody^Fuzz"
    dataset.StudyDate, dataset.StudyTime = "20260102", "030405"
    dataset.AccessionNumber, dataset.StudyID = "A1", "1"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 2
    dataset.WindowCenter, dataset.WindowWidth = ["40", "300"], ["400", "1500"]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.4"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PixelSpacing = ["0.5", "0.5"]
    referenced = Dataset()
    referenced.ReferencedSOPClassUID = CT
    referenced.ReferencedSOPInstanceUID = "1.2.826.0.1.3680043.8.498.5"
    inner = Dataset()
    inner.ReferencedImageSequence = [referenced]
    inner.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    dataset.ReferencedSeriesSequence = [inner]
    block = dataset.private_block(0x0011, "FUZZ", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "UN", b"\1\2\3\4")
    rows, columns = getattr(dataset, "Rows", 0), getattr(dataset, "Columns", 0)
    if rows:
        dataset.add_new(0x60000010, "US", rows)
        dataset.add_new(0x60000011, "US", columns)
        dataset.add_new(0x60000040, "CS", "G")
        dataset.add_new(0x60000050, "SS", [1, 1])
        dataset.add_new(0x60000100, "US", 1)
        dataset.add_new(0x60000102, "US", 0)
        dataset.add_new(0x60003000, "OW", bytes(rows * columns // 8))
    return dataset


def picture(frames: int = 1, bits: int = 12) -> Dataset:
    """A grey image with gradients, of a few hundred octets."""
    step = np.arange(frames * SIDE * SIDE, dtype=np.int32) * 7
    values = (step % (1 << bits)).reshape(frames, SIDE, SIDE)
    return described(image(values, bits_stored=bits))


def colours() -> Dataset:
    """An RGB image."""
    step = np.arange(SIDE * SIDE * 3, dtype=np.int64) * 5 % 256
    return described(image(step.reshape(1, SIDE, SIDE, 3), bits_stored=8))


def palette() -> Dataset:
    """A palette image."""
    dataset = picture(bits=8)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        dataset.add_new(f"{name}Descriptor", "US", [256, 0, 16])
        table = (np.arange(256) * 257).astype("<u2").tobytes()
        dataset.add_new(f"{name}Data", "OW", table)
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        delattr(dataset, keyword)
    return dataset


def bitmap() -> Dataset:
    """A bitmap."""
    dataset = picture(bits=8)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PixelData = bytes(range(200))
    return dataset


def functional_groups() -> Dataset:
    """A multi-frame image with functional groups."""
    dataset = picture(frames=3)
    frames = []
    for number in range(3):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = "40", str(400 + number)
        group.FrameVOILUTSequence = [window]
        frames.append(group)
    dataset.PerFrameFunctionalGroupsSequence = frames
    values, shared = Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = "1", "0"
    values.RescaleType = "US"
    shared.PixelValueTransformationSequence = [values]
    dataset.SharedFunctionalGroupsSequence = [shared]
    return dataset


def look_up() -> Dataset:
    """An image with a VOI LUT."""
    dataset = picture(bits=8)
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 8])
    lut.add_new("LUTData", "OW", bytes(range(256)))
    dataset.VOILUTSequence = [lut]
    return dataset


@cache
def native() -> Sequence[bytes]:
    """Uncompressed images, in four transfer syntaxes."""
    import zlib

    made = [picture(), picture(2), colours(), palette(), bitmap(), look_up()]
    found = [chosen(EXPLICIT, octets_of(each)) for each in made]
    found.append(chosen(EXPLICIT, octets_of(functional_groups())))
    found.append(chosen(IMPLICIT, octets_of(picture(), IMPLICIT)))
    big = picture()
    big.PixelData = np.frombuffer(big.PixelData, "<u2").astype(">u2").tobytes()
    found.append(chosen(BIG_ENDIAN, octets_of(big, BIG_ENDIAN)))
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(octets_of(picture())) + packer.flush()
    found.append(chosen(DEFLATED, deflated + b"\0" * (len(deflated) % 2)))
    return found


@cache
def objects() -> Sequence[bytes]:
    """Objects without pixels as well: what the parsers of attributes meet."""
    plain = described(picture())
    del plain.PixelData
    return [*native(), chosen(EXPLICIT, octets_of(plain)), *map(_selected, (IMPLICIT,))]


def _selected(syntax: str) -> bytes:
    dataset = described(Dataset())
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.1"
    return chosen(syntax, octets_of(dataset, syntax))


def compressed(syntax: str, frames: Sequence[bytes], dataset: Dataset) -> bytes:
    """Encode an image with the streams of its frames in place of its pixels."""
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    return chosen(syntax, octets_of(dataset))


def _values(bits: int, colour: bool = False) -> Any:
    shape = (SIDE, SIDE, 3) if colour else (SIDE, SIDE)
    count = int(np.prod(shape))
    kind = np.uint16 if bits > 8 else np.uint8
    return (np.arange(count) * 7 % (1 << bits)).astype(kind).reshape(shape)


@cache
def jpeg() -> Sequence[bytes]:
    """JPEG baseline, extended (12 bits) and lossless."""
    import io

    from PIL import Image

    found = []
    for values, dataset in (
        (_values(8), picture(bits=8)),
        (_values(8, True), colours()),
    ):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "JPEG", quality=80)
        if dataset.SamplesPerPixel == 3:
            dataset.PhotometricInterpretation = "YBR_FULL_422"
        found.append(compressed(BASELINE, [stream.getvalue()], dataset))
    for name, syntax in (
        ("JPGExtended.dcm", EXTENDED),
        ("SC_rgb_jpeg_gdcm.dcm", LOSSLESS),
    ):
        stream_of, sides, bits, samples = _stream_of(name)
        dataset = picture(bits=bits) if samples == 1 else colours()
        dataset.Rows, dataset.Columns = sides
        found.append(compressed(syntax, [stream_of], dataset))
    return found


def _stream_of(name: str) -> tuple[bytes, tuple[int, int], int, int]:
    """The codestream of a file of pydicom: it names nobody."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file
    from pydicom.encaps import get_frame

    found = dcmread(str(get_testdata_file(name, download=False)))
    stream = get_frame(found.PixelData, 0, number_of_frames=1)
    sides = (int(found.Rows), int(found.Columns))
    return stream, sides, int(found.BitsStored), int(found.SamplesPerPixel)


@cache
def jpeg_ls() -> Sequence[bytes]:
    """JPEG-LS lossless."""
    import jpeg_ls as codec

    grey = [bytes(codec.encode_array(_values(bits))) for bits in (8, 12)]
    found = [
        compressed(JPEG_LS, [stream], picture(bits=bits))
        for stream, bits in zip(grey, (8, 12), strict=True)
    ]
    return [*found, compressed(JPEG_LS, [grey[1]] * 2, picture(bits=12))]


@cache
def jpeg_2000() -> Sequence[bytes]:
    """JPEG 2000 lossless and lossy, and high throughput."""
    from openjpeg.utils import encode_array

    streams = [encode_array(_values(bits), bits_stored=bits) for bits in (8, 12)]
    found = [
        compressed(syntax, [stream], picture(bits=bits))
        for stream, bits in zip(streams, (8, 12), strict=True)
        for syntax in (J2K_LOSSLESS, J2K)
    ]
    rgb = encode_array(_values(8, True), photometric_interpretation=1, use_mct=False)
    found.append(compressed(J2K_LOSSLESS, [rgb], colours()))
    found.append(compressed(HTJ2K, [streams[1]], picture(bits=12)))
    return found


@cache
def rle() -> Sequence[bytes]:
    """RLE, and deflated frames."""
    import zlib

    from rle.utils import encode_array

    found = []
    for values, dataset in (
        (_values(8), picture(bits=8)),
        (_values(12), picture()),
        (_values(8, True), colours()),
    ):
        keywords = {
            "rows": SIDE,
            "columns": SIDE,
            "samples_per_pixel": dataset.SamplesPerPixel,
            "bits_allocated": dataset.BitsAllocated,
            "number_of_frames": 1,
        }
        frame = next(encode_array(values, **keywords))
        found.append(compressed(RLE, [frame], dataset))
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = packer.compress(_values(12).tobytes()) + packer.flush()
    found.append(compressed(DEFLATED_FRAMES, [stream], picture()))
    return found


@cache
def followers() -> Sequence[bytes]:
    """Objects that follow images: presentation state, report, segmentation, key."""
    found = []
    for sop_class in (
        "1.2.840.10008.5.1.4.1.1.11.1",  # grayscale softcopy presentation state
        "1.2.840.10008.5.1.4.1.1.88.11",  # basic text SR
        "1.2.840.10008.5.1.4.1.1.88.59",  # key object selection
        "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
        "1.2.840.10008.5.1.4.1.1.481.3",  # RT structure set
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT dose
    ):
        dataset = picture(bits=8)
        dataset.SOPClassUID = sop_class
        if "66.4" not in sop_class and "481.2" not in sop_class:
            del dataset.PixelData
        child, concept = Dataset(), Dataset()
        concept.CodeValue, concept.CodingSchemeDesignator = "121071", "DCM"
        concept.CodeMeaning = "Finding"
        child.RelationshipType, child.ValueType = "CONTAINS", "TEXT"
        child.ConceptNameCodeSequence = [concept]
        child.TextValue = "none"
        dataset.ValueType = "CONTAINER"
        dataset.ContentSequence = [child]
        found.append(chosen(EXPLICIT, octets_of(dataset)))
        if "PixelData" not in dataset:
            found.append(chosen(IMPLICIT, octets_of(dataset, IMPLICIT)))
    return found


def part10(data: bytes) -> bytes:
    """The Part 10 file of an input that chooses its syntax."""
    head = encode_head(
        FileMeta(
            sop_class_uid=CT,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=syntax_of(data),
        )
    )
    return head + data[1:]


def store_of(data: bytes, uid: str = "1.2.3", number: int = 3) -> list[bytes]:
    """PDUs of a C-STORE request."""
    asked = command_set(
        0x0001,
        data_set=True,
        e0002=CT.encode() + b"\0" * (len(CT) % 2),
        e0700=b"\0\0",
        e1000=uid.encode() + b"\0" * (len(uid) % 2),
    )
    half = len(data) // 2
    fragments = value(number, 0, data[:half]) + value(number, 2, data[half:])
    return [pdu(4, value(number, 3, asked)), pdu(4, fragments)]


def find_of(identifier: bytes, field: int = 0x0020, number: int = 5) -> list[bytes]:
    """PDUs of a C-FIND, C-GET or C-MOVE request."""
    model = b"1.2.840.10008.5.1.4.1.2.2." + {0x20: b"1", 0x21: b"2", 0x10: b"3"}[field]
    more = {"e0600": b"SOMEWHERE "} if field == 0x21 else {}
    asked = command_set(
        field,
        data_set=True,
        e0002=model + b"\0" * (len(model) % 2),
        e0700=b"\0\0",
        **more,
    )
    return [pdu(4, value(number, 3, asked)), pdu(4, value(number, 2, identifier))]


def query(level: str, **keys: str) -> Dataset:
    """An identifier."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, text in keys.items():
        setattr(dataset, keyword, text)
    return dataset


@cache
def queries() -> Sequence[bytes]:
    """Identifiers of queries and retrievals, in two syntaxes."""
    everything = query(
        "STUDY",
        PatientName="N*",
        StudyDate="20200101-20301231",
        ModalitiesInStudy="CT\\MR",
        StudyInstanceUID="",
        AccessionNumber="A?",
        PatientID="",
        StudyTime="-1200",
    )
    image = query(
        "IMAGE",
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.3.1",
        SOPInstanceUID="",
    )
    item_key = Dataset()
    item_key.CodeValue = "T*"
    everything.AnatomicRegionSequence = [item_key]
    made = [
        everything,
        image,
        query("SERIES", StudyInstanceUID="1.2\\1.3", Modality=""),
    ]
    return [
        chosen(syntax, octets_of(each, syntax))
        for each in made
        for syntax in (EXPLICIT, IMPLICIT)
    ]


CONTEXTS: Final = (
    context(1)
    + context(3, CT.encode(), [EXPLICIT.encode(), IMPLICIT.encode()])
    + context(5, b"1.2.840.10008.5.1.4.1.2.2.1")
    + context(7, b"1.2.840.10008.5.1.4.1.2.2.2")
    + context(9, b"1.2.840.10008.5.1.4.1.2.2.3")
)


def _identity(kind: int = 1) -> bytes:
    name = b"reader"
    fields = struct.pack(">BBH", kind, 1, len(name)) + name + struct.pack(">H", 0)
    return item(0x58, fields)


def _role() -> bytes:
    uid = CT.encode()
    return item(0x54, struct.pack(">H", len(uid)) + uid + b"\1\1")


def _extended() -> bytes:
    uid = b"1.2.840.10008.5.1.4.1.2.2.1"
    return item(0x56, struct.pack(">H", len(uid)) + uid + b"\1\0")


@cache
def requests() -> Sequence[bytes]:
    """Association requests."""
    window = item(0x53, struct.pack(">HH", 4, 4))
    name = item(0x55, b"FUZZ")
    return [
        request(),
        request(contexts=CONTEXTS),
        request(
            contexts=CONTEXTS,
            users=user_items(window, name, _role(), _extended(), _identity()),
        ),
        request(users=user_items(_identity(2), _identity(3))),
    ]


@cache
def associations() -> Sequence[bytes]:
    """All that a peer sends in one association."""
    plain = octets_of(_small())
    identifier = octets_of(
        query("STUDY", StudyInstanceUID="", PatientName="N*"), IMPLICIT
    )
    retrieval = octets_of(query("STUDY", StudyInstanceUID="1.2.3"), IMPLICIT)
    rich = request(
        contexts=CONTEXTS, users=user_items(_role(), _extended(), item(0x55, b"FUZZ"))
    )
    leave, stop = pdu(5, bytes(4)), pdu(7, bytes(4))
    return [
        request() + echo() + leave,
        b"".join([rich, echo(), *store_of(plain), leave]),
        b"".join([rich, *store_of(plain), *store_of(plain, "1.2.4"), leave]),
        b"".join([rich, *find_of(identifier), leave]),
        b"".join(
            [rich, *find_of(retrieval, 0x21, 7), *find_of(retrieval, 0x10, 9), stop]
        ),
    ]


@cache
def messages() -> Sequence[bytes]:
    """P-DATA of an association that was accepted."""
    plain = octets_of(_small())
    identifier = octets_of(
        query("STUDY", StudyInstanceUID="", PatientName="N*"), IMPLICIT
    )
    cancel = command_set(0x0FFF, e0120=b"\1\0")
    return [
        echo(),
        b"".join(store_of(plain)),
        b"".join([echo(), *store_of(plain), echo()]),
        b"".join([*find_of(identifier), pdu(4, value(5, 3, cancel))]),
        b"".join(find_of(identifier, 0x21, 7)),
        b"".join(find_of(identifier, 0x10, 9)),
    ]


def _small() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.1"
    dataset.PatientID, dataset.Modality = "FUZZ", "CT"
    return dataset
