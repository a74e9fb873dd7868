"""``miad-gateway models``: the commands end to end, and their refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.models import app
from tests.engine.models_small import write_pictures, write_table

SMALL = [
    "train",
    "--arch=test_resnet",
    "--input-size=32",
    "--name=small",
    "--family=residual CNN",
    "--set=epochs=3",
    "--set=batch=8",
    "--set=learning_rate=0.005",
    "--set=ema=0.5",
]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_train_evaluate_and_list(tmp_path: Path) -> None:
    data, out = write_pictures(tmp_path / "data"), tmp_path / "out"
    code, stdout, stderr = run(*SMALL, f"--data={data}", f"--out={out}", "--json")
    assert code == 0, stderr
    card = json.loads(stdout)
    assert card["accuracy"]["total"] == 36
    assert card["family"] == "residual CNN"
    assert "epoch 3:" in stderr

    code, stdout, _ = run("evaluate", str(out), f"--data={data}", "--json")
    assert code == 0
    measured = json.loads(stdout)
    assert measured["correct"] == card["accuracy"]["correct"]
    assert measured["wilson_95"][0] < measured["accuracy"] <= 1

    code, stdout, _ = run("list", f"--directory={out}")
    assert code == 0
    assert "out/small" in stdout
    assert "n=36" in "".join(stdout.split())


def test_a_table_is_divided_and_measured_alike(tmp_path: Path) -> None:
    table, out = write_table(write_pictures(tmp_path)), tmp_path / "out"
    divided = [f"--data={table}", "--test-share=0.25", "--json"]
    code, stdout, stderr = run(*SMALL, f"--out={out}", "--set=loss=focal", *divided)
    assert code == 0, stderr
    card = json.loads(stdout)
    assert card["sizes"] == {"train": 24, "test": 12}
    assert "focal" in card["recipe"]

    code, stdout, stderr = run("evaluate", str(out / "small"), *divided)
    assert code == 0, stderr
    assert json.loads(stdout)["correct"] == card["accuracy"]["correct"]

    code, _, stderr = run("evaluate", str(out / "small"), f"--data={table}")
    assert code == 1
    assert "no test split" in stderr


def test_families_are_listed() -> None:
    code, stdout, _ = run("families", "--json")
    assert code == 0
    listed = {row["key"]: row for row in json.loads(stdout)}
    assert listed["paper:vgg16"]["architecture"] == "vgg16"
    assert listed["small:densenet"]["input_size"] == 128
    code, stdout, _ = run("families")
    assert code == 0
    assert "paper:inceptionv3" in stdout


def test_packaged_models_are_listed() -> None:
    code, stdout, _ = run("list", "--json")
    assert code == 0
    cards = json.loads(stdout)
    assert {k.split("/")[0] for k in cards} >= {"brain-mri", "wdnet"}


def test_train_remover(tmp_path: Path) -> None:
    data, out = write_pictures(tmp_path / "data", count=2), tmp_path / "out"
    code, stdout, stderr = run(
        "train-remover",
        f"--data={data}",
        f"--out={out}",
        '--set=arguments={"width": 4, "levels": 2}',
        "--set=side=64",
        "--set=crop=32",
        "--set=steps=2",
        "--set=fine_tune=1",
        "--set=batch=2",
        "--json",
    )
    assert code == 0, stderr
    card = json.loads(stdout)
    assert card["measures"]["composites"] == 6
    assert (out / "wdnet.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--arch=nothing_such"], "architecture 'nothing_such'"),
        (["--arch=paper:alexnet"], "no such preset; there are paper:resnet50"),
        (["--layout=kaggle"], "layout 'kaggle': must be one of auto"),
        (["--test-share=1.5"], "test share 1.5: must lie in"),
        (["--set=epochs=none"], "str where int is needed"),
        (["--set=speed=1"], "no field 'speed'"),
        (["--init=gone.pth"], "no such file of initial weights"),
        (["--data=gone"], "no such folder"),
        (["--set=device=abacus"], "device='abacus' cannot be used here"),
        (["--out=/dev/null/x"], "Not a directory"),
    ],
)
def test_refusals_are_one_clear_line(
    change: list[str], message: str, tmp_path: Path
) -> None:
    data = write_pictures(tmp_path / "data", count=2)
    code, _, stderr = run(*SMALL, f"--data={data}", f"--out={tmp_path}", *change)
    assert code == 1
    assert "error:" in stderr
    assert message in stderr


def test_evaluating_an_empty_directory_is_refused(tmp_path: Path) -> None:
    code, _, stderr = run("evaluate", str(tmp_path), f"--data={tmp_path}")
    assert code == 1
    assert "no model cards" in stderr
