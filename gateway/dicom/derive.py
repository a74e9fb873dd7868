"""The protected object: a Secondary Capture derived from what was received."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

from highdicom.base_content import ContributingEquipment
from highdicom.sr import CodedConcept
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)
from pydicom.valuerep import STR_VR

from gateway.dicom.derived_attributes import (
    copy_colour_space,
    copy_geometry,
    copy_identity,
    copy_pixel_aspect,
    lossy_history,
    series_description,
)
from gateway.dicom.derived_frames import write_multi_frame
from gateway.dicom.derived_pixels import write_pixel_module, write_single_window
from gateway.dicom.lenient import lenient, text
from gateway.dicom.overlays import copy_overlays
from gateway.dicom.parse import PIXEL_DATA
from gateway.dicom.repair import valid_value
from gateway.errors import Unprotectable
from gateway.store.octets import Joined
from gateway.store.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.dicom.derived_pixels import Part
    from gateway.dicom.identifiers import UidMapper
    from gateway.dicom.pixels import Source
    from gateway.store.octets import Octets

SERIES_MARK: Final = "[MIAD-MARK]"
MANUFACTURER: Final = "MIAD Gateway"
MODEL: Final = "MIAD-MARK"
VERSION: Final = "0.1"
DESCRIPTION: Final = (
    "Adversarial watermark (MIAD-MARK) burned in by a gateway; not for diagnosis; "
    "the original is kept by the site"
)
DERIVATION: Final = CodedConcept("113000", "99MIAD", "Adversarial watermarking")

LOSSY_METHODS: Final = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    JPEG2000MC: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}
"""Defined terms of PS3.3 C.7.6.1.1.5 for the lossy syntaxes."""

SINGLE_FRAME: Final = frozenset(
    (
        SecondaryCaptureImageStorage,
        ComputedRadiographyImageStorage,
        CTImageStorage,
        MRImageStorage,
        UltrasoundImageStorage,
        PositronEmissionTomographyImageStorage,
    )
)
"""Classes of which a frame cannot be named; objects of them may have more even so."""

LENGTH: Final = struct.Struct("<L")
PIXEL_ELEMENT: Final = struct.Struct("<HH")
PIXEL_HEADER: Final = 8
"""Octets of the element before its length: tag, VR, two of nothing."""

LONGEST_VALUE: Final = 0xFFFFFFFE
"""Octets of an uncompressed value: its length has 32 bits (PS3.5 7.1.2)."""

UTF8: Final = "ISO_IR 192"
DEFAULT_REPERTOIRE: Final = "ISO_IR 6"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Identity of one protected object.

    Attributes
    ----------
    sop_instance_uid
        Its UID.
    series_purpose
        Its series is the source's, mapped for this purpose.
    map_study
        Whether study and frame of reference are mapped too, or kept.
    """

    sop_instance_uid: str
    series_purpose: str = "series"
    map_study: bool = False


def derive(
    source: Source,
    part: Part,
    value: bytes,
    *,
    target: Target,
    uids: UidMapper,
    when: datetime,
) -> Dataset:
    """Build the Secondary Capture object of marked frames (PS3.3 A.8).

    Parameters
    ----------
    source
        What was received.
    part
        The frames, from ``plan_parts``.
    value
        Their marked values, packed in ``part.layout``.
    target
        UIDs of the new object.
    uids
        Maps UIDs.
    when
        Time of the derivation.

    Returns
    -------
    Dataset
        Not yet encoded, without file meta information.
    """
    derived = Dataset()
    with lenient():
        derived.SOPClassUID = part.sop_class_uid
        derived.SOPInstanceUID = target.sop_instance_uid
        _write_source_attributes(source, derived, target, uids)
        _write_pixel_attributes(
            source, part, derived, _reference_uid(source, target, uids)
        )
        _write_provenance(source, derived, when)
        if not target.map_study:  # mapped UIDs are of no use beside the real ones
            _write_references(source, part, derived)
        derived.PixelData = _even(value)
        derived["PixelData"].VR = "OB" if part.layout.bits_allocated == 8 else "OW"
    return derived


