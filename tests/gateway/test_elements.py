"""The head of a data set is read alike, wherever the blocks of the stream end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.uid import UID

from gateway.dicom import elements
from gateway.dicom.elements import LONGEST_VALUE_BYTES, read_elements
from gateway.errors import InvalidObject

FILES = (
    "CT_small.dcm",  # explicit
    "rtplan.dcm",  # implicit, sequences
    "ExplVR_BigEnd.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "693_UNCR.dcm",  # private sequences of undefined length
)
PIXELS = 0x7FE00010


def data_set_of(name: str) -> tuple[bytes, UID, dict[int, bytes]]:
    """Octets of a data set, its syntax, and pydicom's values before the pixels."""
    path = get_testdata_file(name, read=False, download=False)
    assert path is not None
    ds = dcmread(path, stop_before_pixels=True)
    content = Path(path).read_bytes()
    offset = 132 + 12 + ds.file_meta.FileMetaInformationGroupLength
    values = {}
    for tag in ds.keys():  # noqa: SIM118 - iterating converts the elements
        item = ds.get_item(tag)
        if isinstance(item, RawDataElement) and item.length <= LONGEST_VALUE_BYTES:
            values[int(tag)] = item.value or b""
    return content[offset:], ds.file_meta.TransferSyntaxUID, values


@pytest.mark.parametrize("block", [1, 7, 100, 4096])
@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_pydicom(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "BLOCK_BYTES", block)
    content, syntax, expected = data_set_of(name)
    found = read_elements(io.BytesIO(content), syntax, PIXELS - 1).values
    assert len(expected) > 20
    assert {tag: found[tag] for tag in expected} == expected


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_a_data_set_cut_off_anywhere_is_refused_or_short(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "BLOCK_BYTES", block)
    content, syntax, _ = data_set_of("CT_small.dcm")
    whole = read_elements(io.BytesIO(content), syntax).values
    refused = 0
    for size in range(0, 2000, 3):
        try:
            found = read_elements(io.BytesIO(content[:size]), syntax).values
        except InvalidObject:
            refused += 1
        else:
            assert found.items() <= whole.items()
    assert refused > 300


def test_octets_of_ascii_are_so_in_every_character_set() -> None:
    octets = bytes(range(0x20, 0x7F))
    for codec in set(python_encoding.values()):
        assert octets.decode(codec) == octets.decode("ascii"), codec
