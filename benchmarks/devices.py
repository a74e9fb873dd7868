"""How long protecting images takes on each device, and whether it is as good.

    python benchmarks/devices.py --data DIR [--images 32] [--devices cpu cuda]
                                 [--batches 1 8 32] [--out FILE]

The whole of `Protector.protect_many` with default settings: lesions, δ, search,
blending and the check that the original comes back. The same images on every
device and in every batch size, in one run; on the processor, which is slow, the
first ``--processor-images`` of them. Times are of the wall, after one image to warm
up. ``peak`` is what torch took of the device's memory. Lists how many images the
ensemble reads differently afterwards, so that a faster device that finds worse
marks would show.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.models.compat import usable_device
from engine.models.ensemble import load_ensemble, packaged_ensembles
from engine.params import ProtectParams
from engine.protection.protector import Protector
from engine.protection.values import ProtectedFrame
from engine.recover import recover
from engine.removal.remover import load_remover, packaged_removers
from engine.types import Frame, Rendering
from engine.watermark.logo import load_logo

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


def frames(data: Path, count: int) -> list[Frame]:
    """Read grey pictures, as many of each folder as there are."""
    files = sorted(p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < count:
        raise SystemExit(f"{data} holds {len(files)} images, {count} are wanted")
    chosen = files[:: len(files) // count][:count]
    return [
        Frame(
            stored=np.array(Image.open(path).convert("L"), dtype=np.int32),
            rendering=Rendering(lo=0.0, hi=255.0),
            minimum=0,
            maximum=255,
        )
        for path in chosen
    ]


def protector_on(device: torch.device) -> Protector:
    """Build what a worker builds for head MR."""
    return Protector(
        ensemble=load_ensemble(packaged_ensembles()["brain-mri"], device),
        objective="diagnosis",
        removers=[load_remover(p, device) for p in packaged_removers().values()],
        logo=load_logo(),
        params=ProtectParams(),
        device=device,
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One device with one batch size."""

    device: torch.device
    batch: int
    images: int
    seconds: float
    parts: dict[str, float]
    misled: int
    peak_mib: float


def measure(protector: Protector, some: Sequence[Frame], batch: int) -> Row:
    """Protect all images in batches, and check that each comes back."""
    device = protector.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    done: list[ProtectedFrame] = []
    for first in range(0, len(some), batch):
        part = some[first : first + batch]
        seeds = [f"image {first + k}".encode() for k in range(len(part))]
        done += [
            one
            for one in protector.protect_many(part, seeds=seeds)
            if isinstance(one, ProtectedFrame)
        ]
    seconds = time.perf_counter() - start
    if len(done) != len(some):
        raise SystemExit(f"{len(some) - len(done)} images have no place for the mark")
    for one, frame in zip(done, some, strict=True):
        if not np.array_equal(recover(one.stored, one.key), frame.stored):
            raise SystemExit("an original does not come back bit for bit")
    names = done[0].report.seconds
    return Row(
        device=device,
        batch=batch,
        images=len(some),
        seconds=seconds / len(some),
        parts={n: sum(d.report.seconds[n] for d in done) / len(done) for n in names},
        misled=sum(one.report.success for one in done),
        peak_mib=torch.cuda.max_memory_allocated(device) / 2**20
        if device.type == "cuda"
        else 0.0,
    )


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Write the table; the first row is what all are compared with."""
    first = rows[0]
    parts = list(first.parts)
    yield (
        "| device | batch | images | s per image | speed | "
        + " | ".join(f"{name}, s" for name in parts)
        + " | misled | peak, MiB |"
    )
    yield "|" + "---|" * (7 + len(parts))
    for row in rows:
        yield (
            f"| {row.device} | {row.batch} | {row.images} | {row.seconds:.3f} | "
            f"{first.seconds / row.seconds:.1f}x | "
            + " | ".join(f"{row.parts[name]:.3f}" for name in parts)
            + f" | {row.misled} | {row.peak_mib:.0f} |"
        )


def machine(devices: Sequence[torch.device]) -> str:
    """Name what was measured on."""
    cards = [torch.cuda.get_device_name(d) for d in devices if d.type == "cuda"]
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}{''.join(f', {card}' for card in cards)}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--processor-images", type=int, default=8)
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    some = frames(args.data, args.images)
    devices = [usable_device(name) for name in args.devices]
    rows = []
    for device in devices:
        protector = protector_on(device)
        protector.protect_many(some[:1], seeds=[b"warm"])
        own = some if device.type == "cuda" else some[: args.processor_images]
        for batch in args.batches:
            if batch <= len(own):
                rows.append(measure(protector, own, batch))
                print(list(lines(rows))[-1], flush=True)
    text = "\n".join([machine(devices), "", *lines(rows)])
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
