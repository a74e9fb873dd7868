"""Real files and a fast stand-in for the engine, for the tests of objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from engine.errors import NoFeasiblePlacement
from engine.protection.values import Given, Neighbour
from engine.search.trace import Trace
from engine.types import SIT, Frame, FrameKey
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.pixels import Reading
from gateway.stages.draft import Original
from gateway.stages.marking import FrameProtector, Marking, Memory
from gateway.stages.protect import ObjectProtection, ProtectedObject, protect_object
from gateway.stages.recipe import PLAIN, Recipe
from gateway.vault.codec import pack_image
from gateway.vault.layout import PixelLayout, pack
from gateway.vault.record import KeyRecord, Kind, PixelCustody
from gateway.vault.shell import take_shell

DELTA_GRID = 24
LOGO_SHA256 = "00" * 32


@dataclass(frozen=True)
class FastReport:
    success: bool

    def as_dict(self) -> dict[str, Any]:
        return {"success": self.success}


@dataclass(frozen=True)
class FastFrame:
    stored: NDArray[np.int32]
    key: FrameKey
    report: FastReport
    trace: Trace | None = None
    neighbour: Neighbour | None = None


@dataclass(frozen=True)
class FastProtector:
    """The engine's own integer blend with a random mark and δ, without a search."""

    success: bool = True
    alpha: int | None = None

    def protect_many(
        self,
        frames: Sequence[Frame],
        *,
        seeds: Sequence[bytes],
        given: Sequence[Given],
        progress: Any,
    ) -> list[FastFrame | NoFeasiblePlacement]:
        assert len(frames) == len(given)
        progress("search", 1, 1)
        return [self.marked(*each) for each in zip(frames, seeds, strict=True)]

    def marked(self, frame: Frame, seed: bytes) -> FastFrame:
        rng = np.random.default_rng(list(seed))
        rows, columns = frame.stored.shape[:2]
        h, w = rng.integers(4, rows // 2), rng.integers(4, columns // 2)
        shape = (DELTA_GRID, DELTA_GRID, *frame.stored.shape[2:])
        delta = rng.integers(-8, 9, shape).astype(np.int8)
        mark = Mark(
            x=int(rng.integers(0, columns - w + 1)),
            y=int(rng.integers(0, rows - h + 1)),
            alpha=self.alpha or int(rng.integers(1, 256)),
            sit=SIT(rotation=float(rng.uniform(-45, 45)), hue=12.5),
            patch=random_patch(rng, int(h), int(w), grey=not frame.colour),
        )
        stored = add_mark(apply_delta(frame, delta), frame, mark)
        key = make_key(frame, stored, mark, delta=delta, logo_sha256=LOGO_SHA256)
        return FastFrame(stored=stored, key=key, report=FastReport(self.success))


def random_patch(
    rng: np.random.Generator, h: int, w: int, *, grey: bool
) -> NDArray[np.uint8]:
    """Premultiplied RGBA with transparent, soft and opaque parts."""
    matte = rng.choice(np.array([0, 0, 90, 200, 255]), (h, w, 1))
    colours = rng.integers(0, 256, (h, w, 1 if grey else 3)) * matte // 255
    return np.concatenate([np.broadcast_to(colours, (h, w, 3)), matte], axis=2).astype(
        np.uint8
    )


@cache
def corpus() -> tuple[Path, ...]:
    """Every Part 10 file of the installed packages."""
    roots = []
    for package, folder in (("pydicom", "data"), ("data_store", "data")):
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        roots += [Path(each) / folder for each in spec.submodule_search_locations]
    return tuple(
        path
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file() and _is_part10(path)
    )


def _is_part10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def corpus_file(name: str) -> Path:
    return next(path for path in corpus() if path.name == name)


def edited(name: str, **attributes: object) -> bytes:
    """A corpus file, decoded, with attributes set (None: removed), as a file."""
    dataset = dcmread(corpus_file(name))
    for keyword, value in attributes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return as_file(dataset)


def as_file(dataset: Dataset) -> bytes:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(stream, dataset)
    return stream.getvalue()


def grey_dataset(
    frames: NDArray[np.integer[Any]], *, bits_stored: int, signed: bool = False
) -> Dataset:
    """A minimal valid grey object; ``frames`` is (n, rows, columns)."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    dataset.Modality = "OT"
    count, dataset.Rows, dataset.Columns = frames.shape
    if count > 1:
        dataset.NumberOfFrames = count
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits_stored <= 8 else 16
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    kind = f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}"
    dataset.PixelData = frames.astype(kind).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def colour_dataset(frames: NDArray[np.uint8]) -> Dataset:
    """A minimal valid RGB object; ``frames`` is (n, rows, columns, 3)."""
    dataset = grey_dataset(frames[..., 0], bits_stored=8)
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.PixelData = frames.tobytes()
    return dataset


def look_up_table(first: int, values: NDArray[np.integer[Any]]) -> Dataset:
    """An item of a Modality or VOI LUT Sequence with 16-bit entries."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [len(values), first, 16])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return item


def encoded(dataset: Dataset) -> bytes:
    """Data set octets in explicit VR little endian, without file meta."""
    stream = BytesIO()
    dcmwrite(stream, dataset, implicit_vr=False, little_endian=True)
    return stream.getvalue()


EXPLICIT = str(ExplicitVRLittleEndian)


def protect_one(
    original: Original,
    *,
    protector: FrameProtector | None = None,
    uids: UidMapper | None = None,
    reading: Reading | None = None,
    recipe: Recipe = PLAIN,
    batch_frames: int = 1,
    progress: Any = lambda *_: None,
    **settings: Any,
) -> ProtectedObject:
    """Protect one original with the stand-in, or another protector."""
    marking = Marking(
        protector=protector or FastProtector(),
        batch_frames=batch_frames,
        series="series",
        memory=Memory(),
        progress=progress,
    )
    return protect_object(
        original,
        protection=ObjectProtection(
            marking=marking, uids=uids or UidMapper(b"u" * 32), **settings
        ),
        reading=reading or Reading(max_frames=200),
        recipe=recipe,
    )


def of(made: ProtectedObject) -> Callable[[str], bytes]:
    """Gives the protected objects to `restore`."""
    files = {part.sop_instance_uid: part.part10 for part in made.parts}
    return files.__getitem__


def only(part10: bytes) -> Callable[[str], bytes]:
    """Gives one protected object to `restore`, whatever is asked for."""
    return lambda _: part10


def protected_example(
    data: bytes | None = None, *, kind: Kind = "file", success: bool = True
) -> ProtectedObject:
    """A small real object, protected by the stand-in."""
    octets = corpus_file("MR_small.dcm").read_bytes() if data is None else data
    return protect_one(
        Original(
            data=octets, kind=kind, transfer_syntax_uid=EXPLICIT, name="MR_small.dcm"
        ),
        protector=FastProtector(success=success),
    )


@cache
def example_record(custody: str) -> KeyRecord:
    """A record of each custody: ``key``, ``pixels``, ``whole``."""
    name = "MR_small.dcm" if custody == "key" else "MR_small_RLE.dcm"
    record = protected_example(corpus_file(name).read_bytes()).record
    if custody != "pixels":
        return record
    stored = np.arange(2 * 40 * 48, dtype=np.int32).reshape(2, 40, 48) - 900
    layout = PixelLayout(
        rows=40, columns=48, samples=1, frames=2, bits_allocated=16, signed=True
    )
    received = b"before" + pack(list(stored), layout) + b"after"
    shell = take_shell(received, (6, len(received) - 5), layout, list(stored))
    return replace(
        record,
        marks=record.marks * 2,
        custody=PixelCustody(shell=shell, frames=tuple(map(pack_image, stored))),
    )
