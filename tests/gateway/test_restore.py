"""Recovery: the original octets, or nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from gateway.dicom.pixels import Reading
from gateway.dicom.restore import restore, restorer
from gateway.errors import RecoveryRefused
from gateway.route.treatment import Treatment
from gateway.stages.draft import Original
from gateway.stages.recipe import Recipe
from gateway.vault.codec import pack_array, unpack_array
from gateway.vault.record import KeyCustody, KeyRecord
from gateway.vault.vault import open_vault
from tests.gateway.object_cases import (
    EXPLICIT,
    FastProtector,
    as_file,
    corpus_file,
    encoded,
    example_record,
    grey_dataset,
    of,
    only,
    protect_one,
    protected_example,
)
from tests.gateway.stored import a_store

APART = Reading(max_frames=9, split_frames="always")


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 16),
    signed=st.booleans(),
    frames=st.integers(1, 3),
    alpha=st.integers(1, 255),
    seed=st.integers(0, 2**32 - 1),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
def test_every_grey_object_comes_back(
    bits: int, signed: bool, frames: int, alpha: int, seed: int, photometric: str
) -> None:
    """Blend, derive, record, restore, for any depth, sign, opacity and window."""
    rng = np.random.default_rng(seed)
    low = -(1 << (bits - 1)) if signed else 0
    values = rng.integers(low, low + (1 << bits), (frames, 37, 41))
    dataset = grey_dataset(values, bits_stored=bits, signed=signed)
    dataset.PhotometricInterpretation = photometric
    dataset.SOPInstanceUID = f"1.2.3.{seed}"
    if rng.random() < 0.7:
        dataset.WindowCenter = str(int(rng.integers(low, low + (1 << bits))))
        dataset.WindowWidth = str(int(rng.integers(1, 1 << bits)))
        dataset.RescaleSlope = str(rng.choice([-1, 0.25, 1, 3]))
        dataset.RescaleIntercept = str(int(rng.integers(-2000, 2000)))
    if rng.random() < 0.5:
        dataset.PixelPaddingValue = int(rng.integers(low, low + (1 << bits)))
        dataset["PixelPaddingValue"].VR = "SS" if signed else "US"
    original = Original(
        data=encoded(dataset), kind="data-set", transfer_syntax_uid=EXPLICIT
    )
    presets = ((float(rng.uniform(-500, 3000)), float(rng.uniform(2, 4000))),)
    reading = Reading(
        max_frames=9,
        windows=presets if rng.random() < 0.5 else (),
        split_frames="always" if rng.random() < 0.3 else "auto",
    )
    recipe = Recipe(treatment=Treatment(custody="key"))
    made = protect_one(
        original,
        protector=FastProtector(alpha=alpha),
        reading=reading,
        recipe=recipe,
        batch_frames=2,
    )
    assert made.record.custody_name == "key"
    assert restore(of(made), made.record) == original.data


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([8, 16]),
    planar=st.sampled_from([0, 1]),
    frames=st.integers(1, 2),
    alpha=st.integers(1, 255),
    odd=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_colour_object_comes_back(
    bits: int, planar: int, frames: int, alpha: int, odd: bool, seed: int
) -> None:
    """RGB of both planar configurations, with and without a padding octet."""
    rng = np.random.default_rng(seed)
    rows = 37 if odd else 38
    shape = (frames, 3, rows, 41) if planar else (frames, rows, 41, 3)
    dataset = grey_dataset(np.zeros((frames, rows, 41)), bits_stored=bits)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = planar
    kind = "u1" if bits == 8 else "<u2"
    values = rng.integers(0, 1 << bits, shape).astype(kind).tobytes()
    dataset.PixelData = values + b"\x7f" * (len(values) % 2)
    original = Original(
        data=encoded(dataset), kind="data-set", transfer_syntax_uid=EXPLICIT
    )
    recipe = Recipe(treatment=Treatment(custody="key"))
    made = protect_one(
        original, protector=FastProtector(alpha=alpha), recipe=recipe, batch_frames=3
    )
    assert made.record.custody_name == "key"
    assert restore(of(made), made.record) == original.data


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
def test_lossless_syntaxes_on_the_way_do_no_harm(syntax: str) -> None:
    made = protected_example()
    travelled = dcmread(BytesIO(made.part10))
    if syntax == ImplicitVRLittleEndian:
        travelled.file_meta.TransferSyntaxUID = syntax
        travelled = dcmread(BytesIO(as_file(travelled)))
    else:
        travelled.compress(syntax, generate_instance_uid=False)
    original = corpus_file("MR_small.dcm").read_bytes()
    assert restore(only(as_file(travelled)), made.record) == original


def with_pixel(part10: bytes) -> bytes:
    dataset = dcmread(BytesIO(part10))
    pixels = bytearray(dataset.PixelData)
    pixels[100] ^= 1
    dataset.PixelData = bytes(pixels)
    return as_file(dataset)


def test_a_changed_pixel_is_refused() -> None:
    made = protected_example()
    with pytest.raises(RecoveryRefused, match="changed"):
        restore(only(with_pixel(made.part10)), made.record)


def test_changed_attributes_do_no_harm() -> None:
    made = protected_example()
    dataset = dcmread(BytesIO(made.part10))
    dataset.PatientName = "Somebody^Else"
    original = corpus_file("MR_small.dcm").read_bytes()
    assert restore(only(as_file(dataset)), made.record) == original


def test_record_of_another_object_is_refused() -> None:
    other = protected_example(corpus_file("CT_small.dcm").read_bytes())
    with pytest.raises(RecoveryRefused, match="another object"):
        restore(only(other.part10), protected_example().record)


def damaged_records() -> list[KeyRecord]:
    record = example_record("key")
    custody = record.custody
    assert isinstance(custody, KeyCustody)
    planes = custody.planes[0]
    residual = unpack_array(planes.residual).astype(np.int32)
    residual[0, 0] += 1
    wrong = replace(custody, planes=(replace(planes, residual=pack_array(residual)),))
    shell = replace(custody.shell, prefix=custody.shell.prefix[:-1] + b"\7")
    return [
        replace(record, custody=wrong),
        replace(record, custody=replace(custody, shell=shell)),
        replace(record, custody=replace(custody, planes=())),
        replace(record, original_sha256="0" * 64),
        replace(record, original_size=record.original_size + 1),
        replace(record, marks=(replace(record.marks[0], x=record.marks[0].x + 60),)),
    ]


@pytest.mark.parametrize("case", range(6))
def test_what_does_not_have_the_digest_is_not_handed_out(case: int) -> None:
    record = damaged_records()[case]
    with pytest.raises(RecoveryRefused):
        restore(only(protected_example().part10), record)


@pytest.mark.parametrize("octets", [b"", b"\0" * 128 + b"DICM", b"text" * 100])
def test_what_is_no_object_is_refused(octets: bytes) -> None:
    with pytest.raises(RecoveryRefused):
        restore(only(octets), example_record("key"))


@dataclass(frozen=True)
class Row:
    sha256: str
    sop_instance_uid: str = ""


def test_restorer_reads_store_and_vault(tmp_path: Path) -> None:
    made = protected_example()
    store = a_store(tmp_path / "store")
    store.write_protected(made.sop_instance_uid, made.part10)
    vault = open_vault(tmp_path / "vault", tmp_path / "master.key")
    vault.put(made.record)
    give_back = restorer(store, vault)
    protected = Row("", made.sop_instance_uid)
    instance = Row(made.record.original_sha256)
    original = corpus_file("MR_small.dcm").read_bytes()
    assert give_back(instance, protected) == original  # type: ignore[arg-type]
    with pytest.raises(RecoveryRefused, match="other received octets"):
        give_back(Row("0" * 64), protected)  # type: ignore[arg-type]


def test_frames_that_became_objects_of_their_own_come_back_together(
    tmp_path: Path,
) -> None:
    """Whichever of the objects is asked with, in whatever custody."""
    data = corpus_file("eCT_Supplemental.dcm").read_bytes()
    original = Original(data=data, kind="file")
    for custody in ("key", "sealed-original"):
        recipe = Recipe(treatment=Treatment(custody=custody))
        made = protect_one(original, recipe=recipe, reading=APART)
        assert len(made.parts) == len(made.record.parts) == 2
        vault = open_vault(tmp_path / custody, tmp_path / "master.key")
        vault.put(made.record)
        for part in made.parts:
            record = vault.get(part.sop_instance_uid)
            assert record == made.record
            assert restore(of(made), record) == original.data


def test_a_missing_part_is_named() -> None:
    data = corpus_file("eCT_Supplemental.dcm").read_bytes()
    recipe = Recipe(treatment=Treatment(custody="key"))
    made = protect_one(Original(data=data, kind="file"), recipe=recipe, reading=APART)
    with pytest.raises(RecoveryRefused, match="another object"):
        restore(only(made.part10), made.record)


def test_recovery_never_loads_torch() -> None:
    code = (
        "import sys, gateway.dicom.restore, gateway.vault.vault;"
        "sys.exit('torch' in sys.modules or 'highdicom' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
