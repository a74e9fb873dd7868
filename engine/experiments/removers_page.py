"""The page about removers, next to the paper's Figs. 5b, 5c, 8b and Table 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.experiments import paper
from engine.experiments.document import Headline, Page
from engine.experiments.removers import BOTH, NOWHERE, RemovalRecord, chosen
from engine.experiments.text import known, mean, number, percent, rate, share, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.metrics import Proportion

KINDS: Final = {
    "none": "no δ",
    "noise": "random noise (control)",
    "delta_d": "δ_D",
    "delta_i": "δ_I",
}

Key = tuple[str, str, bool]
"""Kind, against, marked: what a picture is before any remover."""


def page(records: Sequence[RemovalRecord]) -> Page:
    """Write the tables about removers."""
    removers = list(dict.fromkeys(r.through for r in records if r.through))
    body = [*_controls(records)]
    for name in removers:
        body += _quality(records, name)
        body += _accuracy(records, name)
    body += [*_after(records, removers), *_paper()]
    return Page(
        title="Removal networks and δ",
        body=body,
        headlines=[line for name in removers for line in _headlines(records, name)],
        data={"groups": _groups(records)},
    )


def _keys(records: Sequence[RemovalRecord], *, marked: bool) -> list[Key]:
    rows = [r for r in records if r.marked == marked and r.order == "before"]
    return list(dict.fromkeys((r.kind, r.against, r.marked) for r in rows))


def _pick(
    records: Sequence[RemovalRecord], key: Key, through: str, order: str = "before"
) -> list[RemovalRecord]:
    kind, against, marked = key
    return chosen(
        records,
        kind=kind,
        against=against,
        marked=marked,
        through=through,
        order=order,
    )


def describe(key: Key) -> str:
    """Name what is put through a remover."""
    kind, against, marked = key
    if kind == "none":
        return "mark" if marked else "original"
    made = {NOWHERE: "", BOTH: " against all"}.get(against, f" against `{against}`")
    return f"{'mark + ' if marked else ''}{KINDS[kind]}{made}"


def _right(group: Sequence[RemovalRecord], member: str | None = None) -> Proportion:
    return share(r.right(member) for r in group)


def _controls(records: Sequence[RemovalRecord]) -> list[str]:
    """Pictures that go through no remover."""
    names = list(records[0].members) if records else []
    rows = []
    for key in [*_keys(records, marked=False), *_keys(records, marked=True)]:
        group = _pick(records, key, NOWHERE)
        rows.append(
            [
                describe(key),
                percent(_right(group)),
                *(rate(_right(group, name).value) for name in names),
                number(mean(r.vs_original[0] for r in group), 3),
                number(mean(r.vs_original[1] for r in group)),
                number(mean(r.vs_original[2] for r in group), 2),
            ]
        )
    return [
        "Marks by HE-SIT with the paper's stop rule on I + δ. Pictures are compared on",
        "the grid of 224 that models and removers see; unless `--native` is given the",
        "images are brought to it first, as in the paper, and unless `--lesion-guard`",
        "is, δ acts on lesion boxes too. The paper reports no row of δ without a mark",
        "and without a remover; without it nobody can tell what a remover does from",
        "what δ does by itself.",
        "",
        "## Before any remover",
        "",
        "Accuracy, and quality against the original.",
        "",
        *table(("picture", "ensemble", *names, "SSIM", "PSNR dB", "RMSE"), rows),
    ]


def _quality(records: Sequence[RemovalRecord], through: str) -> list[str]:
    columns = (
        *("put in", "SSIM", "PSNR dB", "RMSE", "SSIM to input", "PSNR to input"),
        *("RMSE to input", "inside mark, dB in", "out", "mask area", "mark area"),
        *("mask IoU", "ensemble in", "out"),
    )
    rows = []
    for key in [("none", NOWHERE, False), *_keys(records, marked=True)]:
        group, given = _pick(records, key, through), _pick(records, key, NOWHERE)
        original = [mean(r.vs_original[i] for r in group) for i in range(3)]
        host = [mean(r.vs_input[i] for r in group) for i in range(3)]
        rows.append(
            [
                describe(key),
                *(number(v, d) for v, d in zip(original, (3, 1, 2), strict=True)),
                *(number(v, d) for v, d in zip(host, (3, 1, 2), strict=True)),
                number(mean(r.in_mark for r in given)),
                number(mean(r.in_mark for r in group)),
                rate(mean(r.mask_area for r in group)),
                rate(mean(r.mark_area for r in group)),
                number(mean(r.iou for r in group), 2),
                percent(_right(given)),
                percent(_right(group)),
            ]
        )
    return [
        f"## Through `{through}`",
        "",
        "What comes out, against the original and against what was put in (the paper's",
        "Fig. 5b and Table 1). δ made against another remover than this one shows how",
        "far it carries over. δ protects a mark where the last column stays low; a low",
        "quality of the output counts only as far as it is below that of δ alone.",
        "",
        *table(columns, rows),
    ]


def _accuracy(records: Sequence[RemovalRecord], through: str) -> list[str]:
    """Members' accuracy on what comes out (Fig. 5c)."""
    names = list(records[0].members)
    keys = [k for k in _keys(records, marked=True) if k[1] in {NOWHERE, through, BOTH}]
    alone = ("delta_d", through, False)
    rows = [
        [
            name or "ensemble",
            *(percent(_right(_pick(records, k, through), name or None)) for k in keys),
            percent(_right(_pick(records, alone, NOWHERE), name or None)),
        ]
        for name in ("", *names)
    ]
    columns = ("accuracy on outputs", *map(describe, keys), "δ_D, no mark, no remover")
    return ["Every member (the paper's Fig. 5c).", "", *table(columns, rows)]