def _write_source_attributes(
    source: Source, derived: Dataset, target: Target, uids: UidMapper
) -> None:
    dataset = source.dataset
    charset = valid_value(dataset, "SpecificCharacterSet")
    if charset is not None:
        derived.SpecificCharacterSet = charset
    study = text(dataset, "StudyInstanceUID")
    derived.StudyInstanceUID = (
        uids.map(study, "study")
        if target.map_study
        else valid_uid(dataset, "StudyInstanceUID", uids)
    )
    series = text(dataset, "SeriesInstanceUID")
    derived.SeriesInstanceUID = uids.map(series, target.series_purpose)
    copy_identity(dataset, derived)
    derived.Modality = valid_value(dataset, "Modality") or "OT"
    derived.SeriesDescription = series_description(dataset, SERIES_MARK)


def _reference_uid(source: Source, target: Target, uids: UidMapper) -> str:
    """Frame of reference of positions: the source's, mapped, or one for its series."""
    purpose = "frame of reference"
    found = valid_value(source.dataset, "FrameOfReferenceUID")
    if found is None:
        return uids.map(text(source.dataset, "SeriesInstanceUID"), purpose)
    return uids.map(str(found), purpose) if target.map_study else str(found)


def _write_pixel_attributes(
    source: Source, part: Part, derived: Dataset, frame_of_reference: str
) -> None:
    dataset, first = source.dataset, part.frames.start
    write_pixel_module(source, part, derived)
    if not part.single:
        derived.PatientOrientation = ""
        write_multi_frame(source, part, derived, frame_of_reference=frame_of_reference)
    else:
        copy_geometry(dataset, first, derived, frame_of_reference=frame_of_reference)
        if not source.colour:
            write_single_window(source, first, derived)
    if source.count > len(part.frames):
        derived.InstanceNumber = first + 1
    if source.colour:
        copy_colour_space(dataset, derived)
    copy_overlays(source, part, derived)
    copy_pixel_aspect(dataset, derived)
    _write_lossy_history(source, derived)


def _write_lossy_history(source: Source, target: Dataset) -> None:
    method = LOSSY_METHODS.get(UID(source.transfer_syntax_uid))
    if text(source.dataset, "LossyImageCompression") == "00":
        method = None  # JPEG 2000 syntaxes may hold reversible streams
    lossy, ratio = lossy_history(source, method)
    target.LossyImageCompression = "01" if lossy else "00"
    if not lossy:
        target.pop("LossyImageCompressionRatio", None)
        target.pop("LossyImageCompressionMethod", None)
    elif method is not None:
        if "LossyImageCompressionRatio" not in target:
            target.LossyImageCompressionRatio = f"{ratio:.4g}"
        if "LossyImageCompressionMethod" not in target:
            target.LossyImageCompressionMethod = method


def _write_provenance(source: Source, target: Dataset, when: datetime) -> None:
    """Say what the object is, from what and by whom it was made."""
    date, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    target.ImageType = ["DERIVED", "SECONDARY"]
    target.ConversionType = "WSD"
    target.BurnedInAnnotation = "YES"
    target.DerivationDescription = DESCRIPTION
    target.DerivationCodeSequence = [DERIVATION]
    target.Manufacturer = MANUFACTURER
    target.ManufacturerModelName = MODEL
    target.SoftwareVersions = VERSION
    target.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    target.SecondaryCaptureDeviceManufacturerModelName = MODEL
    target.DateOfSecondaryCapture, target.TimeOfSecondaryCapture = date, time
    target.InstanceCreationDate, target.InstanceCreationTime = date, time
    target.SeriesDate, target.SeriesTime = date, time
    target.ContentDate = valid_value(source.dataset, "ContentDate") or date
    target.ContentTime = valid_value(source.dataset, "ContentTime") or time
    target.ContributingEquipmentSequence = [
        _acquisition_equipment(source.dataset),
        ContributingEquipment(
            MANUFACTURER,
            codes.DCM.ModifyingEquipment,
            manufacturer_model_name=MODEL,
            software_versions=VERSION,
            contribution_datetime=when,
            contribution_description="Burned in an adversarial watermark",
        ),
    ]


