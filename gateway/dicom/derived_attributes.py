"""Which attributes a protected object takes over from its source."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from pydicom.valuerep import format_number_as_ds

from gateway.dicom.lenient import frame_item, items, number, numbers, text, value
from gateway.dicom.repair import copy_attributes, valid_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from gateway.dicom.pixels import Source

MAYBE_EMPTY: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
    "SeriesNumber",
    "InstanceNumber",
)
"""Type 2: written empty where the source has no valid value."""

TAKEN_OVER: Final = (
    # Patient and patient study (PS3.3 C.7.1.1, C.7.2.2)
    "IssuerOfPatientID",
    "OtherPatientIDsSequence",
    "PatientBirthTime",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    "AdmissionID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PregnancyStatus",
    # Study and series (C.7.2.1, C.7.3.1)
    "StudyDescription",
    "ProcedureCodeSequence",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "ProtocolName",
    "PerformingPhysicianName",
    "OperatorsName",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    # Image (C.7.6.1)
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ImagesInAcquisition",
    "ImageComments",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

SPACING: Final = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
)

PLANE: Final = ("SliceThickness", "SliceLocation", "SpacingBetweenSlices")

UNPAIRED: Final = frozenset(
    [
        "ABDOMEN",
        "ABDOMENPELVIS",
        "AORTA",
        "BLADDER",
        "BRAIN",
        "CEREBELLUM",
        "CERVIX",
        "CHEST",
        "CHESTABDOMEN",
        "CHESTABDPELVIS",
        "CIRCLEOFWILLIS",
        "COCCYX",
        "COLON",
        "CORONARYARTERY",
        "CSPINE",
        "CTSPINE",
        "DUODENUM",
        "ESOPHAGUS",
        "GALLBLADDER",
        "HEAD",
        "HEADNECK",
        "HEART",
        "ILEUM",
        "JAW",
        "JEJUNUM",
        "LARYNX",
        "LIVER",
        "LSPINE",
        "LSSPINE",
        "MAXILLA",
        "MEDIASTINUM",
        "MOUTH",
        "NECK",
        "NECKCHEST",
        "NECKCHESTABDOMEN",
        "NECKCHESTABDPELV",
        "NOSE",
        "PANCREAS",
        "PELVIS",
        "PENIS",
        "PHARYNX",
        "PROSTATE",
        "RECTUM",
        "SCALP",
        "SKULL",
        "SPINE",
        "SPLEEN",
        "SSPINE",
        "STERNUM",
        "STOMACH",
        "THYMUS",
        "THYROID",
        "TLSPINE",
        "TONGUE",
        "TRACHEA",
        "TSPINE",
        "URETHRA",
        "UTERUS",
        "VAGINA",
        "VULVA",
        "WHOLEBODY",
    ]
)
"""Body parts (PS3.16 Annex L) that have no side."""

DIRECTIONS: Final = (("L", "R"), ("P", "A"), ("H", "F"))
"""Names of the positive and negative ends of the patient's axes (C.7.6.1.1.1)."""

OBLIQUE: Final = 1e-4
"""Direction cosines below this name no direction."""

ROUNDED: Final = 1e-2
UNIT: Final = 1e-5
"""Direction vectors off by less than the first are taken; below the second, as is."""


def copy_identity(source: Dataset, target: Dataset) -> None:
    """Take over patient, study, series and image attributes, all valid.

    Parameters
    ----------
    source, target
        From and to.
    """
    for keyword in MAYBE_EMPTY:
        setattr(target, keyword, valid_value(source, keyword) or "")
    copy_attributes(source, target, TAKEN_OVER)
    if target.PatientSex not in {"M", "F", "O"}:
        target.PatientSex = ""
    _check_laterality(target)
    _check_identity_removal(target)


def _check_laterality(target: Dataset) -> None:
    """Write the side, empty if unknown, unless the part has none (C.7.3.1)."""
    if target.get("BodyPartExamined") in UNPAIRED:
        target.pop("Laterality", None)
    elif target.get("Laterality") not in {"L", "R"}:
        target.Laterality = ""


def _check_identity_removal(target: Dataset) -> None:
    """Identity removed needs a method, which older objects leave out (C.7.1.1)."""
    if target.get("PatientIdentityRemoved") not in {"YES", "NO"}:
        target.pop("PatientIdentityRemoved", None)
    elif target.PatientIdentityRemoved == "YES" and not (
        "DeidentificationMethod" in target
        or "DeidentificationMethodCodeSequence" in target
    ):
        target.DeidentificationMethod = "Not recorded by the source"


def copy_geometry(
    dataset: Dataset, index: int, target: Dataset, *, frame_of_reference: str
) -> None:
    """Take over where a single frame lies in the patient.

    Parameters
    ----------
    dataset
        The source; its functional groups are read too.
    index
        Its frame, from 0.
    target
        Where to.
    frame_of_reference
        UID to write with a position.
    """
    measures = frame_item(dataset, index, "PixelMeasuresSequence") or dataset
    copy_attributes(measures, target, PLANE)
    for keyword in SPACING:
        _copy_spacing(measures, target, keyword)
    position = frame_item(dataset, index, "PlanePositionSequence") or dataset
    orientation = frame_item(dataset, index, "PlaneOrientationSequence") or dataset
    origin = valid_value(position, "ImagePositionPatient")
    cosines = orientation_of(orientation)
    target.PatientOrientation = _orientation_names(dataset, cosines)
    # The image plane module is whole or not there (C.7.6.2).
    if origin is not None and cosines is not None and "PixelSpacing" in target:
        target.ImagePositionPatient = origin
        target.ImageOrientationPatient = decimals(cosines)
        target.SliceThickness = target.get("SliceThickness", "")
        write_frame_of_reference(dataset, target, frame_of_reference)


