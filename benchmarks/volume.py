"""What a series gains when each slice starts from its neighbour.

    python benchmarks/volume.py [--volume mr|emri|thin|cine] [--slices 8]
                                [--batch 8] [--warm 15] [--threads 1]
                                [--unseen vit] [--modes cold warm ...]

One run protects the same slices cold (each on its own), warm (`protect_series`)
and with one of the three things a neighbour teaches at a time: its δ, its lesion
boxes, its mark. Volumes are real slices out of installed packages: ``mr`` a head
of 24 slices of 128x96 (nibabel), ``emri`` an enhanced MR head of 10 slices of
64x64 (pydicom), ``thin`` the former at 256x256 with three slices interpolated
between every two, ``cine`` an echocardiogram of 30 RGB frames of 600x800
(deid-data), which no packaged ensemble is made for. One member is left out of
the search and asked afterwards: whether the mark also misleads who was not
searched against. Ratios inside one run are what counts.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom

from engine.errors import NoFeasiblePlacement
from engine.lesion.boxes import fill
from engine.models.classifier import Classifier
from engine.models.ensemble import load_ensemble, packaged_ensembles
from engine.params import DeltaParams, ProtectParams, SearchParams
from engine.protection.protector import Protector
from engine.protection.series import protect_series
from engine.protection.values import Given, Neighbour, ProtectedFrame
from engine.recover import recover
from engine.removal.remover import Remover, load_remover, packaged_removers
from engine.rendering import render
from engine.types import Frame, Rendering
from engine.watermark.logo import load_logo
from engine.watermark.working import GRID, levels_to_tensor, working_image

CPU = torch.device("cpu")
BETWEEN = 4
"""Slices of the thin volume per slice of the real one."""

Done = list[ProtectedFrame | NoFeasiblePlacement]


def head() -> NDArray[np.float64]:
    """Read a real MR head, ``(24, 128, 96)``, upright."""
    import nibabel

    path = resources.files("nibabel") / "tests" / "data" / "example4d.nii.gz"
    volume = np.asarray(nibabel.load(str(path)).dataobj)[..., 0]
    return np.ascontiguousarray(np.moveaxis(volume, 2, 0)[:, :, ::-1].swapaxes(1, 2))


def thin() -> NDArray[np.float64]:
    """Resample the same head, with slices between its slices, at 256x256."""
    volume = head()
    factors = (BETWEEN, 256 / volume.shape[1], 256 / volume.shape[2])
    return zoom(volume, factors, order=1)


def enhanced() -> NDArray[np.int32]:
    """Read a real enhanced MR head, ``(10, 64, 64)``."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    return dcmread(get_testdata_file("emri_small.dcm")).pixel_array


def cine() -> NDArray[np.uint8]:
    """Read a real echocardiogram, ``(30, 600, 800, 3)``."""
    from pydicom import dcmread

    folder = Path(str(resources.files("deid_data"))) / "data" / "ultrasounds"
    return dcmread(folder / "ultrasound-multiframe.dcm").pixel_array


VOLUMES: dict[str, Callable[[], NDArray[np.generic]]] = {
    "mr": head,
    "emri": enhanced,
    "thin": thin,
    "cine": cine,
}