def _write_references(source: Source, part: Part, target: Dataset) -> None:
    """Refer to the source, as far as its UIDs are UIDs."""
    sop_class = valid_value(source.dataset, "SOPClassUID")
    instance = valid_value(source.dataset, "SOPInstanceUID")
    series = valid_value(source.dataset, "SeriesInstanceUID")
    if sop_class is None or instance is None:
        return
    image = _reference(sop_class, instance)
    if source.count > len(part.frames) and sop_class not in SINGLE_FRAME:
        image.ReferencedFrameNumber = [number + 1 for number in part.frames]
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    image.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(purpose)]
    target.SourceImageSequence = [image]
    if series is not None:
        whole = Dataset()
        whole.SeriesInstanceUID = series
        whole.ReferencedInstanceSequence = [_reference(sop_class, instance)]
        target.ReferencedSeriesSequence = [whole]


def _reference(sop_class: object, instance: object) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    return item


def valid_uid(source: Dataset, keyword: str, uids: UidMapper) -> str:
    """UID of the source, or one that stands for what is there if it is none."""
    found = valid_value(source, keyword)
    return str(found) if found else uids.map(text(source, keyword), keyword)


def _acquisition_equipment(source: Dataset) -> ContributingEquipment:
    def known(keyword: str) -> str | None:
        found = valid_value(source, keyword)
        return found if isinstance(found, str) else None

    return ContributingEquipment(
        known("Manufacturer") or "Unknown",
        codes.DCM.AcquisitionEquipment,
        manufacturer_model_name=known("ManufacturerModelName"),
        software_versions=known("SoftwareVersions"),
        device_serial_number=known("DeviceSerialNumber"),
        institution_name=known("InstitutionName"),
        station_name=known("StationName"),
        contribution_description="Made the source image",
    )


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def encode_part10(dataset: Dataset) -> bytes:
    """Part 10 file of a derived object, explicit VR little endian.

    The source's character set is kept if it holds all text, else UTF-8 is
    written: sources contain text outside the set they declare.

    Parameters
    ----------
    dataset
        From `derive`; it gets its file meta information and character set.
    """
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    if not (_holds_all_text(dataset) and _encodes(dataset)):
        dataset.SpecificCharacterSet = UTF8
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def part10_around(dataset: Dataset, value: Octets) -> Octets:
    """Part 10 file of a derived object whose pixel data are not in memory.

    The same octets as from `encode_part10` of the data set with its value.

    Parameters
    ----------
    dataset
        From `derive`, with an empty value.
    value
        Its pixel data, without padding.

    Raises
    ------
    Unprotectable
        ``too-large``: no native value is so long.
    """
    length = len(value) + len(value) % 2
    if length > LONGEST_VALUE:
        raise Unprotectable(
            "too-large",
            f"the protected object would have {length} octets of pixel data; an "
            f"uncompressed value has {LONGEST_VALUE} at most; protection.split_frames "
            "= 'always' makes an object of each grey frame",
        )
    head = encode_part10(dataset)
    # Nothing comes after Pixel Data: its length are the last octets.
    end = len(head) - LENGTH.size
    last = PIXEL_ELEMENT.pack(PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF)
    assert head[end - PIXEL_HEADER : end - PIXEL_HEADER + len(last)] == last
    assert head[end:] == bytes(LENGTH.size)
    padding = b"\0" * (length - len(value))
    return Joined([head[:end] + LENGTH.pack(length), value, padding])


def _holds_all_text(dataset: Dataset) -> bool:
    """Whether text that has to be ASCII is; pydicom would write Latin-1."""
    if dataset.get("SpecificCharacterSet", DEFAULT_REPERTOIRE) != DEFAULT_REPERTOIRE:
        return True
    return all(str(e.value).isascii() for e in dataset.iterall() if e.VR in STR_VR)


def _encodes(dataset: Dataset) -> bool:
    """Whether all text can be written in the declared character set."""
    text_only = Dataset({e.tag: e for e in dataset if e.tag != PIXEL_DATA})
    text_only.file_meta = dataset.file_meta
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dcmwrite(BytesIO(), text_only, enforce_file_format=True)
    except (UserWarning, UnicodeError, LookupError):
        return False
    return True
