"""Writes docs/results.md from a measurement."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from engine.experiments.table import (
    left_out_table,
    lines,
    member_table,
    strategy_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from engine.experiments.session import Measured, Setup
    from engine.experiments.table import Line


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """When and on what a measurement was made."""

    day: date
    seconds: float

    @property
    def machine(self) -> str:
        """Processor and versions, without the name of the computer."""
        return (
            f"{os.cpu_count()} cores {platform.machine()}, "
            f"Python {platform.python_version()}, torch {version('torch')}"
        )


def as_dict(setup: Setup, measured: Measured, when: Circumstances) -> dict[str, Any]:
    """Everything in the document, as plain values for JSON."""
    return {
        "n": len(measured.selection.names),
        "examined": measured.selection.examined,
        "seed": setup.params.seed,
        "fingerprint": setup.fingerprint(),
        "machine": when.machine,
        "day": when.day.isoformat(),
        "seconds": when.seconds,
        "lines": [line.as_dict() for line in lines(measured.records)],
    }


def markdown(setup: Setup, measured: Measured, when: Circumstances) -> str:
    """Write the whole document."""
    table = lines(measured.records)
    parts = [
        *_opening(setup, measured, when),
        "",
        "## White box: the ensemble the search was made on",
        "",
        *strategy_table(table),
        "",
        *_READING,
        "",
        "## Each member",
        "",
        "Accuracy of every member on the same pictures.",
        "",
        *member_table(table),
        "",
        *_black_box(table),
        *_LIMITS,
    ]
    return "\n".join(parts) + "\n"


def _opening(setup: Setup, measured: Measured, when: Circumstances) -> list[str]:
    params, n = setup.params, len(measured.selection.names)
    search, delta = params.search, params.delta
    return [
        "# Results",
        "",
        (
            "Made by `miad-gateway experiment table --data DIR --out FILE "
            f"--n {n} --seed {params.seed}`; do not edit by hand."
        ),
        "",
        (
            f"- Images: {n} of the test split, classes in turn, that every member of "
            f"`{setup.ensemble.name}` classifies correctly "
            f"({measured.selection.examined} examined). Accuracy on the originals is "
            "therefore 100 %."
        ),
        "- Removers δ is made against: "
        + (", ".join(f"`{path.name}`" for path in setup.removers) or "none")
        + f"; ε = {delta.epsilon}/255, {delta.iterations} steps, host "
        f"`{delta.host}`, lesion guard {'on' if delta.lesion_guard else 'off'}.",
        (
            f"- Search: sl = {search.sl:g}, N_p = {search.n_p}, N_g = {search.n_g}, "
            f"s_α = {search.s_alpha}, r_c = {search.r_c:g}, r_p = {search.r_p:g}, "
            f"α {search.alpha_min}-{search.alpha_max} of 255, "
            f"t = {params.lesion.threshold}."
        ),
        (
            f"- {when.day.isoformat()}, {when.machine}; the last run took "
            f"{when.seconds / 60:.0f} minutes."
        ),
        (
            "- Every figure is of the final stored values, rendered again; intervals "
            "are Wilson 95 %."
        ),
    ]


_READING = (
    "Lower accuracy is better protection. Queries are candidates judged by the",
    "whole ensemble up to the first success; an image that never succeeds counts",
    "with its whole budget. “Smaller logo” are images whose lesion boxes left no",
    "room for the full size; “no place” are images that could not be marked and",
    "count as still classified. δ is in all rows but the last. Random search with",
    "SIT has the budget of HE-SIT and no evolution: the difference between the two",
    "is what evolution adds. δ only is the control for what δ does to a classifier",
    "by itself; its seconds are those of lesion boxes and δ, which the other rows",
    "share.",
)


def _black_box(table: Sequence[Line]) -> list[str]:
    rows = left_out_table(table)
    if len(rows) <= 2:
        return []
    return [
        "## Black box: one member left out",
        "",
        (
            "HE-SIT on the other members, judged by the member left out. Lesion boxes "
            "and δ are those of the product (the boxes come from all convolutional "
            "members, the left-out one included)."
        ),
        "",
        *rows,
        "",
    ]


_LIMITS = (
    "## What this does not show",
    "",
    "The packaged logo, the lower bound of α and the repeated draws of SIT were",
    "chosen after trials on some twenty images of the packaged ensemble's own test",
    "split, so its figures here are somewhat favourable.",
    "",
    "One data set, small members trained on it, and no adversary who adapts: no",
    "cropping, inpainting, denoising, retraining on protected images or averaging",
    "over crops. A search that stops at the first error of the ensemble ends close",
    "to the decision boundary, and such marks lose effect under resizing or",
    "compression. The mark deters and gives provenance; confidentiality rests on",
    "encryption and access control.",
)
