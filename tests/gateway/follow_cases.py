"""Objects without pictures for tests: built with highdicom, and what validates them."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from gateway.dicom.follow import Counterpart
from gateway.dicom.identifiers import UidMapper
from tests.gateway.object_cases import corpus_file
from tests.gateway.test_derive import dciodvfy

UIDS = UidMapper(b"u" * 32)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
NEW_SERIES, NEW_STUDY = "2.25.1000", "2.25.2000"
MADE = {
    "series_instance_uid": "1.2.826.0.1.3680043.8.498.71",
    "sop_instance_uid": "1.2.826.0.1.3680043.8.498.72",
    "series_number": 7,
    "instance_number": 1,
    "manufacturer": "Maker",
}
ENGINE = {"manufacturer_model_name": "Model", "software_versions": "1"}


@dataclass(frozen=True)
class Aim:
    sop_instance_uid: str = "2.25.4711"
    series_purpose: str = "series"
    map_study: bool = False


def counterpart(original: str, number: int = 0) -> Counterpart:
    return Counterpart(
        sop_class_uid=CAPTURE,
        sop_instance_uid=UIDS.map(original, f"frame {number}"),
        series_instance_uid=NEW_SERIES,
        study_instance_uid=NEW_STUDY,
    )


def one_each(original: str) -> tuple[Counterpart, ...]:
    """Something for every instance; a study is none."""
    return () if original == _ct_image().StudyInstanceUID else (counterpart(original),)


def none(_original: str) -> tuple[Counterpart, ...]:
    return ()


def as_part10(dataset: Dataset) -> bytes:
    """Encoded as the gateway does it."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def errors_of(part10: bytes, folder: Path) -> set[str]:
    """Errors of the validator, without the UIDs that they name."""
    path = folder / "object.dcm"
    path.write_bytes(part10)
    return {re.sub(r"\b0$|\b\d+(\.\d+)+", "UID", line) for line in dciodvfy(path)}


def ct_image() -> Dataset:
    return copy.deepcopy(_ct_image())


@cache
def _ct_image() -> Dataset:
    image = dcmread(corpus_file("CT_small.dcm"))
    image.PatientID = "4MR1-77"
    image.FrameOfReferenceUID = image.FrameOfReferenceUID or "1.2.3.4"
    return image


def key_object(images: list[Dataset]) -> Dataset:
    return hd.ko.KeyObjectSelectionDocument(
        evidence=images,
        content=hd.ko.KeyObjectSelection(
            document_title=codes.DCM.OfInterest,
            referenced_objects=images,
            description="Seen by Dr. Planted",
        ),
        **MADE,
    )


def report(image: Dataset) -> Dataset:
    """A measurement report (TID 1500) with a planar ROI on an image."""
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array([[1.0, 1.0], [9.0, 1.0], [9.0, 9.0], [1.0, 1.0]]),
        source_image=hd.sr.SourceImageForRegion(
            referenced_sop_class_uid=image.SOPClassUID,
            referenced_sop_instance_uid=image.SOPInstanceUID,
        ),
    )
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            hd.UID("1.2.826.0.1.3680043.8.498.99"), "lesion"
        ),
        referenced_region=region,
        finding_type=codes.SCT.Lesion,
        measurements=[
            hd.sr.Measurement(
                name=codes.SCT.Length, value=3.5, unit=codes.UCUM.Millimeter
            )
        ],
    )
    context = hd.sr.ObservationContext(
        observer_person_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Person,
            observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(
                name="Planted^Observer"
            ),
        )
    )
    content = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[image], content=content, is_complete=True, **MADE
    )


def presentation_state(image: Dataset) -> Dataset:
    """A greyscale softcopy presentation state with a text of annotation."""
    layer = hd.pr.GraphicLayer("NOTES", order=1)
    words = hd.pr.TextObject(
        text_value="Planted note",
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        anchor_point=(5.0, 5.0),
    )
    return hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        content_label="LABEL",
        graphic_layers=[layer],
        graphic_annotations=[
            hd.pr.GraphicAnnotation(
                referenced_images=[image], graphic_layer=layer, text_objects=[words]
            )
        ],
        voi_lut_transformations=[
            hd.pr.SoftcopyVOILUTTransformation(window_center=40.0, window_width=400.0)
        ],
        concept_name=CodedConcept("PR1", "99TEST", "Shown"),
        institution_name="Planted Hospital",
        **MADE,
        **ENGINE,
        device_serial_number="SN1",
        content_creator_name="Planted^Creator",
    )


def segmentation(image: Dataset) -> Dataset:
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    mask = np.zeros((image.Rows, image.Columns), bool)
    mask[4:20, 6:30] = True
    return hd.seg.Segmentation(
        source_images=[image],
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        content_creator_name="Planted^Creator",
        **MADE,
        **ENGINE,
        device_serial_number="SN1",
    )


def structure_set(image: Dataset) -> Dataset:
    """A contour drawn on one image, with the references PS3.3 C.8.8.5 asks for."""
    dataset = Dataset()
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate"):
        dataset[keyword] = image[keyword]
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyTime = ""
    dataset.AccessionNumber = dataset.StudyID = dataset.ReferringPhysicianName = ""
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = MADE["sop_instance_uid"]
    dataset.SeriesInstanceUID = MADE["series_instance_uid"]
    dataset.Modality, dataset.Manufacturer = "RTSTRUCT", "Maker"
    dataset.SeriesNumber = dataset.OperatorsName = ""
    dataset.StructureSetLabel = "PLANTED"
    dataset.StructureSetDate, dataset.StructureSetTime = "20200101", "101010"
    frame, study, series, contour_image = Dataset(), Dataset(), Dataset(), Dataset()
    contour_image.ReferencedSOPClassUID = image.SOPClassUID
    contour_image.ReferencedSOPInstanceUID = image.SOPInstanceUID
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = [contour_image]
    study.ReferencedSOPClassUID = DETACHED_STUDY
    study.ReferencedSOPInstanceUID = image.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    roi, drawn, contour, observation = Dataset(), Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = 1, "Planted", ""
    roi.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    contour.ContourImageSequence = [contour_image]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "POINT", 1
    contour.ContourData = ["1.5", "2.5", "-3.5"]
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, [contour]
    observation.ObservationNumber = observation.ReferencedROINumber = 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "", ""
    dataset.StructureSetROISequence = [roi]
    dataset.ROIContourSequence = [drawn]
    dataset.RTROIObservationsSequence = [observation]
    return dataset


def multi_frame(image: Dataset, frames: int) -> Dataset:
    """The same image, as if of several frames."""
    image.NumberOfFrames = frames
    image.PixelData = image.PixelData * frames
    return image
