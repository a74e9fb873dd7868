"""Measuring strategies: selection, records, resumption and the document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from engine.errors import InvalidParameter
from engine.experiments.images import load_sample, select
from engine.experiments.measure import (
    DELTA_ONLY,
    LEFT_OUT,
    STRATEGIES,
    WITHOUT_DELTA,
    Record,
    record_from,
    rows,
)
from engine.experiments.session import Setup, run_session
from engine.experiments.table import lines, percent
from engine.metrics import Proportion
from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone, save_classifier
from engine.models.ensemble import load_ensemble
from engine.params import DeltaParams, ProtectParams, SearchParams
from engine.removal.remover import save_remover
from engine.removal.wdnet import WDNet
from engine.watermark.working import working_image
from gateway.cli.experiment import app

LABELS = ("a", "b")
TINY = ProtectParams(
    search=SearchParams(n_p=1, n_g=1, r_p=0.0005), delta=DeltaParams(iterations=2)
)


def _save_models(folder: Path) -> None:
    """Two members that always agree, and a remover, all untrained."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet10t", 2)
    for name in ("first", "second"):
        card = ModelCard(
            name=name,
            family="test",
            architecture="resnet10t",
            labels=LABELS,
            input_size=64,
        )
        save_classifier(Classifier(backbone, card), folder / "pair")
    card = ModelCard(
        name="tiny",
        family="remover",
        architecture="wdnet",
        architecture_arguments={"width": 4, "levels": 2},
        input_size=64,
    )
    save_remover(WDNet(width=4, levels=2), card, folder / "remover")


def _save_images(folder: Path, models: Path) -> None:
    """Images in the folder of the class that the members see, and one elsewhere."""
    ensemble = load_ensemble(models / "pair")
    rng = np.random.default_rng(0)
    for i in range(5):
        coarse = rng.integers(0, 256, (6, 6, 3 if i % 2 else 1), dtype=np.uint8)
        levels = np.kron(coarse, np.ones((12, 11, 1), np.uint8)).squeeze()
        sample_name = f"a/{i}.png"
        (folder / "a").mkdir(parents=True, exist_ok=True)
        (folder / "b").mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(folder / sample_name)
        frame = load_sample(folder, sample_name, LABELS).frame
        shown = working_image(frame.stored, frame.rendering, torch.device("cpu"))
        with torch.inference_mode():
            seen = LABELS[int(ensemble.probabilities(shown[None]).argmax())]
        wrong = LABELS[1 - LABELS.index(seen)]
        Image.fromarray(levels).save(folder / (wrong if i == 0 else seen) / f"{i}.png")
        if (wrong if i == 0 else seen) != "a":
            (folder / sample_name).unlink()


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("experiment")
    _save_models(folder)
    _save_images(folder / "data", folder)
    return Setup(
        data=folder / "data",
        ensemble=folder / "pair",
        removers=(folder / "remover",),
        params=TINY,
    )


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


def test_a_session_measures_every_row_and_resumes(setup: Setup, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    first = run_session(setup, 1, journal)
    expected = (
        DELTA_ONLY,
        *STRATEGIES,
        WITHOUT_DELTA,
        LEFT_OUT + "first",
        LEFT_OUT + "second",
    )
    assert rows(load_ensemble(setup.ensemble)) == expected
    assert tuple(r.row for r in first.records) == expected
    by_row = {r.row: r for r in first.records}
    assert by_row["random"].queries == 1
    assert by_row["he"].queries >= 1
    assert all(set(r.members) == {"first", "second"} for r in first.records)
    # Cut short as by an interruption: the half line is measured again.
    text = journal.read_text(encoding="utf-8")
    journal.write_text(text + '{"image": "a/', encoding="utf-8")
    ticks: list[tuple[int, int]] = []
    second = run_session(setup, 2, journal, tick=lambda *t: ticks.append(t))
    assert ticks == [(1, 2), (2, 2)]
    assert second.records[: len(first.records)] == first.records
    assert run_session(setup, 2, journal).records == second.records


def test_a_journal_of_other_parameters_is_refused(setup: Setup, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    run_session(setup, 1, journal)
    other = replace(setup, params=replace(TINY, seed=7))
    with pytest.raises(InvalidParameter, match="other models or parameters"):
        run_session(other, 1, journal)


@pytest.mark.slow
def test_processes_measure_the_same(setup: Setup, tmp_path: Path) -> None:
    alone = run_session(setup, 2, tmp_path / "alone.jsonl")
    spread = run_session(setup, 2, tmp_path / "spread.jsonl", jobs=2)
    assert [replace(r, seconds=0.0) for r in alone.records] == [
        replace(r, seconds=0.0) for r in spread.records
    ]


def test_records_survive_json(setup: Setup, tmp_path: Path) -> None:
    measured = run_session(setup, 1, tmp_path / "journal.jsonl")
    for record in measured.records:
        text = json.dumps(record.as_dict(), allow_nan=False)
        assert record_from(json.loads(text)) == record


def _record(row: str, ensemble: int, **changes: object) -> Record:
    values: dict[str, object] = {
        "image": "a/1.png",
        "label": 0,
        "row": row,
        "placed": True,
        "ensemble": ensemble,
        "members": {"first": ensemble, "second": 0},
        "queries": 10,
        "alpha": 51,
        "psnr": 30.0,
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def test_lines_add_up() -> None:
    (line,) = lines(
        [
            _record("he", 1, queries=4),
            _record("he", 0, queries=300, fallbacks=("shrink 0.8",)),
            _record("he", 1, queries=8),
            _record("he", 0, placed=False, queries=0),
        ]
    )
    assert line.accuracy == Proportion(successes=2, n=4)
    assert line.members["first"].value == 0.5
    assert line.members["second"].value == 1.0
    assert line.queries == 104
    assert line.queries_found == 6
    assert line.smaller.value == 0.25
    assert line.unplaced.value == 0.25
    assert line.alpha == pytest.approx(0.2)
    assert percent(line.accuracy).startswith("50.0% (")


@pytest.mark.slow
def test_the_command_writes_document_and_json(setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "results.md"
    arguments = [
        *("table", "--data", str(setup.data), "--out", str(out), "--n", "1"),
        *("--ensemble", str(setup.ensemble), "--remover", str(setup.removers[0])),
        *("--seed", "5", "--json", "--journal", str(tmp_path / "journal.jsonl")),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    plain = json.loads(result.stdout)
    assert plain["n"] == 1
    assert plain["seed"] == 5
    text = out.read_text(encoding="utf-8")
    for words in ("# Results", "HE-SIT", "Black box", "left-out member", "Wilson"):
        assert words in text
    assert str(tmp_path) not in text


def test_an_unknown_ensemble_is_refused(tmp_path: Path) -> None:
    arguments = ["table", "--data", str(tmp_path), "--out", "x", "--ensemble", "none"]
    with pytest.raises(InvalidParameter, match="no ensemble 'none'"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