def frames_of(name: str, count: int) -> list[Frame]:
    """Take the middle `count` slices of a volume."""
    raw = np.asarray(VOLUMES[name](), dtype=np.float64)
    volume = np.clip(np.rint(raw), -32768, 65535).astype(np.int32)
    first = max(0, (len(volume) - count) // 2)
    colour = volume.ndim == 4
    top = 255.0 if colour else float(np.percentile(volume, 99.5))
    return [
        Frame(
            stored=np.ascontiguousarray(one),
            rendering=Rendering(lo=0.0, hi=top),
            minimum=min(0, int(volume.min())),
            maximum=255 if colour else 65535,
        )
        for one in volume[first : first + count]
    ]


@dataclass(frozen=True)
class Bench:
    """What all modes share."""

    protector: Protector
    unseen: Classifier
    removers: tuple[Remover, ...]
    frames: list[Frame]
    batch: int

    @property
    def seeds(self) -> list[bytes]:
        """One per frame."""
        return [f"slice {i}".encode() for i in range(len(self.frames))]

    def cold(self) -> Done:
        """Every slice on its own."""
        done: Done = []
        for first in range(0, len(self.frames), self.batch):
            part = slice(first, first + self.batch)
            done += self.protector.protect_many(
                self.frames[part], seeds=self.seeds[part]
            )
        return done

    def warm(self, batch: int | None = None) -> Done:
        """As `protect_series` does."""
        pairs = protect_series(
            self.protector, self.frames, seeds=self.seeds, batch=batch
        )
        return list(pairs)

    def chained(self, taught: Callable[[Neighbour], Neighbour]) -> Done:
        """One by one, with what `taught` leaves of the neighbour."""
        done: Done = []
        near: Neighbour | None = None
        for frame, seed in zip(self.frames, self.seeds, strict=True):
            given = Given(neighbour=taught(near) if near else None)
            done += self.protector.protect_many([frame], seeds=[seed], given=[given])
            if isinstance(done[-1], ProtectedFrame):
                near = done[-1].neighbour
        return done


def without_delta(one: Neighbour) -> Neighbour:
    """δ of a shape that fits nothing."""
    return replace(one, delta=np.zeros((1, 1), np.int8))


def without_boxes(one: Neighbour) -> Neighbour:
    """No boxes to hold on to."""
    return replace(one, boxes=())


def without_mark(one: Neighbour) -> Neighbour:
    """Give a logo of a size that no frame has."""
    return replace(one, hint=replace(one.hint, size=(0, 0)))


def modes(bench: Bench) -> dict[str, Callable[[], Done]]:
    """Every mode by name."""
    return {
        "cold": bench.cold,
        "warm": bench.warm,
        "warm, in batches": lambda: bench.warm(bench.batch),
        "δ only": lambda: bench.chained(lambda n: without_boxes(without_mark(n))),
        "boxes only": lambda: bench.chained(lambda n: without_delta(without_mark(n))),
        "mark only": lambda: bench.chained(lambda n: without_delta(without_boxes(n))),
    }


def removal_error(bench: Bench, done: Sequence[ProtectedFrame]) -> float:
    """RMSE in levels between originals and what removers return, at the size of δ."""
    errors = []
    for frame, one in zip(bench.frames, done, strict=True):
        rows, columns = one.key.delta.shape[:2]
        original, shown = (
            levels_to_tensor(render(s, frame.rendering), (rows, columns), CPU)
            for s in (frame.stored, one.stored)
        )
        with torch.inference_mode():
            for remover in bench.removers:
                removed = remover(shown.expand(3, -1, -1)[None]).image[0]
                errors.append(float((removed - original).square().mean().sqrt()) * 255)
    return float(np.mean(errors))


def misled_unseen(bench: Bench, done: Sequence[ProtectedFrame]) -> float:
    """Share of slices on which the member that was left out changes its answer."""
    changed = 0
    for frame, one in zip(bench.frames, done, strict=True):
        pair = [
            working_image(s, frame.rendering, CPU) for s in (frame.stored, one.stored)
        ]
        with torch.inference_mode():
            answers = bench.unseen(torch.stack(pair)).argmax(dim=1)
        changed += int(answers[0] != answers[1])
    return changed / len(done)


def moves(done: Sequence[ProtectedFrame]) -> tuple[float, float]:
    """Median displacement of the logo's centre, in grid pixels, and mean box IoU."""
    away, alike = [], []
    for a, b in pairwise(done):
        centres = [
            (t.report.x + t.report.width / 2, t.report.y + t.report.height / 2)
            for t in (a, b)
        ]
        scale = [GRID / a.trace.columns, GRID / a.trace.rows]
        away.append(
            np.hypot(*((p - q) * s for p, q, s in zip(*centres, scale, strict=True)))
        )
        masks = [fill(t.trace.boxes, (GRID, GRID)) for t in (a, b)]
        alike.append((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
    return float(np.median(away)), float(np.mean(alike))


def row(bench: Bench, name: str, work: Callable[[], Done]) -> str:
    """Run one mode and say how it did."""
    start = time.process_time()
    done = work()
    seconds = (time.process_time() - start) / len(done)
    placed = [one for one in done if isinstance(one, ProtectedFrame)]
    if len(placed) < len(done):
        return f"| {name} | {len(done) - len(placed)} slices without a place |"
    for frame, one in zip(bench.frames, placed, strict=True):
        assert np.array_equal(recover(one.stored, one.key), frame.stored)
        assert one.report.verified
    reports = [one.report for one in placed]
    away, alike = moves(placed)
    boxes = np.mean([fill(one.trace.boxes, (GRID, GRID)).mean() for one in placed])
    stage = {s: np.mean([r.seconds[s] for r in reports]) for s in ("delta", "search")}
    return (
        f"| {name} | {seconds:.1f} | {stage['delta']:.1f} | {stage['search']:.1f} | "
        f"{np.mean([r.queries for r in reports]):.0f} | "
        f"{np.mean([r.success for r in reports]):.2f} | "
        f"{misled_unseen(bench, placed):.2f} | "
        f"{np.mean([r.displacement for r in reports]):.2f} | "
        f"{away:.0f} | {alike:.2f} | {boxes:.2f} | "
        f"{np.mean([r.ssim for r in reports]):.3f} | "
        f"{removal_error(bench, placed):.1f} |"
    )


def rows(bench: Bench, wanted: Sequence[str]) -> Iterator[str]:
    """One line per mode."""
    known = modes(bench)
    for name in wanted:
        yield row(bench, name, known[name])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volume", choices=VOLUMES, default="mr")
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--warm", type=int, default=DeltaParams().warm_iterations)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--unseen", default="vit")
    parser.add_argument("--strategy", default=SearchParams().strategy)
    parser.add_argument("--no-delta", action="store_true")
    parser.add_argument("--modes", nargs="+", default=["cold", "warm"])
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    whole = load_ensemble(packaged_ensembles()["brain-mri"])
    removers = tuple(load_remover(p) for p in packaged_removers().values())
    protector = Protector(
        ensemble=whole.without(args.unseen),
        objective="label-free" if args.volume == "cine" else "diagnosis",
        removers=() if args.no_delta else removers,
        logo=load_logo(),
        params=ProtectParams(
            search=SearchParams(strategy=args.strategy),
            delta=DeltaParams(warm_iterations=args.warm),
        ),
    )
    bench = Bench(
        protector=protector,
        unseen=next(m for m in whole.members if m.name == args.unseen),
        removers=removers,
        frames=frames_of(args.volume, args.slices),
        batch=args.batch,
    )
    size = "x".join(map(str, bench.frames[0].stored.shape))
    print(
        f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}; "
        f"{args.volume}, {len(bench.frames)} slices of {size}, batches of "
        f"{args.batch}, {args.warm} steps warm, {args.unseen} left out\n\n"
        "| | CPU s per slice | δ s | search s | queries | misled | unseen misled | "
        "features moved | logo moves, px | boxes IoU | boxes share | SSIM | "
        "removers' RMSE |\n|" + "---|" * 13
    )
    for line in rows(bench, args.modes):
        print(line, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
