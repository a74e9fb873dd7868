"""Records as octets: every value comes back, and version 1 stays readable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gateway.dicom.restore import restore
from gateway.errors import InvalidSeal
from gateway.sealing.master import FileMasterKey
from gateway.vault.codec import (
    pack_array,
    pack_bytes,
    pack_image,
    unpack_array,
    unpack_bytes,
)
from gateway.vault.container import HEAD, decode_record, encode_record
from gateway.vault.layout import PixelLayout, pack, unpack
from gateway.vault.record import (
    KeyCustody,
    KeyRecord,
    PixelCustody,
    WholeCustody,
    links_of,
)
from gateway.vault.seal import unseal
from gateway.vault.shell import fill_shell, take_shell
from tests.gateway.object_cases import example_record, only

VECTORS = Path(__file__).parents[1] / "vectors"
CUSTODIES = ("key", "pixels", "whole")

arrays = st.one_of(
    hnp.arrays(
        kind,
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=9),
    )
    for kind in (np.uint8, np.int8, np.int32)
)


def images() -> st.SearchStrategy[NDArray[np.int32]]:
    shape = st.one_of(
        st.tuples(st.integers(8, 20), st.integers(8, 20)),
        st.tuples(st.integers(8, 20), st.integers(8, 20), st.just(3)),
    )
    top = st.sampled_from([1, 200, 30_000, 40_000, 2**31 - 1])
    return shape.flatmap(
        lambda size: top.flatmap(
            lambda most: hnp.arrays(np.int32, size, elements=st.integers(-most, most))
        )
    )


@given(arrays)
def test_arrays_come_back(array: NDArray[Any]) -> None:
    again = unpack_array(pack_array(array))
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


@given(images())
def test_images_come_back(image: NDArray[np.int32]) -> None:
    assert np.array_equal(unpack_array(pack_image(image)), image)


def test_smooth_images_are_kept_as_jpeg_ls() -> None:
    y, x = np.mgrid[:200, :200]
    noise = np.random.default_rng(1).integers(0, 5, (200, 200))
    smooth = (1000 + 900 * np.sin(x / 40) * np.cos(y / 50)).astype(np.int32) + noise
    assert pack_image(smooth.astype(np.int32)).codec == "jpeg-ls"


@given(st.binary(max_size=500))
def test_octets_come_back(value: bytes) -> None:
    assert unpack_bytes(pack_bytes(value)) == value


layouts = st.builds(
    PixelLayout,
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    samples=st.sampled_from([1, 3]),
    frames=st.integers(1, 3),
    bits_allocated=st.sampled_from([8, 16]),
    signed=st.booleans(),
    big_endian=st.booleans(),
    planar=st.booleans(),
)


@given(layouts, st.data())
def test_received_octets_come_back(layout: PixelLayout, data: st.DataObject) -> None:
    """Whatever the value holds beside the stored values: odd bits, padding."""
    value = data.draw(
        st.binary(min_size=layout.total_bytes, max_size=layout.total_bytes + 3)
    )
    prefix, suffix = data.draw(st.binary(max_size=9)), data.draw(st.binary(max_size=9))
    frames = [frame & 0x7F for frame in unpack(value, layout)]
    received = prefix + value + suffix
    bounds = (len(prefix), len(prefix) + len(value))
    shell = take_shell(received, bounds, layout, frames)
    assert fill_shell(shell, frames) == received


@given(layouts)
def test_unpack_is_the_inverse_of_pack(layout: PixelLayout) -> None:
    rng = np.random.default_rng(layout.total_bytes)
    info = np.iinfo(layout.dtype)
    size = (layout.frames, *layout.shape)
    frames = rng.integers(info.min, info.max + 1, size).astype(np.int32)
    again = unpack(pack(list(frames), layout), layout)
    assert np.array_equal(np.stack(again), frames)


def test_short_value_is_no_frames() -> None:
    layout = PixelLayout(
        rows=4, columns=4, samples=1, frames=2, bits_allocated=16, signed=False
    )
    with pytest.raises(ValueError, match="64 expected"):
        unpack(b"\0" * 63, layout)


def same(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray):
        assert isinstance(second, np.ndarray)
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, tuple):
        assert isinstance(second, tuple)
        pairs = zip(first, second, strict=True)
        return all(same(one, other) for one, other in pairs)
    if isinstance(first, KeyRecord | KeyCustody | PixelCustody | WholeCustody):
        names = [field.name for field in fields(first)]
        return all(same(getattr(first, n), getattr(second, n)) for n in names)
    if type(first).__name__ == "FramePlanes":
        return all(
            same(getattr(first, n), getattr(second, n))
            for n in ("patch", "delta", "residual")
        )
    return first == second


@pytest.mark.parametrize("custody", CUSTODIES)
def test_every_value_of_a_record_comes_back(custody: str) -> None:
    record = example_record(custody)
    again = decode_record(encode_record(record))
    assert same(again, record)
    assert encode_record(again) == encode_record(record)


@pytest.mark.parametrize("custody", CUSTODIES)
def test_damaged_records_are_refused(custody: str) -> None:
    octets = encode_record(example_record(custody))
    header = HEAD.size + HEAD.unpack_from(octets)[2]
    for altered in (
        b"",
        octets[: HEAD.size],
        octets[:header],
        octets[:-1],
        octets + b"\0",
        b"X" + octets[1:],
        octets[:7] + b"\1" + octets[8:],
        octets[:7] + b"\3" + octets[8:],
        octets[:header] + b"\0" * (len(octets) - header),
    ):
        with pytest.raises(InvalidSeal):
            decode_record(altered)


# Vectors of version 1: octets written once; every later version has to read them.


def vectors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "record-v1.json").read_text())
    return found


@pytest.mark.parametrize("custody", CUSTODIES)
def test_vectors_of_version_1(custody: str) -> None:
    expected = vectors()["records"][custody]
    record = decode_record((VECTORS / expected["file"]).read_bytes())
    assert record.custody_name == expected["custody"]
    assert record.protected_uid == expected["protected_uid"]
    assert record.original_uid == expected["original_uid"]
    assert record.original_sha256 == expected["original_sha256"]
    assert record.marks[0].rendering.lo == expected["lo"]
    assert [mark.alpha for mark in record.marks] == expected["alphas"]
    protected = (VECTORS / expected["protected"]).read_bytes()
    original = restore(only(protected), record)
    assert hashlib.sha256(original).hexdigest() == expected["original_sha256"]


def test_sealed_vector_of_version_1(tmp_path: Path) -> None:
    expected = vectors()["sealed"]
    key = tmp_path / "master.key"
    key.touch(mode=0o600)
    key.write_bytes(bytes.fromhex(expected["master_key"]))
    sealed = (VECTORS / expected["file"]).read_bytes()
    record = unseal(sealed, expected["protected_uid"], FileMasterKey(key))
    assert encode_record(record) == encode_record(
        decode_record((VECTORS / vectors()["records"]["key"]["file"]).read_bytes())
    )


# Vectors of version 2: key with a narrower preset, frames that became objects of
# their own, sealed originals of both forms, an object without a picture.


def vectors_2() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "record-v2.json").read_text())
    return found


@pytest.mark.parametrize("name", ["key", "parts", "pixels", "whole", "follower"])
def test_vectors_of_version_2(name: str) -> None:
    expected = vectors_2()["records"][name]
    record = decode_record((VECTORS / expected["file"]).read_bytes())
    assert isinstance(record, KeyRecord)
    assert record.custody_name == expected["custody"]
    assert record.original_uid == expected["original_uid"]
    assert [mark.alpha for mark in record.marks] == expected["alphas"]
    assert [mark.delta_unit.hex() for mark in record.marks] == expected["delta_units"]
    assert [part.uid for part in record.parts] == list(expected["protected"])
    links = [decode_record((VECTORS / n).read_bytes()) for n in expected["links"]]
    assert links == list(links_of(record))
    protected = expected["protected"]
    original = restore(lambda uid: (VECTORS / protected[uid]).read_bytes(), record)
    assert hashlib.sha256(original).hexdigest() == expected["original_sha256"]


def test_version_2_knows_a_narrower_window_than_that_of_the_mark() -> None:
    record = decode_record((VECTORS / "record-v2-key.bin").read_bytes())
    assert isinstance(record, KeyRecord)
    (mark,) = record.marks
    assert mark.delta_unit < mark.rendering.unit


def test_sealed_vector_of_version_2(tmp_path: Path) -> None:
    expected = vectors_2()["sealed"]
    key = tmp_path / "master.key"
    key.touch(mode=0o600)
    key.write_bytes(bytes.fromhex(expected["master_key"]))
    sealed = (VECTORS / expected["file"]).read_bytes()
    plain = vectors_2()["records"][expected["record"]]
    (uid,) = plain["protected"]
    record = unseal(sealed, uid, FileMasterKey(key))
    assert encode_record(record) == (VECTORS / plain["file"]).read_bytes()


def test_equal_pieces_are_kept_once() -> None:
    """Neighbouring frames may carry the same patch."""
    record = example_record("key")
    custody = record.custody
    assert isinstance(custody, KeyCustody)
    doubled = replace(
        record,
        marks=record.marks * 2,
        custody=replace(custody, planes=custody.planes * 2),
    )
    assert len(encode_record(doubled)) < len(encode_record(record)) + 200
    assert same(decode_record(encode_record(doubled)), doubled)