def write_frame_of_reference(source: Dataset, target: Dataset, uid: str) -> None:
    """Frame of reference module (PS3.3 C.7.4.1)."""
    target.FrameOfReferenceUID = uid
    target.PositionReferenceIndicator = (
        valid_value(source, "PositionReferenceIndicator") or ""
    )


def orientation_of(source: Dataset) -> tuple[float, ...] | None:
    """Direction cosines of row and column; None where not given or not valid.

    Returns
    -------
    tuple[float, ...] or None
        Six cosines as in Image Orientation (Patient) (0020,0037), made unit
        vectors where the source rounded them away from that.
    """
    cosines = numbers(source, "ImageOrientationPatient")
    if len(cosines) != 6:
        return None
    vectors = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    off = float(np.abs(lengths - 1).max())
    square = abs(float(vectors[0] @ vectors[1])) < ROUNDED
    if off > ROUNDED or not square:
        return None
    return cosines if off < UNIT else tuple((vectors / lengths).reshape(-1).tolist())


def decimals(values: Sequence[float]) -> list[str]:
    """Numbers as decimal strings of at most 16 octets (PS3.5 6.2)."""
    return [str(format_number_as_ds(float(each))) for each in values]


def _orientation_names(
    source: Dataset, cosines: tuple[float, ...] | None
) -> list[str] | str:
    if cosines is not None:
        return [_direction(cosines[:3]), _direction(cosines[3:])]
    given = valid_value(source, "PatientOrientation")
    return given if isinstance(given, list) else ""


def _direction(vector: tuple[float, ...]) -> str:
    order = sorted(range(3), key=lambda axis: -abs(vector[axis]))
    return "".join(
        DIRECTIONS[axis][vector[axis] < 0]
        for axis in order
        if abs(vector[axis]) > OBLIQUE
    )


def _copy_spacing(source: Dataset, target: Dataset, keyword: str) -> None:
    """Spacing of zero or less is no spacing (PS3.3 10.7.1.3)."""
    spacing = numbers(source, keyword)
    if len(spacing) == 2 and min(spacing) > 0:
        copy_attributes(source, target, (keyword,))


def copy_pixel_aspect(source: Dataset, target: Dataset) -> None:
    """Keep the shape of pixels where no spacing says it (PS3.3 C.7.6.3.1.7)."""
    aspect = numbers(source, "PixelAspectRatio")
    no_spacing = not any(keyword in target for keyword in SPACING)
    if no_spacing and len(aspect) == 2 and min(aspect) > 0 and aspect[0] != aspect[1]:
        copy_attributes(source, target, ("PixelAspectRatio",))


def copy_colour_space(source: Dataset, target: Dataset) -> None:
    """Keep the ICC profile of a colour image (PS3.3 C.11.15).

    Microscopy has it in its only optical path.
    """
    paths = items(source, "OpticalPathSequence")
    holder = paths[0] if len(paths) == 1 and "ICCProfile" in paths[0] else source
    profile = value(holder, "ICCProfile")
    if isinstance(profile, bytes) and profile:
        target.ICCProfile = profile + b"\0" * (len(profile) % 2)
        copy_attributes(holder, target, ("ColorSpace",))


def series_description(source: Dataset, mark: str) -> str:
    """Describe the new series: the source's words and a mark, 64 characters."""
    given = text(source, "SeriesDescription")
    return f"{given[: 63 - len(mark)]} {mark}".strip()


def lossy_history(source: Source, method: str | None) -> tuple[bool, float | None]:
    """Whether pixels were ever compressed with loss, and by how much.

    Parameters
    ----------
    source
        The source object.
    method
        Defined term of the lossy syntax it is in; None for any other syntax.

    Returns
    -------
    tuple[bool, float | None]
        The flag, and the ratio of the source's own syntax where it is lossy.
    """
    declared = text(source.dataset, "LossyImageCompression") == "01"
    if method is None:
        return declared, None
    width = 1 if source.bits_stored <= 8 else 2
    octets = math.prod(source.shape) * width * source.count
    return True, octets / max(source.pixel_bytes, 1)


def has_planes(source: Dataset, frames: int) -> bool:
    """Whether every frame says where it lies in the patient."""
    if not items(source, "PerFrameFunctionalGroupsSequence"):
        return False
    return all(_has_plane(source, index) for index in range(frames))


def _has_plane(source: Dataset, index: int) -> bool:
    position = frame_item(source, index, "PlanePositionSequence")
    orientation = frame_item(source, index, "PlaneOrientationSequence")
    return (
        position is not None
        and orientation is not None
        and valid_value(position, "ImagePositionPatient") is not None
        and orientation_of(orientation) is not None
    )


def frame_time(source: Dataset) -> float | None:
    """Milliseconds between the frames of a cine; None where there is none."""
    found = number(source, "FrameTime")
    return found if found is not None and found > 0 else None


def frame_times(source: Dataset, frames: int) -> tuple[float, ...]:
    """Milliseconds before each frame of a cine; empty where not given for each."""
    found = numbers(source, "FrameTimeVector")
    return found if len(found) == frames and min(found) >= 0 else ()
