"""Broken, odd and hostile input: each has its answer, and the gateway goes on.

docs/bad-input.md is the table these tests hold true.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from gateway.demo.cases import Case, demo_cases
from gateway.demo.nodes import StorageNode
from gateway.demo.site import OUTSIDE, WORKSTATION
from tests.endtoend.support import Gateway, Ports
from tests.phi_scan import register

if TYPE_CHECKING:
    from pathlib import Path

register("Bad^Input", "patient name")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def image(**changes: object) -> Dataset:
    """A plain 64x64 grey image; a change to None removes the attribute."""
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.PatientID, ds.PatientName, ds.Modality = "BAD", "Bad^Input", "OT"
    ds.Rows = ds.Columns = 64
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes(range(256)) * 16
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def case(name: str, ds: Dataset, cut: int = 0) -> Case:
    """The object as it is sent; what the data set lacks, the request still has."""
    uid = ds.get("SOPInstanceUID", generate_uid())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    data = out.getvalue()
    return Case(
        name=name,
        sop_instance_uid=uid,
        sop_class_uid=ds.SOPClassUID,
        series_instance_uid=ds.get("SeriesInstanceUID", ""),
        study_instance_uid=ds.get("StudyInstanceUID", ""),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        part10=data[: len(data) - cut],
    )


def pdf() -> Dataset:
    ds = image(SOPClassUID=EncapsulatedPDFStorage, PixelData=None, Modality="DOC")
    ds.EncapsulatedDocument = b"%PDF-1.4\n"
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    return ds


def structured_report() -> Dataset:
    path = get_testdata_file("reportsi.dcm", read=False, download=False)
    return dcmread(str(path))


HELD = {
    "pixel data cut off": ("short-pixel-data", image, 700),
    "pixel data shorter than declared": (
        "short-pixel-data",
        lambda: image(PixelData=b"\0" * 100),
        0,
    ),
    "no Rows": ("missing-attribute", lambda: image(Rows=None), 0),
    "no PhotometricInterpretation": (
        "missing-attribute",
        lambda: image(PhotometricInterpretation=None),
        0,
    ),
    "structured report": ("no-pixel-data", structured_report, 0),
    "PDF": ("no-pixel-data", pdf, 0),
    "1x1 image": ("too-small", lambda: image(Rows=1, Columns=1, PixelData=b"\0\0"), 0),
    "10,000 frames": (
        "too-many-frames",
        lambda: image(NumberOfFrames=10_000, PixelData=b"\0" * 40_960_000),
        0,
    ),
    "10,000 frames declared, one sent": (
        "too-many-frames",
        lambda: image(NumberOfFrames=10_000),
        0,
    ),
}


def test_each_bad_object_is_accepted_and_held_and_a_good_one_still_goes_out(
    tmp_path: Path,
) -> None:
    bad = {name: case(name, make(), cut) for name, (_, make, cut) in HELD.items()}
    good = demo_cases()[0]
    with (
        StorageNode(OUTSIDE) as outside,
        StorageNode(WORKSTATION) as station,
        Gateway(
            tmp_path, Ports(outside=outside.port, workstation=station.port)
        ) as gateway,
    ):
        for name, one in bad.items():
            assert gateway.send([one]) == [0], name
        assert gateway.send([good]) == [0]
        gateway.wait(lambda: len(outside.arrivals) == 1)
        index = gateway.index()
        gateway.wait(lambda: index.counts()["instances"].get("held", 0) == len(bad))
        for name, one in bad.items():
            instance = index.instance(one.sop_instance_uid)
            assert instance is not None
            assert instance.state == "held"
            assert instance.reason.startswith(HELD[name][0]), name
        assert index.counts()["deliveries"] == {"sent": 1}
        index.close()


REFUSED: dict[str, dict[str, object]] = {
    "no SOP Instance UID": {"SOPInstanceUID": None},
    "no Study Instance UID": {"StudyInstanceUID": None},
    "no Series Instance UID": {"SeriesInstanceUID": None},
    "a path for a UID": {"StudyInstanceUID": "../../etc/passwd"},
}


# pydicom warns of the bad UID that this test makes on purpose.
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_cannot_be_identified_is_refused_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    with (
        StorageNode(OUTSIDE) as outside,
        StorageNode(WORKSTATION) as station,
        Gateway(
            tmp_path, Ports(outside=outside.port, workstation=station.port)
        ) as gateway,
    ):
        for name, changes in REFUSED.items():
            status = gateway.send([case(name, image(**changes))])[0]
            assert status & 0xF000 == 0xC000 or status & 0xFF00 == 0xA900, name
        index = gateway.index()
        assert index.counts()["instances"] == {}
        index.close()


def test_a_wrong_configuration_ends_serve_with_the_place_named(tmp_path: Path) -> None:
    with (
        StorageNode(OUTSIDE) as outside,
        StorageNode(WORKSTATION) as station,
    ):
        gateway = Gateway(
            tmp_path, Ports(outside=outside.port, workstation=station.port)
        )
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace("when = 'true'", "when = 'Modality =='"))
        done = gateway.cli("serve", "--config", str(gateway.config))
    assert done.returncode != 0
    complaint = done.stdout + done.stderr
    assert "site.toml" in complaint
    assert "everything-leaves-marked" in complaint
    assert "column" in complaint
    assert "Traceback" not in complaint
