"""DCMTK's pictures of grey objects are the engine's, and a difference shows."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from benchmarks.corpus import viewer
from benchmarks.corpus.viewer import compare
from benchmarks.corpus.window import rendering_of, windows_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="DCMTK not installed"),
]

ROWS, COLUMNS = 24, 40


def grey(frames: int = 1, **attributes: object) -> Dataset:
    """Make noise of 12 bits, signed where PixelRepresentation says so."""
    signed = attributes.get("PixelRepresentation") == 1
    low = -2048 if signed else 0
    stored = np.random.default_rng(7).integers(
        low, low + 4096, (frames, ROWS, COLUMNS), dtype=np.int32
    )
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = ROWS, COLUMNS, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    if frames > 1:
        ds.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
        ds.NumberOfFrames = frames
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def written(ds: Dataset, directory: Path) -> str:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(directory / "object.dcm", ds, enforce_file_format=True)
    return "object.dcm"


def voi(center: float, width: float) -> Dataset:
    window, group = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = center, width
    group.FrameVOILUTSequence = [window]
    return group


CASES = {
    "unsigned": grey(WindowCenter="1800.5", WindowWidth="900"),
    "signed, rescaled, two windows": grey(
        PixelRepresentation=1,
        WindowCenter=["40", "400"],
        WindowWidth=["80", "3000"],
        RescaleSlope="2",
        RescaleIntercept="-1024",
    ),
    "low values white": grey(
        PhotometricInterpretation="MONOCHROME1", WindowCenter="2000", WindowWidth="4000"
    ),
    "exact function": grey(
        WindowCenter="2000", WindowWidth="1000", VOILUTFunction="LINEAR_EXACT"
    ),
    "frames with windows of their own": grey(
        frames=3,
        PerFrameFunctionalGroupsSequence=[voi(500, 900), voi(2000, 60), voi(9, 4095)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_viewer_shows_what_the_engine_renders(name: str, tmp_path: Path) -> None:
    ds = CASES[name]
    compared = compare("file", written(ds, tmp_path), tmp_path)
    assert compared is not None
    frames = int(ds.get("NumberOfFrames", 1))
    assert compared.pixels == ROWS * COLUMNS * frames * compared.windows
    assert compared.windows == (2 if "two windows" in name else 1)
    assert compared.holds, compared


def test_another_window_than_the_viewers_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(ds: Dataset, frame: int, center: float, width: float) -> object:
        return rendering_of(ds, frame, center + 20, width)

    monkeypatch.setattr(viewer, "rendering_of", shifted)
    compared = compare("file", written(CASES["unsigned"], tmp_path), tmp_path)
    assert compared is not None
    assert compared.largest > 1
    assert not compared.holds


def test_what_cannot_be_compared_does_not_hold(tmp_path: Path) -> None:
    bare = compare("file", written(grey(), tmp_path), tmp_path)
    assert bare is not None
    assert bare.failure == "frame 1 has no window"
    assert not bare.holds
    bent = grey(WindowCenter="9", WindowWidth="9", VOILUTFunction="SIGMOID")
    compared = compare("file", written(bent, tmp_path), tmp_path)
    assert compared is not None
    assert not compared.holds


def test_an_object_cut_short_does_not_hold(tmp_path: Path) -> None:
    ds = grey(WindowCenter="9", WindowWidth="9")
    ds.PixelData = ds.PixelData[: ROWS * COLUMNS]
    compared = compare("file", written(ds, tmp_path), tmp_path)
    assert compared is not None
    assert "pydicom reads no pixels" in compared.failure
    assert not compared.holds


def test_colour_has_no_window_to_compare(tmp_path: Path) -> None:
    ds = grey(PhotometricInterpretation="RGB", SamplesPerPixel=3)
    assert compare("file", written(ds, tmp_path), tmp_path) is None


def test_windows_of_functional_groups_come_before_the_data_sets() -> None:
    ds = grey(WindowCenter="1", WindowWidth="2")
    assert [w.number for w in windows_of(ds, 0)] == [1]
    ds.SharedFunctionalGroupsSequence = [voi(3, 4)]
    assert [(w.number, w.center) for w in windows_of(ds, 0)] == [(0, 3.0)]
