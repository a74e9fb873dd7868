"""Files and folders without a gateway, and the commands around them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

import gateway.stages.protectors as protectors_module
from config.errors import ConfigurationError
from config.schema import Ensemble, Protection
from gateway.cli.files import app
from gateway.dicom.pixels import Reading
from gateway.route.conditions import compile_condition
from gateway.stages.draft import Original
from gateway.stages.offline import (
    AlreadyThere,
    OfflineSite,
    Outputs,
    default_site,
    find_files,
)
from gateway.stages.protectors import Protectors, judged_by
from tests.gateway.object_cases import (
    EXPLICIT,
    FastProtector,
    corpus_file,
    encoded,
    grey_dataset,
    protect_one,
)

FRAMES = np.arange(1600).reshape(1, 40, 40)
NAMES = ("MR_small.dcm", "CT_small.dcm", "SC_rgb_rle.dcm")


class FastProtectors:
    """In place of models and search: the engine's integer blend only."""

    keywords: frozenset[str] = frozenset({"Modality"})

    def __init__(self, protection: Protection) -> None:
        self.protection = protection

    def choose(self, attributes: Mapping[str, Any]) -> FastProtector:
        return FastProtector(alpha=ALPHAS.get(str(attributes.get("Modality")), 99))

    def reading(self, attributes: Mapping[str, Any]) -> Reading:
        assert attributes
        settings = self.protection
        return Reading(
            max_frames=settings.max_frames, split_frames=settings.split_frames
        )


