"""What the demo sends: real images from installed packages.

The multi-slice MR study is pydicom-data's enhanced head MR (ten slices), split
into classic single-frame MR objects the way a scanner without enhanced support
sends them; everything else goes as it is in the package, encoded bytes included.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement

MR_STUDY: Final = "emri_small.dcm"

SINGLES: Final = (
    ("CT head", "693_UNCR.dcm"),
    ("CR chest", "RG1_UNCR.dcm"),
    ("US colour", "US1_UNCR.dcm"),
    ("MR shoulder, JPEG 2000", "MR2_J2KR.dcm"),
)


class DemoFilesMissing(GatewayError):
    """The real images the demo sends are not installed."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One object to send.

    Attributes
    ----------
    name
        What a person calls it.
    part10
        The object as a Part 10 file.
    """

    name: str
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    part10: bytes


def demo_cases() -> list[Case]:
    """Everything the demo sends, in order.

    Raises
    ------
    DemoFilesMissing
        When ``pydicom-data`` is not installed.
    """
    cases = [
        case_of(f"MR head {i}/10", data)
        for i, data in enumerate(split_enhanced_mr(_file(MR_STUDY)), start=1)
    ]
    cases += [case_of(name, _file(file).read_bytes()) for name, file in SINGLES]
    return cases


def _file(name: str) -> Path:
    found = get_testdata_file(name, read=False, download=False)
    if not found:
        raise DemoFilesMissing(
            f"{name} is not installed: pip install 'miad-gateway[demo]'"
        )
    return Path(str(found))


def case_of(name: str, part10: bytes) -> Case:
    """Make a case of a Part 10 file."""
    ds = dcmread(BytesIO(part10), stop_before_pixels=True)
    return Case(
        name=name,
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        part10=part10,
    )


def split_enhanced_mr(path: Path) -> list[bytes]:
    """Split an Enhanced MR object into classic MR Image objects.

    Parameters
    ----------
    path
        An uncompressed Enhanced MR Image Storage file (PS3.3 A.36).

    Returns
    -------
    list[bytes]
        One Part 10 file per frame, in frame order, with the patient, study and
        series attributes of the source (PS3.3 A.4). The package's file has lost
        its functional groups, so positions and windows cannot be carried over.
    """
    source = dcmread(path)
    frames = source.pixel_array
    series_uid = generate_uid(entropy_srcs=[source.SOPInstanceUID, "classic"])
    return [
        _classic(source, index, frames[index].tobytes(), series_uid)
        for index in range(int(source.NumberOfFrames))
    ]


_NOT_CLASSIC: Final = {
    "NumberOfFrames",
    "InstanceCreatorUID",
    "CodeValue",
    "CodingSchemeDesignator",
    "CodeMeaning",
}


def _belongs_in_classic(element: DataElement) -> bool:
    # Element numbers from 9000 on came with the enhanced objects (Supplement 49).
    return (
        element.tag.element < 0x9000
        and element.VR != "SQ"
        and element.keyword not in _NOT_CLASSIC
    )


def _classic(source: Dataset, index: int, pixels: bytes, series_uid: str) -> bytes:
    ds = Dataset()
    for element in source:
        if _belongs_in_classic(element):
            ds.add(element)
    ds.PatientName, ds.PatientID = "DEMO^HEAD", "DEMO-MR"  # empty in the package
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = generate_uid(
        entropy_srcs=[source.SOPInstanceUID, f"frame {index}"]
    )
    ds.SeriesInstanceUID = series_uid
    ds.InstanceNumber = index + 1
    ds.PixelData = pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()
