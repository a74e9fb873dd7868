"""``miad-gateway models train-remover`` and ``evaluate-remover``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.models import app
from tests.engine.models_small import write_pictures
from tests.engine.removal_small import SMALL

FEW = ["side=64", "crop=32", "steps=1", "fine_tune=1", "batch=2"]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data", count=2)


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_train_and_evaluate(data: Path, tmp_path: Path, architecture: str) -> None:
    out = tmp_path / "out"
    arguments = f"arguments={json.dumps(SMALL[architecture])}"
    code, stdout, stderr = run(
        "train-remover",
        f"--arch={architecture}",
        f"--data={data}",
        f"--out={out}",
        "--json",
        *(f"--set={setting}" for setting in (*FEW, arguments)),
    )
    assert code == 0, stderr
    card = json.loads(stdout)
    assert card["name"] == card["architecture"] == architecture
    assert (out / f"{architecture}.safetensors").is_file()

    evaluate = ["evaluate-remover", str(out), f"--data={data}", "--side=64"]
    code, stdout, _ = run(*evaluate, "--json")
    assert code == 0
    assert json.loads(stdout) == {"remover": architecture, **card["measures"]}
    code, stdout, _ = run(*evaluate)
    assert code == 0
    assert "mask_iou_low" in stdout


def test_the_published_training_is_one_option(data: Path, tmp_path: Path) -> None:
    # A checkpoint directory that cannot be made stops it before the first step.
    (tmp_path / "file").touch()
    code, _, stderr = run(
        "train-remover",
        "--arch=splitnet",
        "--paper",
        f"--data={data}",
        f"--out={tmp_path / 'file' / 'out'}",
        "--set=arguments={}",
    )
    assert code == 1
    assert "Not a directory" in stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--arch=slbr"], "known: splitnet, wdnet"),
        (["--arch=slbr", "--paper"], "known are wdnet, splitnet"),
        (["--set=loss=huber"], "known are mini, wdnet, splitnet"),
        (["--data=gone"], "no such folder"),
    ],
)
def test_refusals_are_one_clear_line(
    data: Path, tmp_path: Path, change: list[str], message: str
) -> None:
    code, stdout, stderr = run(
        "train-remover",
        f"--data={data}",
        f"--out={tmp_path / 'out'}",
        *(f"--set={setting}" for setting in FEW),
        *change,
    )
    assert code == 1
    assert stdout == ""
    assert message in stderr