ALPHAS: dict[str, int] = {}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protectors_module, "Protectors", FastProtectors)
    monkeypatch.setitem(ALPHAS, "MR", 60)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "deep").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(corpus_file(name), folder / name)
        shutil.copy(corpus_file(name), folder / "deep" / name.replace("small", "b"))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def answers_of(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_a_folder_there_and_back(study: Path, tmp_path: Path) -> None:
    (study / "readme.txt").write_text("not DICOM")
    out, back, site = tmp_path / "out", tmp_path / "back", tmp_path / "site"
    done = run("protect", study, "-o", out, "--site", site, "--json")
    assert done.exit_code == 0, done.output
    statuses = [answer["status"] for answer in answers_of(done)]
    assert sorted(statuses) == ["protected"] * 6 + ["skipped"]
    assert (out / "deep" / "MR_b.protected.dcm").is_file()
    done = run("recover", out, "-o", back, "--site", site, "--json")
    assert done.exit_code == 0, done.output
    for path in study.rglob("*.dcm"):
        assert (back / path.relative_to(study)).read_bytes() == path.read_bytes()


def test_held_files_are_told_and_the_exit_code_says_so(tmp_path: Path) -> None:
    out, site = tmp_path / "out", tmp_path / "site"
    done = run(
        "protect",
        corpus_file("rtdose.dcm"),
        corpus_file("MR_small.dcm"),
        "-o",
        out,
        "--site",
        site,
        "--json",
    )
    assert done.exit_code == 1
    held, made = answers_of(done)
    assert (held["status"], held["reason"]) == ("held", "unsupported-pixels")
    assert made["status"] == "protected"


def test_a_named_file_that_is_not_dicom_is_held(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("no image")
    done = run("protect", note, "-o", tmp_path / "o", "--site", tmp_path / "s")
    assert done.exit_code == 1
    assert "unreadable" in done.output


def test_nothing_found_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(
        "protect", tmp_path / "empty", "-o", tmp_path / "o", "--site", tmp_path / "s"
    )
    assert done.exit_code == 1


def test_results_are_not_overwritten(study: Path, tmp_path: Path) -> None:
    source = study / "MR_small.dcm"
    arguments = ("protect", source, "-o", tmp_path / "out", "--site", tmp_path / "s")
    assert run(*arguments).exit_code == 0
    before = (tmp_path / "out" / "MR_small.protected.dcm").read_bytes()
    again = run(*arguments)
    assert again.exit_code == 1
    assert "--force" in again.output
    assert (tmp_path / "out" / "MR_small.protected.dcm").read_bytes() == before
    assert run(*arguments, "--force").exit_code == 0


def test_an_earlier_key_is_not_lost(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protected again with other settings: the first result stays recoverable."""
    source, site = study / "MR_small.dcm", tmp_path / "site"
    assert run("protect", source, "-o", tmp_path / "1", "--site", site).exit_code == 0
    assert run("protect", source, "-o", tmp_path / "2", "--site", site).exit_code == 0
    monkeypatch.setitem(ALPHAS, "MR", 61)
    refused = run("protect", source, "-o", tmp_path / "3", "--site", site, "--json")
    assert refused.exit_code == 1
    assert answers_of(refused)[0]["reason"] == "AlreadyThere"
    assert not (tmp_path / "3").exists()
    back = run("recover", tmp_path / "1", "-o", tmp_path / "back", "--site", site)
    assert back.exit_code == 0


def test_recovery_needs_the_site_that_protected(study: Path, tmp_path: Path) -> None:
    run("protect", study, "-o", tmp_path / "out", "--site", tmp_path / "one")
    done = run(
        "recover", tmp_path / "out", "-o", tmp_path / "b", "--site", tmp_path / "two"
    )
    assert done.exit_code == 1
    assert not (tmp_path / "b").exists()


def test_altered_results_are_not_recovered(study: Path, tmp_path: Path) -> None:
    source, out, site = study / "MR_small.dcm", tmp_path / "out", tmp_path / "site"
    run("protect", source, "-o", out, "--site", site)
    path = out / "MR_small.protected.dcm"
    dataset = dcmread(path)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path)
    done = run("recover", path, "-o", tmp_path / "b", "--site", site, "--json")
    assert done.exit_code == 1
    assert answers_of(done)[0]["reason"] == "RecoveryRefused"
    assert not (tmp_path / "b").exists()


def test_records_of_a_gateway_become_files(tmp_path: Path) -> None:
    """A data set that came over an association gets the head of a file."""
    site = OfflineSite(tmp_path / "site")
    dataset = grey_dataset(FRAMES, bits_stored=12)
    data = encoded(dataset)
    made = protect_one(
        Original(data=data, kind="data-set", transfer_syntax_uid=EXPLICIT)
    )
    site.vault().put(made.record)
    path = tmp_path / "protected.dcm"
    path.write_bytes(made.part10)
    done = run("recover", path, "-o", tmp_path / "back", "--site", site.root)
    assert done.exit_code == 0, done.output
    (back,) = (tmp_path / "back").iterdir()
    assert back.read_bytes().endswith(data)
    assert dcmread(back).SOPInstanceUID == dataset.SOPInstanceUID


def test_open_secrets_stop_the_command(study: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run("protect", study / "MR_small.dcm", "-o", tmp_path / "1", "--site", site)
    (site / "secrets" / "master.key").chmod(0o644)
    done = run("recover", tmp_path / "1", "-o", tmp_path / "2", "--site", site)
    assert isinstance(done.exception, ConfigurationError)


def test_site_file_gives_the_settings(tmp_path: Path) -> None:
    site = OfflineSite(tmp_path)
    assert site.protection() == Protection()
    (tmp_path / "site.toml").write_text(
        'data_directory = "."\n[protection]\nmax_frames = 7\n'
    )
    assert site.protection().max_frames == 7


def test_default_site_is_where_users_keep_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    found = default_site({"XDG_DATA_HOME": str(tmp_path)})
    assert found.root == tmp_path / "miad-gateway"
    assert default_site({}).root == Path.home() / ".local" / "share" / "miad-gateway"


def test_names_do_not_collide(tmp_path: Path) -> None:
    taken = tmp_path / "a.protected.dcm"
    outputs = Outputs(tmp_path, [taken], force=True)
    assert outputs.plan(Path(), "a.protected.dcm").name == "a-2.protected.dcm"
    assert outputs.plan(Path(), "a.protected.dcm").name == "a-3.protected.dcm"
    assert outputs.plan(Path("b"), "a.protected.dcm").name == "a.protected.dcm"


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(AlreadyThere):
        Outputs(tmp_path, [], force=False).plan(Path(), "a.dcm")
    assert Outputs(tmp_path, [], force=True).plan(Path(), "a.dcm").name == "a.dcm"


def test_files_are_found_once(study: Path) -> None:
    jobs = list(find_files([study / "MR_small.dcm", study]))
    assert len(jobs) == 6
    assert jobs[0].named
    assert {job.folder for job in jobs} == {Path(), Path("deep")}


# Which protector


def test_conditions_choose_the_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(_protection: Protection, ensemble: Ensemble | None) -> str:
        built.append("label-free" if ensemble is None else ensemble.name)
        return built[-1]

    monkeypatch.setattr(protectors_module, "_build", build)
    chooser = Protectors(
        Protection(
            ensembles=(
                Ensemble(name="brain-mri", when='Modality == "MR"'),
                Ensemble(name="chest", when="Rows > 1000"),
            )
        )
    )
    assert chooser.keywords == {"Modality", "Rows"}
    for attributes, expected in (
        ({"Modality": "MR", "Rows": 5000}, "brain-mri"),
        ({"Modality": "CR", "Rows": 5000}, "chest"),
        ({"Modality": "CR", "Rows": 10}, "label-free"),
        ({"Modality": "CR"}, "label-free"),
        ({"Modality": "MR"}, "brain-mri"),
    ):
        assert chooser.choose(attributes) == expected
    assert built == ["brain-mri", "chest", "label-free"]


def test_unknown_ensemble_names_the_remedy() -> None:
    chooser = Protectors(Protection(ensembles=(Ensemble(name="nobody", when="true"),)))
    with pytest.raises(ConfigurationError, match="nobody"):
        chooser.choose({})


def test_one_ensemble_can_be_told_to_judge_every_file() -> None:
    settings = Protection(
        ensembles=(Ensemble(name="own", when='Modality == "CT"', directory=Path("m")),)
    )
    assert judged_by(settings, "own").ensembles == (
        Ensemble(name="own", when="true", directory=Path("m")),
    )
    assert judged_by(settings, "brain-mri").ensembles == (
        Ensemble(name="brain-mri", when="true"),
    )


def test_without_a_site_file_brain_mr_is_judged_by_the_packaged_ensemble(
    tmp_path: Path,
) -> None:
    (chosen,) = OfflineSite(tmp_path).protection().ensembles
    assert chosen.name == "brain-mri"
    holds = compile_condition(chosen.when).evaluate
    assert holds({"Modality": "MR", "BodyPartExamined": "BRAIN"})
    assert not holds({"Modality": "MR", "BodyPartExamined": "SHOULDER"})
    assert not holds({"Modality": "CT", "BodyPartExamined": "HEAD"})


def test_frames_that_became_files_of_their_own_need_all_of_them(
    tmp_path: Path,
) -> None:
    source = corpus_file("eCT_Supplemental.dcm")
    site, out = tmp_path / "site", tmp_path / "out"
    site.mkdir()
    (site / "site.toml").write_text(
        f'data_directory = "{tmp_path}"\n[protection]\nsplit_frames = "always"\n'
    )
    done = run("protect", source, "-o", out, "--site", site, "--json")
    assert done.exit_code == 0, done.output
    (answer,) = answers_of(done)
    names = [Path(answer["output"]).name, *(Path(p).name for p in answer["further"])]
    assert names == [
        "eCT_Supplemental.protected.dcm",
        "eCT_Supplemental.2.protected.dcm",
    ]
    done = run("recover", out, "-o", tmp_path / "back", "--site", site)
    assert done.exit_code == 0, done.output
    (back,) = (tmp_path / "back").iterdir()
    assert back.read_bytes() == source.read_bytes()
