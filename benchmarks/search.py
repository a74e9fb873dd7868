"""How fast a place for the mark is found, and how much of that time models take.

    python benchmarks/search.py [--images 2] [--data DIR] [--beside 1]
                                [--members small|paper] [--strategy he-sit]
                                [--stop never ensemble] [--budget 0] [--threads 1 2]
                                [--device cpu]

One run searches the same images with the engine (shared forward passes, logos
drawn once, bfloat16 where the processor has it) and with Algorithm 3 as the paper
prints it, which is kept below: one candidate at a time, Algorithm 1 from the
scaling of the logo on for each, every member in turn, plain float32 models. Both
make the same draws, so they must judge the same candidates and find the same
place. Then the forward passes of the engine's search are run alone, in the same
batches. Ratios inside one run are what counts; the machine is printed beside them.
With one thread on the processor times are of it, so other load does not count; on
another device they are of the wall.

Without ``--data`` (a folder of images, searched in depth) the pictures are smooth
noise. ``small`` members are those of the package, ``paper`` the six networks of
the paper at full size, untrained: as slow as trained ones, but with next to no
opinion, so rounding may change who is ahead.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from typing_extensions import override

from engine.lesion.boxes import fill
from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone, resize
from engine.models.compat import usable_device
from engine.models.ensemble import Ensemble, load_ensemble, packaged_ensembles
from engine.models.families import PRESETS
from engine.models.fast import for_search
from engine.params import SearchParams
from engine.search.candidate import Candidate, Judgement
from engine.search.judges import Judges
from engine.search.objective import Objective, objective_for
from engine.search.region import region
from engine.search.run import Outcome, Task, run_searches
from engine.search.show import Gallery
from engine.search.space import Space
from engine.search.start import Start, start_search
from engine.types import Box, Rendering
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.paint import GridPainter
from engine.watermark.working import GRID, Geometry, working_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
LESION = Box(x0=90, y0=84, x1=130, y1=128)
"""Where the mark must not go: one box suffices to exercise the test."""
HELD = Judgement(fitness=0.0, tie=0.0, wrong=0, deceived=True, success=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image to search.

    ``host`` is ``(3, 224, 224)`` float32 in [0, 1]; ``label`` what the members say.
    """

    seed: int
    host: torch.Tensor = field(repr=False)
    maker: PatchMaker
    label: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search judged up to its end, in order, and what it took."""

    judged: tuple[Candidate, ...]
    best: Candidate


Plain = Callable[[torch.Tensor], torch.Tensor]
"""A member as a plain function: pictures ``(N, 3, H, W)`` to logits ``(N, C)``."""


# ------------------------------------------------------- Algorithm 3, as printed


def literal(case: Case, members: Sequence[Plain], params: SearchParams) -> Found:
    """Algorithm 3, one candidate at a time; f_t decides, the odds among equals."""
    generator = np.random.default_rng(case.seed)
    begun = begin(case, params, generator)
    space = begun.space
    judged: dict[Candidate, tuple[float, float]] = {}
    population = list(begun.strategy.ask(begun.strategy.bound).candidates)
    generation = 0
    while True:
        for one in population:
            judged[one], wrong = judge(case, members, params, one, space.maker)
            spent = params.budget and len(judged) == params.budget
            if spent or (wrong and params.stop == "ensemble"):
                return Found(
                    judged=tuple(judged), best=min(judged, key=judged.__getitem__)
                )
        generation += 1
        if generation > params.n_g:
            return Found(judged=tuple(judged), best=min(judged, key=judged.__getitem__))
        dominants = sorted(judged, key=judged.__getitem__)[: params.n_p]
        population = offspring(dominants, set(judged), space, generator)


def algorithm_1(host: torch.Tensor, one: Candidate, maker: PatchMaker) -> torch.Tensor:
    """Watermark an image: scale and transform the logo, background, blend."""
    mark = GridPainter(maker).mark((one.x, one.y), one.alpha, one.sit)
    h, w = mark.patch.shape[1:]
    logo, mask = torch.zeros_like(host), torch.zeros_like(host[:1])
    logo[:, mark.y : mark.y + h, mark.x : mark.x + w] = mark.patch[:3]
    mask[:, mark.y : mark.y + h, mark.x : mark.x + w] = mark.patch[3:]
    return one.alpha / 255 * (logo - mask * host) + host


@torch.inference_mode()
def judge(
    case: Case,
    members: Sequence[Plain],
    params: SearchParams,
    one: Candidate,
    maker: PatchMaker,
) -> tuple[tuple[float, float], bool]:
    """Lines 9 to 11 and 21 to 23: how good a candidate is, and whether all err."""
    picture = algorithm_1(case.host, one, maker)[None]
    logits = [member(picture)[0].double() for member in members]
    mixed = torch.stack([said.softmax(0) for said in logits]).mean(0).log()
    odds = lead(mixed, case.label)
    if params.stop == "ensemble":
        return (float(mixed[case.label].exp()), odds), odds < 0
    leads = [lead(said, case.label) for said in logits]
    return (sum(leads) / len(leads), odds), odds < 0


def lead(scores: torch.Tensor, label: int) -> float:
    """By how much a class is ahead of the strongest other one."""
    others = torch.cat([scores[:label], scores[label + 1 :]])
    return float(scores[label] - others.max())


def offspring(
    parents: Sequence[Candidate],
    known: set[Candidate],
    space: Space,
    generator: np.random.Generator,
) -> list[Candidate]:
    """Eq. 11 and crossover: a random r_c of the 27 combinations of each parent."""
    params, born = space.params, []
    s_p = math.floor(math.floor(math.sqrt(1 / params.r_p)) / (2 * params.n_g)) or 1
    for parent in parents:
        count = 0
        for code in generator.permutation(27):
            dx, dy, da = ((0, 1, -1)[code // 3**gene % 3] for gene in range(3))
            alpha = parent.alpha + da * params.s_alpha
            child = parent._replace(
                x=parent.x + dx * s_p,
                y=parent.y + dy * s_p,
                alpha=min(max(alpha, params.alpha_min), params.alpha_max),
            )
            if (
                child in known
                or not free(child, space)
                or count == int(27 * params.r_c)
            ):
                continue
            known.add(child)
            born.append(child)
            count += 1
    return born


def free(one: Candidate, space: Space) -> bool:
    """B̄ ∩ U: the whole footprint inside and a pixel away from the lesion box."""
    w, h = space.size(one.sit)
    inside = 0 <= one.x <= GRID - w and 0 <= one.y <= GRID - h
    beside = one.x + w < LESION.x0 or LESION.x1 < one.x
    above = one.y + h < LESION.y0 or LESION.y1 < one.y
    return inside and (beside or above)


def contiguous(member: Classifier) -> Classifier:
    """Bring all weights into the layout they are published in."""
    for weight in member.parameters():
        weight.data = weight.data.contiguous()
    return member


def plain_members(ensemble: Ensemble) -> list[Plain]:
    """Copy the members in contiguous float32, as published."""

    def plain(member: Classifier) -> Plain:
        own = contiguous(copy.deepcopy(member))

        def logits(picture: torch.Tensor) -> torch.Tensor:
            seen = (resize(picture, own.input_size) - own.mean) / own.std
            said: torch.Tensor = own.backbone(seen.contiguous())
            return said

        return logits

    return [plain(member) for member in ensemble.members]


# ------------------------------------------------------------ the engine's search


class Recording(Judges):
    """Judges that remember the sizes of their batches."""

    def __init__(self, ensemble: Ensemble, *, precise: bool) -> None:
        super().__init__(ensemble, precise=precise)
        self.sizes: list[int] = []

    @override
    def look(self, pictures: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pictures))
        return super().look(pictures)


def begin(case: Case, params: SearchParams, generator: np.random.Generator) -> Start:
    """Make the candidates of a case."""
    forbidden = region(fill([LESION], (GRID, GRID)))
    return start_search(case.maker, forbidden, params, generator, case.host)


def engine_search(
    cases: Sequence[Case], judges: Judges, params: SearchParams
) -> list[Found]:
    """Search as the engine does, all cases side by side."""

    def task(case: Case) -> Task:
        begun = begin(case, params, np.random.default_rng(case.seed))
        objective: Objective = objective_for(
            judges.ensemble, case.host, case.label, params.stop_rule
        )
        return Task(
            strategy=begun.strategy,
            objective=objective,
            gallery=Gallery(begun.space.maker, case.host),
            confirm=lambda _: HELD,
            budget=params.budget,
        )

    return [found(one) for one in run_searches([task(c) for c in cases], judges)]


def found(outcome: Outcome) -> Found:
    """Tell what a search judged up to its end, without the rest of its last batch."""
    judged = tuple(one.candidate for one in outcome.judged[: outcome.queries])
    return Found(judged=judged, best=outcome.best.candidate)


# ------------------------------------------------------------------- measurement


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of all cases, and of their forward passes alone."""

    seconds: float
    forwards: float
    results: list[Found]