def _after(records: Sequence[RemovalRecord], removers: Sequence[str]) -> list[str]:
    """δ put in after the mark (Fig. 8b)."""
    if not chosen(records, order="after"):
        return []
    rows = []
    for kind in KINDS:
        cells = [KINDS[kind]]
        for name in removers:
            against = name if kind.startswith("delta") else NOWHERE
            order = "before" if kind == "none" else "after"
            key = (kind, against, True)
            cells += [
                percent(_right(_pick(records, key, through, order)))
                for through in (NOWHERE, name)
            ]
        rows.append(cells)
    columns = ("", *(f"`{n}`, {side}" for n in removers for side in ("in", "out")))
    return [
        "## δ put in after the mark",
        "",
        "Accuracy of the ensemble on the marked picture with δ put in afterwards, and",
        "on what the remover makes of it (the paper's Fig. 8b). δ is the one made on",
        "the original under random marks, as for the product, not made anew.",
        "",
        *table(columns, rows),
    ]


def _groups(records: Sequence[RemovalRecord]) -> list[dict[str, Any]]:
    """Every mean of the tables, for JSON."""
    keys = dict.fromkeys(
        (r.kind, r.against, r.marked, r.order, r.through) for r in records
    )
    plain = []
    for kind, against, marked, order, through in keys:
        group = _pick(records, (kind, against, marked), through, order)
        plain.append(
            {
                "kind": kind,
                "against": against,
                "marked": marked,
                "order": order,
                "through": through,
                "accuracy": _right(group).as_dict(),
                "members": {m: _right(group, m).as_dict() for m in group[0].members},
                "vs_original": [
                    known(mean(r.vs_original[i] for r in group)) for i in range(3)
                ],
                "vs_input": [
                    known(mean(r.vs_input[i] for r in group)) for i in range(3)
                ],
                "in_mark": known(mean(r.in_mark for r in group)),
                "mask_area": known(mean(r.mask_area for r in group)),
                "mark_area": known(mean(r.mark_area for r in group)),
                "iou": known(mean(r.iou for r in group)),
            }
        )
    return plain


def _headlines(records: Sequence[RemovalRecord], through: str) -> list[Headline]:
    plain: Key = ("none", NOWHERE, True)
    guarded: Key = ("delta_d", through, True)
    bare, kept = (_pick(records, key, through) for key in (plain, guarded))
    alone = _pick(records, ("delta_d", through, False), NOWHERE)
    without = [v for w, _ in paper.REMOVED_ACCURACY.values() for v in w]
    with_delta = [v for _, w in paper.REMOVED_ACCURACY.values() for v in w]
    return [
        Headline(
            what=f"`{through}`: ensemble accuracy on outputs, no δ → δ_D against it",
            here=(
                f"{percent(_right(bare))} → {percent(_right(kept))}; "
                f"δ alone {rate(_right(alone).value)}"
            ),
            paper=f"{rate(mean(without))} → {rate(mean(with_delta))} (Fig. 5c, mean)",
        ),
        Headline(
            what=f"`{through}`: SSIM, PSNR, RMSE of outputs, no δ → δ_D against it",
            here=f"{_triple(bare)} → {_triple(kept)}; δ alone {_triple(alone)}",
            paper="; ".join(
                f"{name} {number(mean(rows['without δ']), 2)} → "
                f"{number(mean(rows['with δ']), 2)}"
                for name, rows in paper.REMOVED_QUALITY.items()
            ),
        ),
    ]


def _triple(group: Sequence[RemovalRecord]) -> str:
    values = [mean(r.vs_original[i] for r in group) for i in range(3)]
    return ", ".join(number(v, d) for v, d in zip(values, (3, 1, 1), strict=True))


def _paper() -> list[str]:
    """Write the paper's tables as they are."""
    quality = [
        [f"{name}, {row}", *(f"{v:g}" for v in values)]
        for name, rows in paper.REMOVED_QUALITY.items()
        for row, values in rows.items()
    ]
    accuracy = [
        [name, *(f"{a:g} → {b:g}" for a, b in zip(*pair, strict=True))]
        for name, pair in paper.REMOVED_ACCURACY.items()
    ]
    perturbed = [
        [f"{name}, {KINDS[kind]}"]
        + [
            f"{v:g}" + ("*" if kind == "noise" and i in paper.COPY_ERRORS else "")
            for i, v in enumerate(values)
        ]
        for name, rows in paper.PERTURBED_QUALITY.items()
        for kind, values in rows.items()
    ]
    after = [
        [KINDS[kind], *(f"{a:g} → {b:g}" for a, b in zip(*pair, strict=True))]
        for kind, pair in paper.INJECTED_AFTER.items()
    ]
    columns = ("", *paper.COLUMNS)
    return [
        "## The paper's figures",
        "",
        "Messidor, ISIC2019, BTMRI (M, I, B) through SplitNet and WDNet (S, W).",
        "Fig. 5b: outputs against the original.",
        "",
        *table(columns, quality),
        "Fig. 5c: accuracy on outputs, without δ → with δ.",
        "",
        *table(columns, accuracy),
        "Table 1, most likely against the remover's input. Cells with * repeat other",
        "cells of the paper's table and are taken for a slip of copying.",
        "",
        *table(columns, perturbed),
        "Fig. 8b: δ put in after the mark, accuracy on input → output.",
        "",
        *table(columns, after),
    ]
