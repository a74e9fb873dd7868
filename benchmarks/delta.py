"""How fast δ is made, and how much of that time the removers take.

    python benchmarks/delta.py [--images 2] [--size 224] [--iterations 50]
                               [--batch 8] [--threads 1] [--device cpu] [--data DIR]

One run makes δ_D for the same images with the batched code of the engine and
with Eq. 1 written down literally, one image at a time in float32, and times the
same number of forward and backward passes of the removers alone. Ratios inside
one run are what counts; the machine is printed beside them. Without ``--data``
(a folder of images, searched in depth) the pictures are smooth noise.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from engine.models.compat import usable_device
from engine.params import DeltaParams, SearchParams
from engine.perturb.composites import random_composites
from engine.perturb.host import Host
from engine.perturb.pgd import craft_deltas
from engine.precision import reduced_precision
from engine.removal.remover import Remover, load_remover, packaged_removers
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


def pictures(count: int, size: int, data: Path | None) -> list[torch.Tensor]:
    """Grey pictures ``(1, size, size)`` in whole levels / 255."""
    if data is None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand((count, 1, 12, 12), generator=generator)
        smooth = interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
        return list((smooth * 255).round() / 255)
    files = sorted(p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < count:
        raise SystemExit(f"{data} holds {len(files)} images, {count} are wanted")
    chosen = files[:: max(1, len(files) // count)][:count]
    return [
        torch.from_numpy(np.array(Image.open(p).convert("L").resize((size, size))))[
            None
        ].float()
        / 255
        for p in chosen
    ]


def make_hosts(args: argparse.Namespace, device: torch.device) -> list[Host]:
    """Hosts with ten random marks each and nothing frozen."""
    size = args.size
    maker = PatchMaker(
        logo=load_logo(),
        geometry=Geometry(columns=size, rows=size, side=size),
        sl=2.0,
        grey=True,
    )
    return [
        Host(
            image=picture.to(device),
            frozen=torch.zeros((size, size), dtype=torch.bool, device=device),
            composites=tuple(
                random_composites(
                    maker, SearchParams(), np.random.default_rng(i), device
                )
            ),
        )
        for i, picture in enumerate(pictures(args.images, size, args.data))
    ]


def literal(
    host: Host, removers: Sequence[Remover], params: DeltaParams
) -> NDArray[np.int8]:
    """Eq. 1 for Eq. 3 as printed: one image, float32, clean and marked host."""
    image, epsilon = host.image, params.epsilon / 255
    delta = torch.zeros_like(image)
    velocity = torch.zeros_like(image)
    for t in range(params.iterations):
        delta.requires_grad_()
        shown = (image + delta).expand(3, -1, -1)
        keep, add = host.composites[t % len(host.composites)]
        seen = torch.stack([shown, shown * keep + add])
        loss = torch.zeros((), device=image.device)
        for remover in removers:
            error = (remover(seen).image - image).square().mean()
            loss = loss + error / (error.detach() + 1e-8)
        loss.backward()
        assert delta.grad is not None
        velocity = params.inertia * velocity + delta.grad / delta.grad.abs().mean()
        moved = delta.detach() + params.step / 255 * velocity.sign()
        delta = (image + moved.clamp(-epsilon, epsilon)).clamp(0, 1) - image
    return (delta * 255).round().to(torch.int8).cpu().numpy()[0]


def passes(
    hosts: Sequence[Host],
    removers: Sequence[Remover],
    params: DeltaParams,
    batch: int,
) -> None:
    """Run the forward and backward passes of `craft_deltas`, and nothing else."""
    exact = params.precision == "float32"
    for start in range(0, len(hosts), batch):
        part = hosts[start : start + batch]
        once = torch.stack([host.image.expand(3, -1, -1) for host in part])
        seen = once.repeat(2, 1, 1, 1).requires_grad_()
        weights = torch.rand_like(seen)
        for _ in range(params.iterations):
            for remover in removers:
                device = seen.device
                with nullcontext() if exact else reduced_precision(device):
                    removed = remover(seen).image
                torch.autograd.grad(removed, seen, weights)


def removal_error(
    hosts: Sequence[Host],
    removers: Sequence[Remover],
    deltas: Sequence[NDArray[np.int8]],
) -> float:
    """Mean squared error of what the removers return for all marked hosts."""
    errors = []
    for host, delta in zip(hosts, deltas, strict=True):
        shown = host.image + torch.from_numpy(delta).to(host.image) / 255
        marked = [(shown * k + a).expand(3, -1, -1) for k, a in host.composites]
        with torch.no_grad():
            removed = [remover(torch.stack(marked)).image for remover in removers]
        errors += [float((one - host.image).square().mean()) for one in removed]
    return float(np.mean(errors))


def print_agreement(
    hosts: Sequence[Host],
    removers: Sequence[Remover],
    params: DeltaParams,
    batch: int,
) -> None:
    """Print how alike the batched and the literal δ are, early and at the end.

    Signs turn rounding into whole steps, so equal code in another order of
    additions drifts apart; what must agree is the effect.
    """
    print(
        "\n| steps | equal entries | removal error batched | literal |\n"
        "|---|---|---|---|"
    )
    for steps in sorted({min(10, params.iterations), params.iterations}):
        some = replace(params, iterations=steps)
        batched = craft_deltas(hosts, removers, some, batch=batch)
        alone = [literal(host, removers, some) for host in hosts]
        equal = float(np.mean(np.array(batched) == np.array(alone)))
        here = removal_error(hosts, removers, batched)
        there = removal_error(hosts, removers, alone)
        print(f"| {steps} | {equal:.4f} | {here:.5f} | {there:.5f} |")


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: of the device, or of one thread of the processor."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        clock = time.perf_counter
    else:
        # Other load on the machine does not count as long as one thread works.
        one = torch.get_num_threads() == 1
        clock = time.process_time if one else time.perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2, help="the best one counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    device = usable_device(args.device)
    removers = [load_remover(p, device) for p in packaged_removers().values()]
    if not removers:
        raise SystemExit("the package ships no removers")
    hosts = make_hosts(args, device)
    auto = DeltaParams(iterations=args.iterations)
    exact = replace(auto, precision="float32")
    works: dict[str, Callable[[], object]] = {
        "batched": lambda: craft_deltas(hosts, removers, auto, batch=args.batch),
        "passes": lambda: passes(hosts, removers, auto, args.batch),
        "batched32": lambda: craft_deltas(hosts, removers, exact, batch=args.batch),
        "passes32": lambda: passes(hosts, removers, exact, args.batch),
        "literal": lambda: [literal(host, removers, exact) for host in hosts],
    }
    short = replace(auto, iterations=1)
    craft_deltas(hosts[:1], removers, short)
    # Rounds, not repeats: what else the machine does hits all alike.
    rounds = [
        {k: timed(v, device) for k, v in works.items()} for _ in range(args.rounds)
    ]
    best = {name: min(one[name] for one in rounds) / len(hosts) for name in works}
    print(
        f"{platform.machine()}, {device}, {args.threads} threads, torch "
        f"{torch.__version__}; {len(hosts)} images of {args.size}², batch "
        f"{args.batch}, {args.iterations} iterations, removers "
        f"{', '.join(remover.name for remover in removers)}\n\n"
        "| | s per image | share of the removers' passes | against literal |\n"
        "|---|---|---|---|"
    )
    for name, label in (("batched", "auto"), ("batched32", "float32")):
        share = best[name.replace("batched", "passes")] / best[name]
        print(
            f"| batched, {label} | {best[name]:.2f} | {share:.2f} | "
            f"{best['literal'] / best[name]:.2f}x faster |"
        )
    print(f"| literal, float32 | {best['literal']:.2f} | | 1 |")
    print_agreement(hosts, removers, exact, args.batch)


if __name__ == "__main__":
    main()
