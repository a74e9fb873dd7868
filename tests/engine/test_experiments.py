"""Selection of images, sessions that go on, and the commands."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.errors import InvalidParameter
from engine.experiments.bench import Bench, Setup
from engine.experiments.changes import CHANGES, changed
from engine.experiments.images import Sample, load_sample, select
from engine.experiments.search import SearchPlan, in_turn
from engine.experiments.session import run_session
from engine.models.ensemble import load_ensemble
from gateway.cli.experiment import app
from tests.engine.experiments_small import LABELS, TINY, small_setup


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return small_setup(tmp_path_factory.mktemp("experiment"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What `Looking` keeps of an image."""

    image: str
    numbers: tuple[tuple[int, ...], ...]
    missing: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Looking:
    """A plan that costs nothing."""

    option: int = 1

    @property
    def name(self) -> str:
        return "looking"

    @property
    def record(self) -> type[Seen]:
        return Seen

    def measure(self, bench: Bench, sample: Sample) -> list[Seen]:
        del bench
        numbers = ((sample.index,), (sample.label, self.option))
        return [Seen(image=sample.name, numbers=numbers, missing=None)]


def test_only_images_that_all_members_know_are_selected(setup: Setup) -> None:
    ensemble = load_ensemble(setup.ensemble)
    selection = select(setup.data, ensemble, 10, 1)
    assert len(selection.names) == 4
    assert selection.examined == 5
    assert not any(name.endswith("/0.png") for name in selection.names)
    assert select(setup.data, ensemble, 2, 1).names == selection.names[:2]


def test_grey_files_are_grey_frames(setup: Setup) -> None:
    names = select(setup.data, load_ensemble(setup.ensemble), 10, 1).names
    colour = {
        name: load_sample(setup.data, name, LABELS).frame.colour for name in names
    }
    assert all(
        is_colour == (int(name[2]) % 2 == 1) for name, is_colour in colour.items()
    )


def test_a_folder_without_classes_is_refused(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="one folder per class"):
        select(tmp_path, load_ensemble(setup.ensemble), 3, 0)


def test_a_session_goes_on_where_it_was_cut(setup: Setup, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    first = run_session(setup, Looking(), 1, journal)
    assert [r.numbers[0] for r in first.records] == [(0,)]
    # Cut short as by an interruption: the half line is measured again.
    text = journal.read_text(encoding="utf-8")
    journal.write_text(text + '{"image": "a/', encoding="utf-8")
    ticks: list[tuple[int, int]] = []
    second = run_session(setup, Looking(), 3, journal, tick=lambda *t: ticks.append(t))
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    assert second.records[:1] == first.records
    assert [r.numbers[0] for r in second.records] == [(0,), (1,), (2,)]
    lines = journal.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    # Nothing is left to do: the journal alone gives the same, tuples and all.
    assert run_session(setup, Looking(), 3, journal).records == second.records


def test_a_journal_without_records_is_begun_again(setup: Setup, tmp_path: Path) -> None:
    journal = tmp_path / "new" / "journal.jsonl"
    run_session(setup, Looking(), 0, journal)
    assert len(run_session(setup, Looking(option=2), 1, journal).records) == 1
    assert len(journal.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("other", ["seed", "option", "models"])
def test_a_journal_of_something_else_is_refused(
    setup: Setup, tmp_path: Path, other: str
) -> None:
    journal = tmp_path / "journal.jsonl"
    run_session(setup, Looking(), 1, journal)
    plan = Looking(option=2 if other == "option" else 1)
    if other == "seed":
        setup = replace(setup, params=replace(TINY, seed=7))
    if other == "models":
        setup = replace(setup, removers=setup.removers[:1])
    with pytest.raises(InvalidParameter, match="other models, parameters or options"):
        run_session(setup, plan, 1, journal)


@pytest.mark.slow
def test_processes_measure_the_same(setup: Setup, tmp_path: Path) -> None:
    plan = SearchPlan(left_out=0)
    alone = run_session(setup, plan, 1, tmp_path / "alone.jsonl")
    spread = run_session(setup, plan, 1, tmp_path / "spread.jsonl", jobs=2)
    assert [replace(r, seconds=0.0) for r in alone.records] == [
        replace(r, seconds=0.0) for r in spread.records
    ]


@pytest.mark.parametrize(
    ("members", "classes", "count"), [(6, 4, 1), (4, 4, 1), (6, 3, 2)]
)
def test_members_are_left_out_alike(members: int, classes: int, count: int) -> None:
    class Names:
        names = tuple(f"m{i}" for i in range(members))
        labels = tuple(range(classes))

    class Stub:
        ensemble = Names()

    times: dict[tuple[int, str], int] = {}
    for index in range(members * classes):
        sample = Sample(name="a/1", label=index % classes, frame=None, index=index)  # type: ignore[arg-type]
        out = in_turn(Stub(), sample, count)  # type: ignore[arg-type]
        assert len(set(out)) == count
        for name in out:
            key = (sample.label, name)
            times[key] = times.get(key, 0) + 1
    assert len(times) == members * classes
    assert set(times.values()) == {count}


def test_one_member_cannot_be_left_out() -> None:
    class Alone:
        class ensemble:  # noqa: N801 - stands for an attribute
            names = ("only",)
            labels = LABELS

    sample = Sample(name="a/1", label=0, frame=None)  # type: ignore[arg-type]
    assert in_turn(Alone(), sample, 2) == []  # type: ignore[arg-type]


def test_changes_are_mild_and_the_same_for_the_same_seed() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    levels = np.kron(levels, np.ones((8, 8, 1), np.uint8))
    first = changed(levels, np.random.default_rng(1))
    again = changed(levels, np.random.default_rng(1))
    assert len(first) == len(CHANGES)
    for one, other in zip(first, again, strict=True):
        assert one.shape == levels.shape
        assert one.dtype == np.uint8
        assert np.array_equal(one, other)
        apart = np.abs(one.astype(int) - levels)
        assert 0 < apart.mean() < 30


@pytest.mark.slow
def test_a_command_writes_page_index_and_json(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "results"
    arguments = [
        *("authorise", "--data", str(setup.data), "--out", str(out), "--n", "1"),
        *("--ensemble", str(setup.ensemble), "--remover", str(setup.removers[0])),
        *("--seed", "5", "--json"),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    plain = json.loads(result.stdout)
    assert plain["n"] == 1
    assert plain["parameters"]["seed"] == 5
    page = (out / "authorise.md").read_text(encoding="utf-8")
    index = (out.parent / "results.md").read_text(encoding="utf-8")
    assert json.loads((out / "authorise.json").read_text(encoding="utf-8")) == plain
    for words in ("# Authorised recovery", "Wilson", "0.3607", "does not show"):
        assert words in page
    assert "(results/authorise.md)" in index
    assert "100.0% byte for byte" in index
    for text in (page, index, result.stdout):
        assert str(tmp_path) not in text


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    common = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(InvalidParameter, match="no ensemble 'none'"):
        CliRunner().invoke(
            app, ["search", *common, "--ensemble", "none"], catch_exceptions=False
        )
    with pytest.raises(InvalidParameter, match="strategies luck"):
        CliRunner().invoke(
            app, ["budget", *common, "--strategy", "luck"], catch_exceptions=False
        )
