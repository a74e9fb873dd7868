"""What δ at native resolution is worth against removers that work there.

    python benchmarks/native_delta.py --data DIR [--images 2] [--iterations 50]
                                      [--threads 1]

Pictures (a folder, searched in depth) are marked at their own size without δ,
with δ of the model grid and with δ of their own resolution, and put through both
packaged removers twice: at 224 pixels, and at their own size. What comes back is
compared with the original at the size it comes back in: the larger the error,
the less the remover got. The same mark each time, no lesion boxes.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from PIL import Image

from engine.lesion.boxes import Lesions
from engine.models.ensemble import load_ensemble, packaged_ensembles
from engine.params import DeltaParams, ProtectParams, SearchParams
from engine.protection.protector import Protector
from engine.protection.values import Given
from engine.recover import recover
from engine.removal.remover import Remover, load_remover, packaged_removers
from engine.rendering import render
from engine.types import Frame, Rendering
from engine.watermark.logo import load_logo
from engine.watermark.working import GRID, levels_to_tensor

CPU = torch.device("cpu")
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
STEP = 16
"""Sides are cut to a multiple of it, so that the removers need no padding."""


def frames(data: Path, count: int) -> list[Frame]:
    """Read grey pictures of at least 256 pixels a side, at their own size."""
    files = sorted(p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES)
    made: list[Frame] = []
    for path in files[:: max(1, len(files) // (4 * count))]:
        grey = np.array(Image.open(path).convert("L"), dtype=np.int32)
        rows, columns = (side // STEP * STEP for side in grey.shape)
        if min(rows, columns) < 256 or max(rows, columns) > 640:
            continue
        made.append(
            Frame(
                stored=np.ascontiguousarray(grey[:rows, :columns]),
                rendering=Rendering(lo=0.0, hi=255.0),
                minimum=0,
                maximum=255,
            )
        )
    if len(made) < count:
        raise SystemExit(f"{data} holds {len(made)} pictures that fit, not {count}")
    return made[:count]


@dataclass(frozen=True)
class Row:
    """One picture with one δ.

    ``errors`` are RMSE in levels of what each remover returns, at 224 pixels
    and at native size.
    """

    seconds: float
    key_bytes: int
    share: float
    errors: dict[tuple[str, int], float]


def error(
    stored: NDArray[np.int32], frame: Frame, remover: Remover, side: int
) -> float:
    """RMSE in levels of what a remover returns; at native size where side is 0."""
    size = (side, side) if side else frame.stored.shape[:2]
    original, shown = (
        levels_to_tensor(render(s, frame.rendering), size, CPU)
        for s in (frame.stored, stored)
    )
    with torch.inference_mode():
        removed = remover(shown.expand(3, -1, -1)[None]).image[0]
    return float((removed - original).square().mean().sqrt()) * 255


def measure(frame: Frame, protector: Protector, removers: Sequence[Remover]) -> Row:
    """Protect one picture and put it through the removers."""
    nowhere = Lesions(boxes=(), mask=np.zeros((GRID, GRID), np.bool_), source="none")
    start = time.process_time()
    one = protector.protect(frame, seed=b"mark", given=Given(lesions=nowhere))
    seconds = time.process_time() - start
    assert np.array_equal(recover(one.stored, one.key), frame.stored)
    held = io.BytesIO()
    np.save(held, one.key.delta)
    np.save(held, one.key.residual.astype(np.int16))
    packed = len(zstandard.compress(held.getvalue(), 9))
    return Row(
        seconds=seconds,
        key_bytes=packed,
        share=packed / frame.stored.size,
        errors={
            (remover.name, side): error(one.stored, frame, remover, side)
            for remover in removers
            for side in (GRID, 0)
        },
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    removers = [load_remover(p) for p in packaged_removers().values()]
    some = frames(args.data, args.images)
    plain = Protector(
        ensemble=load_ensemble(packaged_ensembles()["brain-mri"]),
        objective="diagnosis",
        removers=removers,
        logo=load_logo(),
        params=ProtectParams(search=SearchParams(strategy="random")),
    )
    kinds = {
        "none": DeltaParams(kind="none"),
        "grid": DeltaParams(iterations=args.iterations),
        "native": DeltaParams(iterations=args.iterations, resolution="native"),
    }
    names = [(r.name, side) for r in removers for side in (GRID, 0)]
    print(
        f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}; "
        f"{len(some)} pictures of "
        f"{', '.join('x'.join(map(str, f.stored.shape)) for f in some)}, "
        f"{args.iterations} steps\n\n| δ | CPU s | key, bytes | of raw pixels | "
        + " | ".join(f"{name} at {side or 'native'}" for name, side in names)
        + " |\n|"
        + "---|" * (4 + len(names))
    )
    for kind, delta in kinds.items():
        rows = [measure(f, plain.variant(delta=delta), removers) for f in some]
        errors = [np.mean([row.errors[name] for row in rows]) for name in names]
        print(
            f"| {kind} | {np.mean([row.seconds for row in rows]):.0f} | "
            f"{np.mean([row.key_bytes for row in rows]):.0f} | "
            f"{np.mean([row.share for row in rows]):.1%} | "
            + " | ".join(f"{e:.1f}" for e in errors)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
