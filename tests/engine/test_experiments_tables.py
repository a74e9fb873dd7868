"""Tables from hand-made records, and the paper's numbers beside them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest

from engine.experiments import authorise, budget_page, paper, removers_page, search_page
from engine.experiments.authorise import StageRecord
from engine.experiments.bench import Setup
from engine.experiments.budget import BudgetPlan
from engine.experiments.budget_page import best, pools
from engine.experiments.document import Circumstances, Headline, Page, write_page
from engine.experiments.images import Selection
from engine.experiments.marked import MarkRecord
from engine.experiments.removers import RemovalRecord
from engine.experiments.search import STRATEGIES, SearchPlan
from engine.experiments.search_page import transfer
from engine.experiments.session import Measured
from engine.experiments.table import lines
from engine.experiments.text import deviation, mean, number, percent, rate
from engine.metrics import Proportion
from tests.engine.experiments_small import TINY, record

WITHOUT_FIRST = "without:first"
WITHOUT_SECOND = "without:second"


def test_lines_add_up() -> None:
    (line,) = lines(
        [
            record(right=False, queries=4, first_error=4),
            record(right=True, queries=300, fallbacks=("shrink 0.8",)),
            record(right=False, queries=8, first_error=6, gradients=3),
            record(right=True, placed=False, queries=0),
        ]
    )
    assert line.seen == Proportion(successes=2, n=4)
    assert line.members["first"].value == 0.5
    assert line.members["second"].value == 1.0
    assert line.queries == 104
    assert line.queries_found == 6
    assert line.first_error == 5
    assert line.erred.value == 0.5
    assert line.gradients == 1
    assert line.smaller.value == 0.25
    assert line.unplaced.value == 0.25
    assert line.alpha == pytest.approx(0.2)
    assert line.own == line.seen
    # Flattened: .9 .9 .2 .2 are positives, .1 .1 .8 .8 negatives. Both .9 beat
    # all four; each .2 beats both .1: 12 of 16 pairs.
    assert line.auc == pytest.approx(12 / 16)
    assert line.member_auc["second"] == 1
    json.dumps(line.as_dict(), allow_nan=False)


def test_a_line_without_a_member_is_about_that_member() -> None:
    (line,) = lines([record(right=False, sources=WITHOUT_SECOND)])
    assert line.seen.value == 0
    assert line.own.value == 1
    assert line.own_auc == 1


def _pairs() -> list[MarkRecord]:
    """Two pairs of image and member: HE misleads one left-out member, gradient both."""
    changed = {"first": (0, 0, 1, 1), "second": (1, 1, 1, 0)}
    rows = []
    for i, sources in enumerate((WITHOUT_FIRST, WITHOUT_SECOND)):
        shared = {"image": f"a/{i}.png", "sources": sources, "changed": changed}
        rows += [
            record("he-sit", right=False, mark_ssim=0.95, **shared),
            record("random-sit", right=True, mark_ssim=0.95, **shared),
            replace(
                record("gradient", right=False, mark_ssim=0.9, stop="never", **shared),
                members={"first": (0.1, 0.9), "second": (0.1, 0.9)},
            ),
            replace(
                record("cma-es", right=False, mark_ssim=0.5, stop="never", **shared),
                members={"first": (0.1, 0.9), "second": (0.1, 0.9)},
            ),
        ]
    return [record("original"), *rows]


def test_pools_count_the_member_left_out() -> None:
    by_key = {one.key: one for one in pools(_pairs())}
    paper_choice = by_key["he-sit", "ensemble"]
    assert paper_choice.unseen == Proportion(successes=1, n=2)
    assert paper_choice.by_member["first"].value == 0
    assert paper_choice.by_member["second"].value == 1
    # Two of four changes leave the first right, one of four the second.
    assert paper_choice.changed == pytest.approx(3 / 8)
    assert by_key["random-sit", "ensemble"].unseen.value == 1
    assert by_key["gradient", "never"].unseen.value == 0


def test_the_best_keeps_the_mark_discreet() -> None:
    winner = best(pools(_pairs()))
    assert winner is not None
    assert winner.key == ("gradient", "never")
    assert best([]) is None


def test_the_budget_page_says_whether_the_target_is_met() -> None:
    text = _markdown(budget_page.page(_pairs(), 128))
    assert "Gradient-guided with stop rule `never`" in text
    assert "met by the best" in text
    assert "not met" not in text
    # Each of the two pairs left right by the control and misled by the gradient.
    assert "-50.0" in text
    assert "after the same changes on" not in _markdown(
        budget_page.page(_pairs()[1:], 128)
    )


def _searches() -> list[MarkRecord]:
    rows = [record("original")]
    for sources in ("all", "only:first", "only:second", WITHOUT_SECOND):
        rows += [
            record(s, right=s in {"random", "he"}, sources=sources) for s in STRATEGIES
        ]
    return rows


def test_the_search_page_stands_next_to_the_paper() -> None:
    page = search_page.page(_searches())
    text = _markdown(page)
    for words in ("84.3%", "38.6%", "31.8%", "56.7% Messidor", "58.9% ISIC2019"):
        assert words in text
    for words in ("0.6198 BTMRI", "0.6388 Messidor", "0.8641 ISIC2019", "45.8%"):
        assert words in text
    for words in ("8.6% Messidor", "15.1% ISIC2019", "34 Messidor", "128 BTMRI"):
        assert words in text
    drawing = ElementTree.fromstring(page.figures["roc.svg"])
    titles = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert "first" in titles
    assert "second" in titles
    assert len([one for one in drawing.iter() if one.tag.endswith("polyline")]) == 4
    assert page.data["average_accuracy"]["random"] == 1
    assert page.data["average_accuracy"]["he-sit"] == 0
    here = {one.what: one.here for one in page.headlines}
    assert here["Accuracy, white box, mean over models: HE-SIT"] == "0.0%"


def test_transfer_asks_the_member_left_out() -> None:
    assert transfer(_searches(), "he-sit") == Proportion(successes=1, n=1)
    assert math.isnan(transfer(_searches(), "cma-es").value)


def test_search_page_of_one_model_has_no_black_box() -> None:
    alone = [r for r in _searches() if r.sources in {"all", "only:first"}]
    assert "## Black box" not in _markdown(search_page.page(alone))


def _removals() -> list[RemovalRecord]:
    def one(
        kind: str, through: str, *, right: bool, **changes: object
    ) -> RemovalRecord:
        values: dict[str, object] = {
            "image": "a/1.png",
            "label": 0,
            "kind": kind,
            "against": "one" if kind.startswith("delta") else "",
            "marked": True,
            "through": through,
            "seen": (0.9, 0.1) if right else (0.1, 0.9),
            "members": {"first": (0.9, 0.1)},
            "vs_original": (0.9, 30.0, 8.0),
            "vs_input": (0.95, None, 1.0),
            "in_mark": 20.0,
            "mask_area": 0.1,
            "mark_area": 0.1,
            "iou": 0.8 if through else None,
        }
        return RemovalRecord(**(values | changes))  # type: ignore[arg-type]

    rows = []
    for through in ("", "one"):
        rows.append(one("none", through, right=True, marked=False, in_mark=None))
        rows.append(one("none", through, right=bool(through)))
        rows.append(one("delta_d", through, right=False))
        rows.append(one("delta_d", through, right=False, order="after"))
    rows.append(one("delta_d", "", right=True, marked=False, in_mark=None))
    return rows


def test_the_removers_page_stands_next_to_the_paper() -> None:
    page = removers_page.page(_removals())
    text = _markdown(page)
    for row in ("δ_D against `one`", "mark + δ_D against `one`", "## Through `one`"):
        assert row in text
    for number_of_paper in (
        "0.9706",
        "8.9949",
        "0.3029 → 0.2875",
        "43.5864*",
        "0.0417",
    ):
        assert number_of_paper in text
    what = page.headlines[0]
    assert what.here.startswith("100.0%")
    assert "→ 0.0%" in what.here
    assert "δ alone 100.0%" in what.here
    json.dumps(page.data, allow_nan=False)


def test_the_authorisation_page_stands_next_to_the_paper() -> None:
    records = [
        StageRecord(
            image="a/1.png",
            label=0,
            stage=stage,
            seen=(0.1, 0.9) if stage == "AW" else (0.9, 0.1),
            members={"first": (0.9, 0.1)},
            ssim=1.0,
            psnr=None,
            equal=stage in {"Ori", "RI"},
        )
        for stage in authorise.STAGES
    ]
    page = authorise.page(records)
    text = _markdown(page)
    assert "| RI | 1.0000 |" in text
    assert "0.0435" in text
    assert page.data["stages"]["AW"]["accuracy"]["value"] == 0
    assert page.data["stages"]["RI"]["equal"]["value"] == 1


def test_the_papers_numbers_add_up() -> None:
    """Means the specification derived from the same tables."""
    bare = [v for w, _ in paper.REMOVED_ACCURACY.values() for v in w]
    kept = [v for _, w in paper.REMOVED_ACCURACY.values() for v in w]
    assert mean(bare) == pytest.approx(0.6208, abs=5e-5)
    assert mean(kept) == pytest.approx(0.3851, abs=5e-5)
    psnr, rmse = (paper.REMOVED_QUALITY[m]["with δ"] for m in ("PSNR", "RMSE"))
    for decibels, levels in zip(psnr, rmse, strict=True):
        # Means of logarithms and of levels agree only roughly.
        assert 20 * math.log10(255 / levels) == pytest.approx(decibels, abs=1.0)


def test_pages_and_index_are_written(tmp_path: Path) -> None:
    setup = Setup(
        data=tmp_path / "secret",
        ensemble=Path("brain"),
        removers=(),
        params=TINY,
    )
    when = Circumstances(day=date(2026, 1, 2), seconds=90, command="run DIR")
    folder = tmp_path / "docs" / "results"
    for plan in (BudgetPlan(), SearchPlan()):
        measured: Measured[MarkRecord] = Measured(
            selection=Selection(names=("a/1.png",), examined=3), records=()
        )
        page = Page(
            title=f"About {plan.name}",
            body=["body", ""],
            figures={"curve.svg": "<svg/>"},
            headlines=[Headline(what="figure", here="1", paper="2")],
        )
        write_page(folder, page, (setup, plan, measured), when)
    index = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    assert index.index("About search") < index.index("About budget")
    assert "| figure | 1 | 2 |" in index
    assert "does not show" in index
    assert (folder / "curve.svg").read_text(encoding="utf-8") == "<svg/>"
    text = (folder / "budget.md").read_text(encoding="utf-8")
    assert "Made by `run DIR`" in text
    assert "(3 examined)" in text
    assert "secret" not in text
    plain = json.loads((folder / "budget.json").read_text(encoding="utf-8"))
    assert plain["options"]["queries"] == 128
    assert "secret" not in json.dumps(plain)


def test_what_is_unknown_is_a_dash() -> None:
    assert number(math.nan) == number(None) == rate(None) == "-"
    assert percent(Proportion(successes=0, n=0)) == "-"
    assert percent(Proportion(successes=1, n=2)).startswith("50.0% (")
    assert deviation([1.0, 3.0]) == 1
    assert math.isnan(mean([None]))


def _markdown(page: Page) -> str:
    return "\n".join(page.body)
