"""Objects that memory does not hold: the same octets as of those it does hold."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import compress
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

import gateway.dicom.parse
import gateway.dicom.restore
import gateway.stages.draft
import gateway.stages.protect
import gateway.vault.large
import gateway.vault.seal
import gateway.vault.shell
from gateway.dicom.lenient import lenient, text
from gateway.dicom.pixels import Reading, working_bytes
from gateway.dicom.restore import restored
from gateway.errors import InvalidSeal, RecoveryRefused, Unprotectable
from gateway.route.treatment import Treatment
from gateway.sealing.master import LocalMasterKey
from gateway.stages.draft import Draft, Original
from gateway.stages.frame_reports import MOST, frames_json
from gateway.stages.marking import Marking, Memory
from gateway.stages.protect import ProtectedObject
from gateway.stages.recipe import Recipe
from gateway.store.octets import FileOctets, LazyOctets
from gateway.store.spool import Spool
from gateway.vault.codec import unpack_bytes
from gateway.vault.large import PackedOctets, Packer
from gateway.vault.vault import Vault
from tests.gateway.object_cases import (
    EXPLICIT,
    FastProtector,
    FastReport,
    as_file,
    corpus,
    corpus_file,
    encoded,
    grey_dataset,
    protect_one,
)

READING = Reading(max_frames=200)
SMALL = 1_500_000


def treat_all_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything handled as what does not fit into memory."""
    monkeypatch.setattr(gateway.stages.draft, "Spool", partial(Spool, in_memory=0))
    for module, name in (
        (gateway.vault.large, "LARGE"),
        (gateway.vault.shell, "LARGE"),
        (gateway.vault.seal, "AT_ONCE"),
        (gateway.dicom.restore, "AT_ONCE"),
        (gateway.dicom.parse, "INFLATED_AT_ONCE"),
    ):
        monkeypatch.setattr(module, name, 0)


def many_framed() -> list[Path]:
    """Every multi-frame file of the corpus that is not broken."""
    found = []
    for path in corpus():
        if path.stat().st_size < SMALL:
            with lenient():
                head = dcmread(path, stop_before_pixels=True)
                frames = text(head, "NumberOfFrames")
            if frames.isdigit() and 1 < int(frames) <= 20:
                found.append(path)
    return found


