"""How long a volume and a cine take in the gateway's worker, and in how much memory.

    python -m benchmarks.series [--slices 500] [--frames 100] [--random] [--out FILE]

Each case runs in a process of its own: what the receiver stores is protected by the
worker's own step (models, δ, search, record, verification), with default settings.
With ``--random`` marks are drawn at random in place of models, δ and search: what is
left is the gateway's own time and memory, quick enough for any number of slices.
The ratio printed is of peak memory above that of an empty worker with its models
loaded, to the octets received: a bound that does not hold all frames would be far
below, one that does (32-bit integers and floats of all frames) far above.

- ``volume``: CT of 512x512, 16 bits, one instance per slice. Slices are made from the
  one real CT slice of pydicom-data by shifting and scaling, so that neighbours are
  alike as in a real volume.
- ``enhanced``: the same slices as one enhanced CT object; frames become objects.
- ``cine``: ultrasound of 640x480, 8-bit RGB, frames made likewise from a real one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage

from benchmarks.random_mark import RandomMark
from config.schema import Protection as Settings
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.pixels import Reading
from gateway.route.treatment import PLAIN
from gateway.sealing.master import FileMasterKey
from gateway.stages.flow import Wanted
from gateway.stages.flow_protect import Choosing, Protection
from gateway.stages.protectors import Protectors
from gateway.stages.recipe import Recipe
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index, timestamp, utc_now
from gateway.store.part10 import FileMeta
from gateway.store.rows import Instance, NewInstance
from gateway.vault.vault import open_vault

CASES: Final = ("volume", "enhanced", "cine")
TOGETHER: Final = 16
ROOT: Final = "1.2.826.0.1.3680043.8.498.77"
MIB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one case took.

    ``octets`` were received; ``first`` and ``peak`` are resident memory in octets
    after the first frame's models were loaded and at its highest.
    """

    case: str
    frames: int
    octets: int
    objects: int
    misled: int
    queries: float
    seconds: float
    first: int
    peak: int
    record_octets: int

    @property
    def ratio(self) -> float:
        """Memory above the loaded models, to the octets received."""
        return (self.peak - self.first) / self.octets


def measure(case: str, count: int, *, random: bool) -> Outcome:
    """Run one case in this process."""
    with tempfile.TemporaryDirectory(prefix="miad-series-") as folder:
        root = Path(folder)
        index, store = _opened(root)
        choosing = RandomChoice() if random else Protectors(Settings())
        protection = _protection(root, index, store, choosing)
        warm_up = _received(store, index, _slice(_ct(), 0, 3), 0)
        list(protection.protect([Wanted(instance=warm_up, treatments=(PLAIN,))]))
        protection = _protection(root, index, store, choosing)
        first = _peak()
        _in_a_process_of_its_own(root, case, count)
        instances = index.instances_in_state("received")
        clock = time.perf_counter()
        for start in range(0, len(instances), TOGETHER):
            together = instances[start : start + TOGETHER]
            wanted = [Wanted(instance=one, treatments=(PLAIN,)) for one in together]
            for result in protection.protect(wanted):
                if result.failure is not None:
                    raise result.failure
        seconds = time.perf_counter() - clock
        rows = [index.protected_parts(one.id, "") for one in instances]
        reports = [frame for parts in rows for frame in parts[0].report["frames"]]
        outcome = Outcome(
            case=case,
            frames=len(reports),
            octets=sum(one.size_bytes for one in instances),
            objects=sum(map(len, rows)),
            misled=sum(report.get("success", 0) for report in reports),
            queries=sum(report.get("evaluated", 0) for report in reports)
            / len(reports),
            seconds=seconds,
            first=first,
            peak=_peak(),
            record_octets=sum(parts[0].report["record_bytes"] for parts in rows),
        )
        index.close()
        return outcome


class RandomChoice:
    """Marks at random, for whatever image."""

    keywords: frozenset[str] = frozenset()

    def choose(self, _attributes: object) -> RandomMark:
        """Return what marks at random."""
        return RandomMark()

    def reading(self, _attributes: object) -> Reading:
        """Return the reading of a site that says nothing."""
        return Reading(max_frames=Settings().max_frames)


def _protection(
    root: Path, index: Index, store: FileStore, protectors: Choosing
) -> Protection:
    settings = Settings()
    return Protection(
        index=index,
        store=store,
        vault=open_vault(root / "vault", root / "master.key"),
        protectors=protectors,
        recipe=lambda treatment: Recipe(treatment=treatment),
        uids=UidMapper(bytes(32)),
        when_not_fooled=settings.when_not_fooled,
        batch_frames=settings.batch_frames,
    )


def _opened(root: Path) -> tuple[Index, FileStore]:
    """Index and store, sealed as in a site."""
    keys = FileMasterKey(root / "master.key")
    index = open_index(root / "index.sqlite", bytes(32))
    return index, FileStore(root / "store", keys, bytes(32))


def _in_a_process_of_its_own(root: Path, case: str, count: int) -> None:
    """Receive a case: what making it takes is not the worker's memory."""
    maker = get_context("spawn").Process(target=_receive, args=(root, case, count))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit(f"{case} could not be made")


