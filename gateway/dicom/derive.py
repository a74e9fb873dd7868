"""The protected object: a Secondary Capture derived from what was received."""

from __future__ import annotations

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
    JPEG2000,
    JPEG2000MC,
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)
from pydicom.valuerep import STR_VR

from gateway.dicom.derived_attributes import (
    copy_geometry,
    copy_identity,
    copy_pixel_aspect,
    lossy_history,
    series_description,
)
from gateway.dicom.derived_pixels import (
    protected_layout,
    secondary_capture_class,
    write_multi_frame,
    write_pixel_module,
    write_single_window,
)
from gateway.dicom.lenient import lenient, text
from gateway.dicom.repair import valid_value
from gateway.store.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from gateway.vault.layout import PixelLayout, pack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from gateway.dicom.identifiers import UidMapper
    from gateway.dicom.pixels import Source

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
}
"""Defined terms of PS3.3 C.7.6.1.1.5 for the lossy syntaxes."""

UTF8: Final = "ISO_IR 192"
DEFAULT_REPERTOIRE: Final = "ISO_IR 6"


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A protected object, encoded, and how its pixels lie in it.

    ``part10`` is a complete file; the UIDs are those of the new object.
    """

    part10: bytes
    layout: PixelLayout
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


def derive(
    source: Source,
    marked: Sequence[NDArray[np.int32]],
    *,
    sop_instance_uid: str,
    uids: UidMapper,
    when: datetime,
) -> Derived:
    """Build the Secondary Capture object of marked frames (PS3.3 A.8).

    Parameters
    ----------
    source
        What was received.
    marked
        int32 stored values of every frame, shapes and ranges as in the source.
    sop_instance_uid
        UID of the new object.
    uids
        Maps series and frame of reference.
    when
        Time of the derivation.

    Raises
    ------
    Unprotectable
        ``unsupported-pixels``: there is no Secondary Capture class for it.
    """
    layout = protected_layout(source)
    target = Dataset()
    with lenient():
        target.SOPClassUID = secondary_capture_class(source)
        target.SOPInstanceUID = sop_instance_uid
        _write_source_attributes(source, target, uids)
        _write_pixel_attributes(source, target, layout, uids)
        _write_provenance(source, target, when)
        target.PixelData = _even(pack(marked, layout))
        target["PixelData"].VR = "OB" if layout.bits_allocated == 8 else "OW"
    return Derived(
        part10=_encode(target),
        layout=layout,
        sop_class_uid=str(target.SOPClassUID),
        sop_instance_uid=str(target.SOPInstanceUID),
        series_instance_uid=str(target.SeriesInstanceUID),
        study_instance_uid=str(target.StudyInstanceUID),
    )


def _write_source_attributes(source: Source, target: Dataset, uids: UidMapper) -> None:
    dataset = source.dataset
    charset = valid_value(dataset, "SpecificCharacterSet")
    if charset is not None:
        target.SpecificCharacterSet = charset
    target.StudyInstanceUID = valid_uid(dataset, "StudyInstanceUID", uids)
    series = text(dataset, "SeriesInstanceUID")
    target.SeriesInstanceUID = uids.map(series, "series")
    copy_identity(dataset, target)
    target.Modality = valid_value(dataset, "Modality") or "OT"
    target.SeriesDescription = series_description(dataset, SERIES_MARK)


def _write_pixel_attributes(
    source: Source, target: Dataset, layout: PixelLayout, uids: UidMapper
) -> None:
    series = text(source.dataset, "SeriesInstanceUID")
    frame_of_reference = uids.map(series, "frame of reference")
    write_pixel_module(source, target, layout)
    if layout.frames > 1:
        target.PatientOrientation = ""
        write_multi_frame(source, target, layout, frame_of_reference=frame_of_reference)
    else:
        copy_geometry(source, target, frame_of_reference=frame_of_reference)
        if not source.colour:
            write_single_window(source, target)
    copy_pixel_aspect(source.dataset, target)
    _write_lossy_history(source, target)


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
    _write_references(source.dataset, target)
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


def _write_references(source: Dataset, target: Dataset) -> None:
    """Refer to the source, as far as its UIDs are UIDs."""
    sop_class = valid_value(source, "SOPClassUID")
    instance = valid_value(source, "SOPInstanceUID")
    series = valid_value(source, "SeriesInstanceUID")
    if sop_class is None or instance is None:
        return
    image = _reference(sop_class, instance)
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


def _encode(target: Dataset) -> bytes:
    """Part 10 file, explicit VR little endian."""
    target.file_meta = FileMetaDataset()
    target.file_meta.MediaStorageSOPClassUID = target.SOPClassUID
    target.file_meta.MediaStorageSOPInstanceUID = target.SOPInstanceUID
    target.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    target.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    target.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    _choose_character_set(target)
    stream = BytesIO()
    dcmwrite(stream, target, enforce_file_format=True)
    return stream.getvalue()


def _choose_character_set(target: Dataset) -> None:
    """Keep the source's character set if it holds all text, else take UTF-8.

    Sources contain text outside the set they declare.
    """
    if not (_holds_all_text(target) and _encodes(target)):
        target.SpecificCharacterSet = UTF8


def _holds_all_text(target: Dataset) -> bool:
    """Whether text that has to be ASCII is; pydicom would write Latin-1."""
    if target.get("SpecificCharacterSet", DEFAULT_REPERTOIRE) != DEFAULT_REPERTOIRE:
        return True
    return all(str(e.value).isascii() for e in target.iterall() if e.VR in STR_VR)


def _encodes(target: Dataset) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dcmwrite(BytesIO(), target, enforce_file_format=True)
    except (UserWarning, UnicodeError, LookupError):
        return False
    return True
