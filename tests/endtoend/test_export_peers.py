"""Exports to DCMTK's storescp: what it refuses, how it dies, and where it all goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from tests.endtoend.peers import storescp
from tests.gateway.exporting import Exports

pytestmark = [pytest.mark.peers, pytest.mark.slow]

FILES = ("CT_small.dcm", "MR_small_RLE.dcm")


def kept(directory: Path) -> dict[str, Path]:
    found = [path for path in directory.iterdir() if path.suffix != ".log"]
    return {str(dcmread(path).SOPInstanceUID): path for path in found}


def same_pixels(path: Path, name: str) -> bool:
    before = dcmread(str(get_testdata_file(name, download=False)))
    return np.array_equal(dcmread(path).pixel_array, before.pixel_array)


@pytest.mark.parametrize(
    ("flag", "syntax"), [("+xi", ImplicitVRLittleEndian), ("+xr", RLELossless)]
)
def test_storescp_gets_what_it_takes(tmp_path: Path, flag: str, syntax: str) -> None:
    outside = tmp_path / "outside"
    with storescp(outside, "OUTSIDE", syntaxes=flag) as port:
        exports = Exports(
            tmp_path, port, transfer_syntaxes=["rle", "implicit-little-endian"]
        )
        uids = exports.owe(*FILES)
        assert exports.attempt() is False
        assert exports.states == ["sent", "sent"]
        exports.close()
    files = kept(outside)
    assert set(files) == set(uids)
    for uid, name in zip(uids, FILES, strict=True):
        assert dcmread(files[uid]).file_meta.TransferSyntaxUID == syntax
        assert same_pixels(files[uid], name)


@pytest.mark.parametrize("flag", ["--refuse", "--abort-after", "--abort-during"])
def test_storescp_that_refuses_or_dies_is_followed_by_another(
    tmp_path: Path, flag: str
) -> None:
    with (
        storescp(tmp_path / "first", "OUTSIDE", flag) as first,
        storescp(tmp_path / "second", "SECOND") as second,
    ):
        other = {"ae_title": "SECOND", "host": "127.0.0.1", "port": second}
        exports = Exports(tmp_path, first, failover=[other | {"plain": True}])
        uids = exports.owe(*FILES)
        assert exports.attempt() is False
        assert exports.states == ["sent", "sent"]
        assert {p.address for p in exports.parts} == {f"SECOND@127.0.0.1:{second}"}
        exports.close()
    assert set(kept(tmp_path / "second")) == set(uids)


def test_storescp_that_pads_uids_and_is_killed_between_objects(tmp_path: Path) -> None:
    with storescp(tmp_path / "outside", "OUTSIDE", "--uid-padding") as port:
        exports = Exports(tmp_path, port)
        exports.owe(*FILES)
        allowed = iter([True, False])
        exporter = exports.exporter
        assert exporter.attempt(exports.revision, "outside", lambda: next(allowed))
        assert exports.states == ["sent", "pending"]
    assert exports.attempt() is True  # it is gone, the kept association with it
    with storescp(tmp_path / "again", "OUTSIDE") as port:
        exports.at(port)
        assert exports.attempt() is False
        assert exports.states == ["sent", "sent"]
        exports.close()
    assert len(kept(tmp_path / "outside")) == 1
    assert len(kept(tmp_path / "again")) == 1
