"""``protect --trace``: the search of each mark as data and as a drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner, Result

import gateway.stages.protectors as protectors_module
from config.schema import Protection
from engine.params import SearchParams
from engine.search.candidate import Candidate, Judged, Judgement
from engine.search.trace import Trace
from engine.types import SIT, Box, Frame
from gateway.cli.files import app
from gateway.dicom.pixels import Reading
from tests.gateway.object_cases import (
    FastFrame,
    FastProtector,
    corpus_file,
    grey_dataset,
)


def _trace(frame: Frame) -> Trace:
    said = Judgement(fitness=0.3, tie=-0.5, wrong=2, deceived=True, success=True)
    tried = Judgement(fitness=0.9, tie=2.5, wrong=0, deceived=False, success=False)
    rows, columns = frame.stored.shape[:2]
    return Trace(
        params=SearchParams(),
        seed=7,
        ensemble="planted",
        members=("a", "b"),
        labels=("healthy", "ill"),
        label=0,
        label_free=False,
        logo_sha256="00" * 32,
        shrink=1.0,
        fallbacks=(),
        columns=columns,
        rows=rows,
        side=224,
        grey=not frame.colour,
        size=(columns // 2, rows // 4),
        boxes=(Box(x0=90, y0=80, x1=130, y1=120),),
        entries=(
            Judged(Candidate(10, 20, 150, SIT()), tried),
            Judged(Candidate(90, 130, 204, SIT(rotation=-5.0)), said),
        ),
        result=1,
        success=True,
        queries=2,
    )


class TracedProtector(FastProtector):
    """As if the mark had been searched."""

    def marked(self, frame: Frame, seed: bytes) -> FastFrame:
        return replace(super().marked(frame, seed), trace=_trace(frame))


class TracedProtectors:
    """In place of models and search."""

    keywords: frozenset[str] = frozenset()

    def __init__(self, protection: Protection) -> None:
        del protection

    def choose(self, attributes: Mapping[str, Any]) -> FastProtector:
        del attributes
        return TracedProtector()

    def reading(self, attributes: Mapping[str, Any]) -> Reading:
        del attributes
        return Reading(max_frames=200)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protectors_module, "Protectors", TracedProtectors)


def protect(tmp_path: Path, *arguments: object) -> Result:
    fixed = ("-o", tmp_path / "out", "--site", tmp_path / "site", "--json")
    return CliRunner().invoke(app, ["protect", *map(str, (*arguments, *fixed))])


def test_the_trace_and_its_drawing_are_written(tmp_path: Path) -> None:
    file = tmp_path / "traces" / "mr.json"
    done = protect(tmp_path, corpus_file("MR_small.dcm"), "--trace", file)
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert answer["traces"] == [str(file)]
    trace = Trace.from_json(file.read_text())
    assert (trace.columns, trace.rows, trace.queries) == (64, 64, 2)
    with Image.open(file.with_suffix(".png")) as drawing:
        shown = np.asarray(drawing.convert("RGB"), dtype=int)
    assert shown.shape == (800, 1440, 3)
    # The picture of the protected file is on the left, not an empty square.
    assert shown[110:680, 60:620].std() > 10


def test_every_frame_of_every_file_has_its_own(tmp_path: Path) -> None:
    several = tmp_path / "several.dcm"
    dataset = grey_dataset(np.arange(4800).reshape(3, 40, 40) % 4096, bits_stored=12)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(several, enforce_file_format=True)
    file = tmp_path / "t.json"
    done = protect(tmp_path, several, corpus_file("MR_small.dcm"), "--trace", file)
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)
    names = ["t.json", "t-2.json", "t-3.json", "t-4.json"]
    assert first["traces"] + second["traces"] == [str(tmp_path / n) for n in names]
    sides = [Trace.from_json((tmp_path / n).read_text()).rows for n in names]
    assert sides == [40, 40, 40, 64]
    assert all((tmp_path / n).with_suffix(".png").is_file() for n in names)


def test_traces_are_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    (tmp_path / "t.png").write_text("another picture")
    refused = protect(tmp_path, corpus_file("MR_small.dcm"), "--trace", file)
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert not (tmp_path / "out").exists()
    assert not file.exists()
    done = protect(tmp_path, corpus_file("MR_small.dcm"), "--trace", file, "--force")
    assert done.exit_code == 0, done.output
    assert file.is_file()


def test_a_later_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    taken = tmp_path / "t-2.json"
    taken.write_text("mine")
    done = protect(
        tmp_path,
        *(corpus_file(name) for name in ("MR_small.dcm", "CT_small.dcm")),
        "--trace",
        tmp_path / "t.json",
    )
    assert done.exit_code == 0, done.output
    assert taken.read_text() == "mine"
    assert (tmp_path / "t-3.json").is_file()


def test_the_name_of_the_drawing_is_no_name_for_the_trace(tmp_path: Path) -> None:
    done = protect(tmp_path, corpus_file("MR_small.dcm"), "--trace", tmp_path / "t.png")
    assert done.exit_code == 2
    assert "json" in done.output


def test_without_the_option_there_is_none(tmp_path: Path) -> None:
    done = protect(tmp_path, corpus_file("MR_small.dcm"))
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert answer["traces"] == []