def clock(device: torch.device) -> float:
    """Seconds of the processor where one thread works, otherwise of the wall."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    one = torch.get_num_threads() == 1
    return time.process_time() if one else time.perf_counter()


def measure_engine(
    cases: Sequence[Case],
    ensemble: Ensemble,
    params: SearchParams,
    beside: int,
    *,
    precise: bool,
) -> Measured:
    """Time the engine's search, then its forward passes alone."""
    judges = Recording(ensemble, precise=precise)
    results: list[Found] = []
    device = cases[0].host.device
    start = clock(device)
    for first in range(0, len(cases), beside):
        results += engine_search(cases[first : first + beside], judges, params)
    seconds = clock(device) - start
    sizes = judges.sizes[:]
    pictures = torch.rand((max(sizes), 3, GRID, GRID), device=device)
    start = clock(device)
    for size in sizes:
        judges.look(pictures[:size])
    return Measured(seconds=seconds, forwards=clock(device) - start, results=results)


def measure_literal(
    cases: Sequence[Case], members: Sequence[Plain], params: SearchParams
) -> Measured:
    """Time Algorithm 3 as printed, then its forward passes alone."""
    device = cases[0].host.device
    start = clock(device)
    results = [literal(case, members, params) for case in cases]
    seconds = clock(device) - start
    picture = torch.rand((1, 3, GRID, GRID), device=device)
    start = clock(device)
    with torch.inference_mode():
        for _ in range(sum(len(one.judged) for one in results)):
            for member in members:
                member(picture)
    return Measured(seconds=seconds, forwards=clock(device) - start, results=results)


