"""Writes the pages of the results: one per table, and an index of all."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from engine.experiments.session import fingerprint
from engine.experiments.text import table

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from engine.experiments.bench import Setup
    from engine.experiments.session import Measured, Plan, R

PAGES: Final = ("search", "budget", "removers", "authorise")
"""Names of the tables, in the order of the index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """When, on what and by which command a measurement was made."""

    day: date
    seconds: float
    jobs: int = 1
    command: str

    @property
    def machine(self) -> str:
        """Processor and versions, without the name of the computer."""
        return (
            f"{os.cpu_count()} cores {platform.machine()}, "
            f"Python {platform.python_version()}, torch {version('torch')}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One figure of the index: what it is, what came out here, what the paper says."""

    what: str
    here: str
    paper: str = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a table says.

    Attributes
    ----------
    title
        Heading.
    body
        Lines of Markdown: the tables and how to read them.
    headlines
        Figures for the index.
    data
        Everything in the tables, as plain values.
    figures
        SVG documents by file name.
    """

    title: str
    body: list[str]
    headlines: list[Headline]
    data: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)


def write_page(
    folder: Path,
    page: Page,
    run: tuple[Setup, Plan[R], Measured[R]],
    when: Circumstances,
) -> dict[str, Any]:
    """Write ``NAME.md`` and ``NAME.json``, and the index beside the folder.

    Parameters
    ----------
    folder
        Where the pages lie; the index is the file of its name and ``.md``.
    page
        What to write.
    run
        What was measured, how, and what came out.
    when
        The circumstances.

    Returns
    -------
    dict
        What the JSON file holds.
    """
    setup, plan, measured = run
    folder.mkdir(parents=True, exist_ok=True)
    when = replace(when, seconds=_longest(folder / f"{plan.name}.json", run, when))
    lines = [
        f"# {page.title}",
        "",
        *_opening(setup, measured, when),
        "",
        *page.body,
        *_LIMITS,
    ]
    (folder / f"{plan.name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, drawing in page.figures.items():
        (folder / name).write_text(drawing, encoding="utf-8")
    plain: dict[str, Any] = {
        "title": page.title,
        "n": len(measured.selection.names),
        "examined": measured.selection.examined,
        "options": asdict(plan),
        "parameters": asdict(setup.params),
        "fingerprint": fingerprint(setup, plan),
        "command": when.command,
        "machine": when.machine,
        "day": when.day.isoformat(),
        "seconds": round(when.seconds, 1),
        "headlines": [asdict(one) for one in page.headlines],
        **page.data,
    }
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / f"{plan.name}.json").write_text(text + "\n", encoding="utf-8")
    write_index(folder)
    return plain


def _longest(
    file: Path, run: tuple[Setup, Plan[R], Measured[R]], when: Circumstances
) -> float:
    """Seconds of the run that measured most: a run that only writes has few."""
    setup, plan, measured = run
    if not file.exists():
        return when.seconds
    before = json.loads(file.read_text(encoding="utf-8"))
    same = before["fingerprint"] == fingerprint(setup, plan)
    if not same or before["n"] != len(measured.selection.names):
        return when.seconds
    return max(when.seconds, float(before["seconds"]))


def write_index(folder: Path) -> Path:
    """Write the index from the pages that are there; give its path.

    A page measured on other models or with another seed than its neighbours
    still stands in it, with its own day and n.
    """
    index = folder.with_suffix(".md")
    parts = [*_INDEX]
    for name in PAGES:
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        plain = json.loads(file.read_text(encoding="utf-8"))
        link = f"{folder.name}/{name}.md"
        parts += [
            f"## [{plain['title']}]({link})",
            "",
            f"n = {plain['n']} images, {plain['day']}, {plain['machine']}.",
            "",
            *table(
                ("", "here", "paper"),
                [(h["what"], h["here"], h["paper"]) for h in plain["headlines"]],
            ),
        ]
    index.write_text("\n".join([*parts, *_LIMITS]) + "\n", encoding="utf-8")
    return index


def _opening(setup: Setup, measured: Measured[R], when: Circumstances) -> list[str]:
    search, delta = setup.params.search, setup.params.delta
    n = len(measured.selection.names)
    return [
        f"Made by `{when.command}`; do not edit by hand.",
        "",
        (
            f"- Images: {n} of the test split, classes in turn, that every member of "
            f"`{setup.ensemble.name}` classifies correctly "
            f"({measured.selection.examined} examined). Accuracy on the originals is "
            "therefore 100 %."
        ),
        "- Removers: "
        + (", ".join(f"`{path.name}`" for path in setup.removers) or "none")
        + f"; where δ is used, ε = {delta.epsilon}/255, {delta.iterations} steps, "
        f"host `{delta.host}`, lesion guard {'on' if delta.lesion_guard else 'off'}.",
        (
            f"- Search: sl = {search.sl:g}, N_p = {search.n_p}, N_g = {search.n_g}, "
            f"s_α = {search.s_alpha}, r_c = {search.r_c:g}, r_p = {search.r_p:g}, "
            f"α {search.alpha_min}-{search.alpha_max} of 255, "
            f"t = {setup.params.lesion.threshold}, seed {setup.params.seed}."
        ),
        (
            f"- {when.day.isoformat()}, {when.machine}, {setup.device}, processes: "
            f"{when.jobs}; the longest run took {when.seconds / 60:.0f} minutes."
        ),
        (
            "- Every figure is of the final stored values, rendered again; intervals "
            "are Wilson 95 %. Lower accuracy is better protection."
        ),
    ]


_INDEX: Final = (
    "# Results",
    "",
    "What protection achieves on labelled images that no shipped model was trained",
    "on, next to the figures of the paper (other data, larger models). Each page is",
    "made by one command, `miad-gateway experiment NAME --data DIR`, which can be",
    "interrupted and goes on where it stopped; all of them by",
    "`make experiment DATA=DIR`. Do not edit by hand.",
    "",
    "The paper's data sets are not these and its networks are far larger: compare",
    "the order of the rows, not the numbers.",
    "",
)

_LIMITS: Final = (
    "## What this does not show",
    "",
    "The packaged logo, the lower bound of α and the repeated draws of SIT were",
    "chosen after trials on some twenty images of the packaged ensemble's own test",
    "split; that two surrogates find the lesions, and that the default search is",
    "CMA-ES with its whole budget, after trials on some forty and the table of equal",
    "budget. So its figures here are somewhat favourable.",
    "",
    "One data set, small members trained on it, and no adversary who adapts: no",
    "cropping, inpainting, denoising, retraining on protected images or averaging",
    "over crops. Members left out were trained on the same images as the others, so",
    "an unseen model of another hospital may well be harder to mislead. The mark",
    "deters and gives provenance; confidentiality rests on encryption and access",
    "control.",
)
