"""The table says what the journals say, and what was not run is not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ledger import Journal
from tests.faults.scenarios import SCENARIOS
from tests.faults.table import (
    BEGIN,
    END,
    fault_rows,
    kill_row,
    points_row,
    takeover_row,
    write_table,
)


def test_rounds_are_told_with_what_they_came_to(tmp_path: Path) -> None:
    assert kill_row(tmp_path, "SQLite").good is None
    journal = Journal(tmp_path / "journal.jsonl")
    for target in ("worker", "worker", "all"):
        journal.note(
            "round",
            number=1,
            target=target,
            at_work=True,
            received=2,
            web=1,
            seconds=40.0,
        )
    assert kill_row(tmp_path, "SQLite").good is None
    figures = {"acknowledged": 7, "arrived again at outside": 2}
    journal.note("result", rounds=3, broken=[], figures=figures)
    row = kill_row(tmp_path, "SQLite")
    assert row.good
    assert "3 rounds in 2 min (worker 2, all 1; 3 of them after" in row.seen
    assert "9 times answered Success in them, 7 objects acknowledged" in row.seen
    journal.note("result", rounds=3, broken=["a: lost | gone"], figures=figures)
    assert "**NOT SHOWN**" in str(kill_row(tmp_path, "SQLite"))
    assert "lost \\| gone" in str(kill_row(tmp_path, "SQLite"))


def test_points_are_shown_only_when_all_were_passed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note("passed", name="store.adopt:after", seconds=3.0)
    journal.note("result", broken=[])
    assert points_row(tmp_path).good is False


@pytest.mark.parametrize(("seconds", "good"), [(59.0, True), (61.0, False)])
def test_a_take_over_has_its_limit(tmp_path: Path, seconds: float, good: bool) -> None:
    Journal(tmp_path / "journal.jsonl").note("takeover", seconds=seconds, broken=[])
    assert takeover_row(tmp_path).good is good


def test_every_fault_has_a_row_with_its_last_outcome(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note("scenario", name="no-dns", good=False, facts=[], wrong=["lost"])
    journal.note("scenario", name="no-dns", good=True, facts=["fine"], wrong=[])
    rows = list(fault_rows(tmp_path))
    assert len(rows) == len(SCENARIOS)
    (found,) = (row for row in rows if row.promise.startswith("`no-dns`"))
    assert (found.good, found.seen) == (True, "fine")
    assert sum(row.good is None for row in rows) == len(SCENARIOS) - 1


def test_the_table_takes_its_place_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(page, "new \\1")
    assert page.read_text() == f"before\n{BEGIN}\nnew \\1\n{END}\nafter\n"