def make_ensemble(kind: str, device: torch.device) -> Ensemble:
    """Load the packaged members, or make those of the paper without training."""
    if kind == "small":
        packaged = packaged_ensembles()
        if not packaged:
            raise SystemExit("the package ships no ensembles")
        return load_ensemble(next(iter(packaged.values())), device)
    torch.manual_seed(0)
    members = []
    for preset in PRESETS:
        if preset.key.startswith("paper:"):
            card = ModelCard(
                name=preset.name,
                family=preset.family,
                architecture=preset.architecture,
                architecture_arguments=preset.arguments,
                labels=("a", "b", "c"),
                input_size=preset.input_size,
                mean=preset.mean,
                std=preset.std,
            )
            backbone = build_backbone(card.architecture, 3, preset.arguments)
            members.append(Classifier(backbone, card))
    paper = Ensemble("paper", members).to(device)
    return paper.eval().requires_grad_(requires_grad=False)


def make_cases(count: int, data: Path | None, ensemble: Ensemble) -> list[Case]:
    """Grey images with what the members say of them."""
    logo, cases = load_logo(), []
    for seed, levels in enumerate(pictures(count, data)):
        rows, columns = levels.shape
        host = working_image(
            levels, Rendering(lo=0.0, hi=255.0), ensemble.weights.device
        )
        with torch.inference_mode():
            label = int(ensemble.probabilities(host[None])[0].argmax())
        geometry = Geometry(columns=columns, rows=rows)
        maker = PatchMaker(logo=logo, geometry=geometry, sl=2.0, grey=True)
        cases.append(Case(seed=seed, host=host, maker=maker, label=label))
    return cases