def _receive(root: Path, case: str, count: int) -> None:
    index, store = _opened(root)
    for number, dataset in enumerate(_objects(case, count), start=1):
        _received(store, index, dataset, number)
    index.close()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _objects(case: str, count: int) -> Iterator[Dataset]:
    if case == "volume":
        for number in range(count):
            yield _slice(_ct(), number, count)
    elif case == "enhanced":
        yield _enhanced(_ct(), count)
    else:
        yield _cine(count)


def _ct() -> Dataset:
    return _file("693_UNCR.dcm")


def _file(name: str) -> Dataset:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return dcmread(path)


def _neighbour(
    picture: NDArray[np.generic], number: int, count: int
) -> NDArray[np.generic]:
    """Make slice or frame `number`: the picture moved and scaled a little."""
    turn = 2 * np.pi * number / max(count, 2)
    scale = 1 + 0.06 * np.sin(turn)
    shift = np.array([6 * np.cos(turn), 4 * np.sin(2 * turn)])
    middle = np.array(picture.shape[:2]) / 2
    planes = picture if picture.ndim == 3 else picture[..., None]
    moved = [
        ndimage.affine_transform(
            planes[..., plane],
            np.diag([1 / scale, 1 / scale]),
            middle - (middle + shift) / scale,
            order=1,
            mode="nearest",
        )
        for plane in range(planes.shape[-1])
    ]
    return np.stack(moved, axis=-1).reshape(picture.shape).astype(picture.dtype)


def _slice(base: Dataset, number: int, count: int) -> Dataset:
    pixels = _neighbour(base.pixel_array, number, count)
    base.PixelData = pixels.tobytes()
    base.InstanceNumber = number + 1
    base.SOPInstanceUID = f"{ROOT}.1.{number + 1}"
    return base


def _enhanced(base: Dataset, count: int) -> Dataset:
    """Enhanced CT with what the gateway reads of it; not a conformant object."""
    frames = [_neighbour(base.pixel_array, n, count) for n in range(count)]
    base.SOPClassUID = EnhancedCTImageStorage
    base.SOPInstanceUID = f"{ROOT}.2.1"
    base.NumberOfFrames = count
    rescale, shared = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = "1", base.RescaleIntercept
    rescale.RescaleType = "HU"
    shared.PixelValueTransformationSequence = [rescale]
    base.SharedFunctionalGroupsSequence = [shared]
    base.PerFrameFunctionalGroupsSequence = [Dataset() for _ in frames]
    base.PixelData = b"".join(frame.tobytes() for frame in frames)
    return base


def _cine(count: int) -> Dataset:
    base = _file("US1_UNCR.dcm")
    frames = [_neighbour(base.pixel_array, n, count) for n in range(count)]
    base.NumberOfFrames = count
    base.SOPInstanceUID = f"{ROOT}.3.1"
    base.PixelData = b"".join(frame.tobytes() for frame in frames)
    base.PlanarConfiguration = 0
    return base


def _received(
    store: FileStore, index: Index, dataset: Dataset, number: int
) -> Instance:
    """Put an object into store and index as the receiver does."""
    stream = BytesIO()
    uid = f"{dataset.SOPInstanceUID}.{number}"
    dataset.SOPInstanceUID = uid
    dcmwrite(stream, Dataset(dataset), implicit_vr=False, little_endian=True)
    octets = stream.getvalue()
    meta = FileMeta(
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=uid,
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
    )
    stored = store.write_original(octets, meta)
    index.add_instance(
        NewInstance(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=uid,
            study_instance_uid=ROOT,
            series_instance_uid=f"{ROOT}.9",
            instance_number=str(number),
            sha256=hashlib.sha256(octets).hexdigest(),
            size_bytes=len(octets),
            path=stored.path,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae="CT",
            called_ae="GATEWAY",
            peer_address="127.0.0.1",
            received_at=timestamp(utc_now()),
        )
    )
    instance = index.instance(uid)
    assert instance is not None
    return instance


def _in_own_process(case: str, count: int, *, random: bool) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.series", "--case", case]
    command += ["--count", str(count), *(["--random"] if random else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (
            "| case | frames | received, MiB | s per frame | queries per frame "
            "| misled | objects | record, % of received | memory above models, MiB "
            "| to received |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {o.case} | {o.frames} | {o.octets / MIB:.0f} | {o.seconds / o.frames:.2f} "
        f"| {o.queries:.0f} | {o.misled} | {o.objects} "
        f"| {100 * o.record_octets / o.octets:.1f} "
        f"| {(o.peak - o.first) / MIB:.0f} | {o.ratio:.2f} |"
        for o in outcomes
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python "
    machine += platform.python_version()
    return "\n".join(["# Volumes and cines in the worker", "", *rows, "", machine, ""])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--random", action="store_true")
    options = parser.parse_args()
    if options.case is not None:
        outcome = measure(options.case, options.count, random=options.random)
        print(json.dumps(asdict(outcome)))
        return
    counts = {"volume": options.slices, "enhanced": options.slices}
    outcomes = []
    for case in CASES:
        count = counts.get(case, options.frames)
        outcomes.append(_in_own_process(case, count, random=options.random))
        print(_table(outcomes[-1:]), flush=True)
    if options.out is not None:
        options.out.write_text(_table(outcomes), "utf-8")


if __name__ == "__main__":
    main()
