"""Large multi-frame objects for `benchmarks.big`, written and read in pieces."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO
from typing import TYPE_CHECKING, Final

import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.pixels import get_encoder
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from gateway.store.part10 import FileMeta, encode_head, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

FORMS: Final = {
    "native": ExplicitVRLittleEndian,
    "jpeg-ls": JPEGLSLossless,
    "rle": RLELossless,
}
SLICE: Final = "693_UNCR.dcm"
SIDE: Final = 512
ITEM: Final = b"\xfe\xff\x00\xe0"
PIXEL_DATA: Final = b"\xe0\x7f\x10\x00OW\0\0"
COMPRESSED: Final = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + ITEM + bytes(4)
END: Final = b"\xfe\xff\xdd\xe0" + bytes(4)
PIECE: Final = 1 << 20


def frames_of(count: int) -> Iterator[NDArray[np.uint16]]:
    """Yield frames, 12 bits of 16, none like another."""
    path = get_testdata_file(SLICE, read=False, download=False)
    real = dcmread(str(path)).pixel_array.astype(np.int32)
    base = np.clip(real + 1024, 0, 3500)
    for number in range(count):
        moved = np.roll(base, (number * 3 % SIDE, number * 7 % SIDE), (0, 1))
        yield (moved + number % 64 + number // 64).astype(np.uint16)


def attributes(uid: str, count: int, side: int = SIDE) -> Dataset:
    """Return attributes of an enhanced CT, with functional groups of each frame."""
    dataset = Dataset()
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.SOPInstanceUID = uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{uid}.1", f"{uid}.2"
    dataset.PatientID, dataset.PatientName = "BIG", "Big^Benchmark"
    dataset.Modality = "CT"
    dataset.NumberOfFrames = count
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.FrameOfReferenceUID = f"{uid}.3"
    dataset.SharedFunctionalGroupsSequence = [_shared()]
    dataset.PerFrameFunctionalGroupsSequence = [_own(number) for number in range(count)]
    return dataset


def _shared() -> Dataset:
    measures, orientation, voi = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ["0.7", "0.7"], "1"
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    voi.WindowCenter, voi.WindowWidth = "1064", "400"
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.FrameVOILUTSequence = [voi]
    return shared


def _own(number: int) -> Dataset:
    position, content = Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, number]
    content.FrameAcquisitionNumber = 1
    content.DimensionIndexValues = [1, number + 1]
    own = Dataset()
    own.PlanePositionSequence = [position]
    own.FrameContentSequence = [content]
    return own


def write_object(path: Path, form: str, count: int) -> tuple[str, int]:
    """Write an object as a Part 10 file; return its UID and size."""
    syntax = FORMS[form]
    uid = generate_uid(entropy_srcs=[form, str(count)])[:54]
    meta = FileMeta(
        sop_class_uid=EnhancedCTImageStorage,
        sop_instance_uid=uid,
        transfer_syntax_uid=syntax,
    )
    with path.open("wb") as file:
        file.write(encode_head(meta))
        file.write(_encoded(attributes(uid, count)))
        if form == "native":
            length = count * SIDE * SIDE * 2
            file.write(PIXEL_DATA + struct.pack("<L", length))
        else:
            file.write(COMPRESSED)
        for frame in frames_of(count):
            file.write(frame.tobytes() if form == "native" else _item(frame, syntax))
        if form != "native":
            file.write(END)
        return uid, file.tell()


def _encoded(dataset: Dataset) -> bytes:
    stream = DicomFileLike(BytesIO())
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, dataset)
    found: bytes = stream.parent.getvalue()
    return found


def _item(frame: NDArray[np.uint16], syntax: UID) -> bytes:
    if syntax == JPEGLSLossless:
        octets = bytes(jpeg_ls.encode_array(frame))
    else:
        octets = get_encoder(syntax).encode(
            frame,
            rows=SIDE,
            columns=SIDE,
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=16,
            bits_stored=12,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )
    octets += b"\0" * (len(octets) % 2)
    return ITEM + struct.pack("<L", len(octets)) + octets


def digest_of(path: Path) -> str:
    """SHA-256 of the data set of a Part 10 file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        read_head(file)
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