def odd(bits: int, syntax: str) -> bytes:
    """Three frames of odd length, with an overlay bit above those stored."""
    rng = np.random.default_rng(bits)
    kind = np.uint8 if bits <= 8 else np.uint16
    frames = rng.integers(0, 1 << bits, (3, 43, 41)).astype(kind)
    if bits == 12:
        frames |= (rng.integers(0, 2, frames.shape) << 13).astype(kind)
    dataset = grey_dataset(frames, bits_stored=bits)
    dataset.file_meta = dcmread(corpus_file("MR_small.dcm")).file_meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.set_original_encoding(False, True)
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    if syntax in {RLELossless, JPEGLSLossless}:
        compress(dataset, syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = frames.astype(frames.dtype.newbyteorder(">")).tobytes()
        dataset.PixelData += b"\0" * (len(dataset.PixelData) % 2)
    dataset.file_meta.TransferSyntaxUID = syntax
    return as_file(dataset)


CASES = [pytest.param(path.read_bytes(), id=path.name) for path in many_framed()] + [
    pytest.param(odd(bits, syntax), id=f"{bits} bits, {syntax.name}")
    for bits, syntax in (
        (8, ExplicitVRLittleEndian),
        (12, ExplicitVRLittleEndian),
        (16, ExplicitVRLittleEndian),
        (12, ExplicitVRBigEndian),
        (12, DeflatedExplicitVRLittleEndian),
        (16, RLELossless),
        (12, JPEGLSLossless),
    )
]


class Frozen(datetime):
    """Always the same time: it is written into the objects."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)


def made_of(original: Original, custody: str) -> ProtectedObject | str:
    recipe = Recipe(treatment=Treatment(custody=custody))
    try:
        return protect_one(original, recipe=recipe, reading=READING, batch_frames=3)
    except Unprotectable as error:
        return error.reason


@pytest.mark.parametrize("data", CASES)
def test_large_objects_are_made_and_come_back_as_small_ones(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.stages.protect, "datetime", Frozen)
    small = made_of(Original(data=data, kind="file"), "auto")
    treat_all_as_large(monkeypatch)
    (tmp_path / "original").write_bytes(data)
    with (tmp_path / "original").open("rb") as file:
        large = made_of(Original(data=FileOctets(file), kind="file"), "auto")
    if isinstance(small, str) or isinstance(large, str):
        assert small == large
        return

    assert [p.part10 for p in large.parts] == [p.part10 for p in small.parts]
    assert not any(isinstance(part.octets, bytes) for part in large.parts)
    assert large.record == small.record
    assert large.report["frames"] == small.report["frames"]
    vault = Vault(tmp_path / "vault", LocalMasterKey(b"m" * 32))
    vault.put(large.record)
    record = vault.get(large.sop_instance_uid)
    assert record == small.record
    files = {part.sop_instance_uid: part.octets for part in large.parts}
    back = restored(files.__getitem__, record)
    assert isinstance(back, LazyOctets)
    assert back == data


def test_a_changed_protected_object_gives_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    treat_all_as_large(monkeypatch)
    data = corpus_file("emri_small.dcm").read_bytes()
    made = made_of(Original(data=data, kind="file"), "key")
    assert isinstance(made, ProtectedObject)
    changed = bytearray(made.part10)
    changed[-100] ^= 1
    with pytest.raises(RecoveryRefused):
        restored(lambda _: bytes(changed), made.record)


def test_a_large_record_is_authenticated_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    treat_all_as_large(monkeypatch)
    data = corpus_file("emri_small.dcm").read_bytes()
    made = made_of(Original(data=data, kind="file"), "sealed-original")
    assert isinstance(made, ProtectedObject)
    vault = Vault(tmp_path, LocalMasterKey(b"m" * 32))
    vault.put(made.record)
    (path,) = vault.paths()
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)
    with pytest.raises(InvalidSeal):
        vault.get(made.sop_instance_uid)


def test_octets_packed_piece_by_piece_unpack_as_a_whole_and_in_order() -> None:
    value = bytes(3_000_000) + b"something" * 200_000
    packer = Packer(len(value), Spool(in_memory=0))
    for start in range(0, len(value), 700_001):
        packer.write(value[start : start + 700_001])
    blob = packer.blob()

    assert unpack_bytes(blob) == value
    packed = PackedOctets(blob)
    assert packed[5:9] == value[5:9]
    assert packed[2_999_990:3_000_020] == value[2_999_990:3_000_020]
    assert packed[:10] == value[:10]  # back at the start
    assert packed == value


def test_a_frame_that_does_not_fit_is_held_before_it_is_read() -> None:
    """The remedy is named."""
    dataset = grey_dataset(np.zeros((2, 512, 512), np.uint16), bits_stored=12)
    original = Original(
        data=encoded(dataset), kind="data-set", transfer_syntax_uid=EXPLICIT
    )
    reading = Reading(max_frames=9, memory_bytes=working_bytes(512 * 512) - 1)
    with pytest.raises(Unprotectable, match=r"worker\.memory_bytes") as caught:
        protect_one(original, reading=reading)
    assert caught.value.reason == "too-large"


def test_batches_stay_within_their_memory() -> None:
    """After the first frame of a series, which is marked alone."""
    protector = Counting()
    dataset = grey_dataset(
        np.arange(9 * 64 * 64).reshape(9, 64, 64) % 4096, bits_stored=12
    )
    marking = Marking(
        protector=protector,
        batch_frames=8,
        series="series",
        memory=Memory(series="series", neighbour=object()),  # type: ignore[arg-type]
        progress=lambda *_: None,
        batch_bytes=3 * working_bytes(64 * 64),
    )
    original = Original(
        data=encoded(dataset), kind="data-set", transfer_syntax_uid=EXPLICIT
    )
    list(marking.mark([Draft(original, READING, traces=False)]))
    assert protector.batches[0] == 3


class Counting(FastProtector):
    """Notes how many frames it is given at once."""

    batches: list[int] = []  # noqa: RUF012 - of one test

    def protect_many(self, frames: Any, **settings: Any) -> Any:
        self.batches.append(len(frames))
        return super().protect_many(frames, **settings)


def test_reports_of_many_frames_are_bounded() -> None:
    reports = [FastReport(success=n % 1000 > 2) for n in range(10_000)]
    found = frames_json(reports)
    assert len(found["frames"]) <= MOST
    assert found["frames"][0] == {"frame": 1, "success": False}
    assert (found["count"], found["not_fooled_count"]) == (10_000, 30)
    assert found["not_fooled"][:2] == [(1, 3), (1001, 1003)]
    every_other = [FastReport(success=n % 2 > 0) for n in range(10_000)]
    assert len(frames_json(every_other)["not_fooled"]) == MOST
    assert frames_json(reports[:3]) == {"frames": [{"success": False}] * 3}


GROWTH = 40 << 20
"""Octets by which memory may grow while 108 MiB of frames pass, twice over."""

PROTECT = """
import resource, sys
from pathlib import Path
from benchmarks.big_files import write_object
from benchmarks.big_steps import StandIn
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import Reading
from gateway.dicom.restore import restored
from gateway.stages.draft import Draft, Original
from gateway.store.octets import FileOctets
from tests.gateway.object_cases import protect_one

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

class Watching(StandIn):
    marked = 0
    early = 0

    def protect_many(self, frames, **settings):
        self.marked += len(frames)
        if self.marked == 40:
            self.early = peak()
        return super().protect_many(frames, **settings)

path = Path(sys.argv[1])
write_object(path, "native", 256)
watching = Watching()
with path.open("rb") as file:
    made = protect_one(
        Original(data=FileOctets(file), kind="file"),
        protector=watching,
        reading=Reading(max_frames=1000),
        batch_frames=8,
    )
    files = {part.sop_instance_uid: part.octets for part in made.parts}
    back = restored(files.__getitem__, made.record)
    assert back == FileOctets(file)
print(peak() - watching.early)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    """134 MB are protected, checked and rebuilt; what is held at frame 40 is enough."""
    command = [sys.executable, "-c", PROTECT, str(tmp_path / "original")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600)
    grown = int(done.stdout)
    assert grown < GROWTH, f"{grown >> 20} MiB"
