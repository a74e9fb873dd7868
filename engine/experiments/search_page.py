"""The page about searches, next to the paper's Figs. 2 and 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.experiments import paper
from engine.experiments.bench import ALL, ONLY, WITHOUT
from engine.experiments.document import Headline, Page
from engine.experiments.figure import Panel, draw_panels
from engine.experiments.marked import DELTA_ONLY, ORIGINAL, MarkRecord
from engine.experiments.search import STRATEGIES
from engine.experiments.table import (
    NAMES,
    Line,
    about_delta,
    black_box,
    curve,
    left_out,
    lines,
    named,
    of_sources,
)
from engine.experiments.text import (
    deviation,
    difference,
    known,
    mean,
    number,
    percent,
    rate,
    share,
    table,
)
from engine.metrics import Proportion, paired

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIGURE: Final = "roc.svg"


def page(records: Sequence[MarkRecord]) -> Page:
    """Write the tables of the searches."""
    summed = lines(records)
    return Page(
        title="Searches: white box and black box",
        body=[
            *about_delta(records),
            *_members(summed),
            *_areas(summed),
            *_ensemble(summed),
            *_left_out(summed, records),
            *_compared(records),
        ],
        headlines=_headlines(summed, records),
        data={"lines": [line.as_dict() for line in summed]} | _averages(summed),
        figures={_FIGURE: draw_panels(_curves(records))},
    )


def _curves(records: Sequence[MarkRecord]) -> list[Panel]:
    """Every model by itself, on originals and under HE-SIT."""
    originals = [r for r in records if r.strategy == ORIGINAL]
    marked = [r for r in records if r.strategy == "he-sit"]
    panels = []
    for name in originals[0].members:
        own = [r for r in marked if r.sources == ONLY + name]
        if own:
            panels.append(
                Panel(
                    title=name,
                    original=curve(originals, name),
                    marked=curve(own, name),
                )
            )
    return panels


def _by_model(summed: Sequence[Line], strategy: str) -> list[Line]:
    """Lines of the models attacked one by one."""
    return named(of_sources(summed, ONLY), strategy)


def _averages(summed: Sequence[Line]) -> dict[str, Any]:
    models = {s: _by_model(summed, s) for s in STRATEGIES}
    return {
        "average_accuracy": {
            s: known(mean(one.own.value for one in models[s])) for s in STRATEGIES
        },
        "average_auc": {
            s: known(mean(one.auc for one in models[s])) for s in STRATEGIES
        },
    }


def _members(summed: Sequence[Line]) -> list[str]:
    columns = ("model", *(NAMES[s] for s in STRATEGIES), "queries of HE-SIT")
    models = {s: _by_model(summed, s) for s in STRATEGIES}
    rows = [
        [
            one.sources.removeprefix(ONLY),
            *(percent(models[s][i].own) for s in STRATEGIES),
            f"{one.queries:.0f} ({number(one.queries_found, 0)} of successes)",
        ]
        for i, one in enumerate(models["he-sit"])
    ]
    values = {s: [one.own.value for one in models[s]] for s in STRATEGIES}
    rows.append(
        ["**average (AA)**"]
        + [f"**{rate(mean(values[s]))}**" for s in STRATEGIES]
        + [number(mean(one.queries for one in models["he-sit"]), 0)]
    )
    rows.append(["Std", *(rate(deviation(values[s])) for s in STRATEGIES), ""])
    rows.append(["minimum", *(rate(min(values[s])) for s in STRATEGIES), ""])
    aa = paper.AVERAGE_ACCURACY
    calls = ", ".join(f"{v} {k}" for k, v in paper.QUERIES.items())
    rows.append(["paper, AA", *(rate(aa.get(s)) for s in STRATEGIES), calls])
    lowest = ", ".join(f"{rate(v)} {k}" for k, v in paper.MINIMUM.items())
    rows.append(["paper, minimum", "", "", lowest, "", ""])
    return [
        "## White box: each model by itself",
        "",
        "Accuracy of a model on pictures marked by a search on that model, lesion",
        "boxes from the same model; the paper's Fig. 2b. The paper prints its cells",
        "per model as a picture: only its averages and minima are known. Its count of",
        "model calls is the mean over seven logos (Fig. 7).",
        "",
        *table(columns, rows),
    ]


def _areas(summed: Sequence[Line]) -> list[str]:
    (original,) = named(of_sources(summed, ALL), ORIGINAL)
    columns = ("model", "original", *(NAMES[s] for s in STRATEGIES))
    models = {s: _by_model(summed, s) for s in STRATEGIES}
    names = [one.sources.removeprefix(ONLY) for one in models["he-sit"]]
    rows = [
        [
            name,
            number(original.member_auc[name], 4),
            *(number(models[s][i].auc, 4) for s in STRATEGIES),
        ]
        for i, name in enumerate(names)
    ]
    means = [mean(original.member_auc[name] for name in names)]
    means += [mean(one.auc for one in models[s]) for s in STRATEGIES]
    rows.append(["**average**", *(f"**{number(v, 4)}**" for v in means)])
    known_areas = ", ".join(f"{v} {k}" for k, v in paper.AUC.items())
    rows.append(["paper, average", "", "", "", known_areas, ""])
    return [
        "Area under the micro-average one-vs-rest ROC curve of the same pictures (the",
        "paper's Fig. 3). 0.5 is guessing; below it a model is misled with confidence.",
        "",
        f"![ROC curves of each model: originals blue, HE-SIT red]({_FIGURE})",
        "",
        *table(columns, rows),
    ]


def _ensemble(summed: Sequence[Line]) -> list[str]:
    columns = (
        *("", "accuracy (95 %)", "AUC", "mean queries", "of successes", "mean α"),
        *("smaller logo", "no place", "PSNR dB", "SSIM", "forwards", "s/image"),
    )
    rows = []
    for line in of_sources(summed, ALL):
        marked = line.strategy not in {ORIGINAL, DELTA_ONLY}
        cells = [NAMES[line.strategy], percent(line.seen), number(line.auc, 4)]
        if marked:
            cells += [number(line.queries), number(line.queries_found)]
            cells += [number(line.alpha, 2), rate(line.smaller.value)]
            cells += [rate(line.unplaced.value)]
        else:
            cells += [""] * 5
        cells += [number(line.psnr), number(line.ssim, 3)]
        cells += [number(line.model_forwards, 0), number(line.seconds, 2)]
        rows.append(cells if line.strategy != ORIGINAL else [*cells[:-4], *[""] * 4])
    return [
        "## White box: the whole ensemble",
        "",
        "Searched on the mean of all members' probabilities (Eq. 12) and judged by",
        "it. Queries are candidates the whole ensemble judges up to the first",
        "success; an image that never succeeds counts with its whole budget.",
        "“Smaller logo”: the lesion boxes left no room for the full size; “no place”:",
        "could not be marked and counts as still classified. Random search with SIT",
        "has the budget of HE-SIT and no evolution: the difference between the two is",
        "what evolution adds.",
        "",
        *table(columns, rows),
    ]


def _left_out(summed: Sequence[Line], records: Sequence[MarkRecord]) -> list[str]:
    if not black_box(records):
        return []
    columns = ("left out", "n", *(NAMES[s] for s in STRATEGIES), "AUC of HE-SIT")
    models = {s: named(of_sources(summed, WITHOUT), s) for s in STRATEGIES}
    rows = [
        [
            one.sources.removeprefix(WITHOUT),
            str(one.own.n),
            *(percent(_same(models[s], one).own) for s in STRATEGIES),
            number(one.own_auc, 4),
        ]
        for one in models["he-sit"]
    ]
    pooled = {s: transfer(records, s) for s in STRATEGIES}
    rows.append(
        [
            "**all pairs**",
            str(pooled["he-sit"].n),
            *(f"**{percent(pooled[s])}**" for s in STRATEGIES),
            number(mean(one.own_auc for one in models["he-sit"]), 4),
        ]
    )
    averages = ", ".join(f"{rate(v)} {k}" for k, v in paper.LEFT_OUT.items())
    rows.append(["paper, average", "", "", "", averages, "", ""])
    lowest = rate(paper.LEFT_OUT_MINIMUM)
    rows.append(["paper, minimum", "", "", "", lowest, "", ""])
    return [
        "## Black box: one member left out",
        "",
        "Searched on the other members, judged by the member left out (the paper's",
        "Fig. 2c). Lesion boxes come from the other members only. Each image leaves",
        "out some of the members in turn, so a row has fewer images than there are.",
        "",
        *table(columns, rows),
    ]


def _same(candidates: Sequence[Line], one: Line) -> Line:
    """Find the line of the same sources."""
    return next(line for line in candidates if line.sources == one.sources)


def transfer(
    records: Sequence[MarkRecord], strategy: str, stop: str = "ensemble"
) -> Proportion:
    """Accuracy of members left out, over all pairs of an image and a member."""
    return share(
        r.right(left_out(r))
        for r in black_box(records)
        if r.strategy == strategy and r.stop == stop
    )


def _compared(records: Sequence[MarkRecord]) -> list[str]:
    rows = []
    for first, second in (("he-sit", "random-sit"), ("he-sit", "he"), ("he", "random")):
        cells = [f"{NAMES[first]} less {NAMES[second]}"]
        for kind in (ALL, ONLY, WITHOUT):
            sides = [_answers(records, s, kind) for s in (first, second)]
            cells.append(difference(paired(*sides)) if sides[0] else "-")
        rows.append(cells)
    columns = ("", "whole ensemble", "each model", "model left out")
    return [
        "## Strategy against strategy",
        "",
        "Difference of the accuracy of the model under attack on the same images, in",
        "points, with its 95 % interval and the exact p of McNemar's test; in brackets",
        "on how many pictures only the first, only the second left the model right.",
        "Negative: the first protects better. Pictures of one image under several",
        "models are not independent: the last two columns are too sure of themselves.",
        "",
        *table(columns, rows),
    ]


def _answers(records: Sequence[MarkRecord], strategy: str, kind: str) -> list[bool]:
    """Whether the model under attack is right, in the order of the images."""
    return [
        r.right(left_out(r)) if kind == WITHOUT else r.seen_right
        for r in records
        if r.strategy == strategy
        and (r.sources == ALL if kind == ALL else r.sources.startswith(kind))
    ]


def _headlines(summed: Sequence[Line], records: Sequence[MarkRecord]) -> list[Headline]:
    rows = [
        Headline(
            what=f"Accuracy, white box, mean over models: {NAMES[s]}",
            here=rate(mean(one.own.value for one in _by_model(summed, s))),
            paper=rate(paper.AVERAGE_ACCURACY.get(s)),
        )
        for s in STRATEGIES
    ]
    areas = [one.auc for one in _by_model(summed, "he-sit")]
    rows.append(
        Headline(
            what="AUC, white box, mean over models: HE-SIT",
            here=number(mean(areas), 4),
            paper=", ".join(f"{v} {k}" for k, v in paper.AUC.items()),
        )
    )
    if black_box(records):
        rows.append(
            Headline(
                what="Accuracy of the model left out: HE-SIT, paper's stop rule",
                here=percent(transfer(records, "he-sit")),
                paper=", ".join(f"{rate(v)} {k}" for k, v in paper.LEFT_OUT.items()),
            )
        )
    return rows