def pictures(count: int, data: Path | None) -> list[NDArray[np.int32]]:
    """Grey levels ``(rows, columns)`` int32, 0..255."""
    if data is None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand((count, 1, 12, 12), generator=generator)
        smooth = interpolate(coarse, (512, 512), mode="bicubic").clamp(0, 1)
        return list((smooth[:, 0] * 255).round().to(torch.int32).numpy())
    files = sorted(p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < count:
        raise SystemExit(f"{data} holds {len(files)} images, {count} are wanted")
    chosen = files[:: max(1, len(files) // count)][:count]
    return [np.asarray(Image.open(p).convert("L")).astype(np.int32) for p in chosen]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--beside", type=int, default=1, help="images that share")
    parser.add_argument("--members", choices=("small", "paper"), default="small")
    parser.add_argument("--strategy", choices=("he", "he-sit"), default="he-sit")
    parser.add_argument(
        "--stop", nargs="+", choices=("never", "ensemble"), default=["never"]
    )
    parser.add_argument("--budget", type=int, default=0, help="queries; 0: all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(": ")[2] for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def compare(
    cases: Sequence[Case],
    ensembles: tuple[Ensemble, list[Plain]],
    params: SearchParams,
    beside: int,
) -> None:
    """Print one table: a search without and with the engine's ways."""
    quick, members = ensembles
    auto = measure_engine(cases, quick, params, beside, precise=False)
    exact = measure_engine(cases, quick, params, beside, precise=True)
    plain = measure_literal(cases, members, params)
    n = len(cases)
    print(
        f"\n{torch.get_num_threads()} threads, {params.strategy}, stop {params.stop}"
        "\n\n| | s per image | queries | share of forward passes | speed |"
        "\n|---|---|---|---|---|"
    )
    rows = (("engine", auto), ("engine, float32", exact), ("literal", plain))
    for name, one in rows:
        queries = sum(len(result.judged) for result in one.results) / n
        print(
            f"| {name} | {one.seconds / n:.2f} | {queries:.0f} | "
            f"{one.forwards / one.seconds:.2f} | "
            f"{plain.seconds / one.seconds:.2f}x |"
        )
    for name, one in rows[:2]:
        pairs = list(zip(one.results, plain.results, strict=True))
        same = sum(a.judged == b.judged for a, b in pairs)
        place = sum(a.best == b.best for a, b in pairs)
        print(
            f"{name}, against literal: same candidates in the same order {same} of "
            f"{n}, same result {place} of {n}"
        )


def main() -> None:
    """Measure and print."""
    args = arguments()
    device = usable_device(args.device)
    ensemble = make_ensemble(args.members, device)
    quick, members = for_search(ensemble), plain_members(ensemble)
    cases = make_cases(args.images, args.data, ensemble)
    print(
        f"{processor()}, {os.cpu_count()} cores, {device}, torch {torch.__version__}; "
        f"{len(cases)} images, {args.beside} side by side; members "
        f"{', '.join(ensemble.names)}"
    )
    for threads in args.threads:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            quick.member_logits(cases[0].host[None])
            for member in members:
                member(cases[0].host[None])
        for stop in args.stop:
            params = SearchParams(strategy=args.strategy, stop=stop, budget=args.budget)
            compare(cases, (quick, members), params, args.beside)


if __name__ == "__main__":
    main()
