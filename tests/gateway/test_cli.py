from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of, open_store_of
from gateway.store.files import FileStore
from gateway.store.index import Index, utc_now
from gateway.store.work import Work
from tests.gateway.outside import receive
from tests.gateway.worker_process import EXECUTOR

SITE = """\
data_directory = "data"

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = 11130
plain = true

[[routing.rules]]
name = "mr"
when = 'Modality == "MR"'
destinations = ["outside"]
protect = true

[[routing.rules.tests]]
attributes = { Modality = "MR" }
expect = true

[receiver]
plain_port = 0
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return path


@pytest.fixture
def index(site: Path) -> Iterator[Index]:
    settings = load_site(site, environ={})
    opened = open_index_of(settings, open_keys_of(settings))
    yield opened
    opened.close()


def store_of(site: Path) -> FileStore:
    settings = load_site(site, environ={})
    return open_store_of(settings, open_keys_of(settings))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120
    )


def test_version() -> None:
    result = run("--version")

    assert result.returncode == 0
    assert result.stdout.startswith("miad-gateway ")


def test_check_config_of_a_good_site(site: Path) -> None:
    result = run("check-config", "--config", site)

    assert result.returncode == 0
    assert "good: 1 rules, 1 rule tests, 1 destinations" in result.stdout
    assert "the receiver listens without TLS on port 0" in result.stderr
    assert not (site.parent / "data").exists()


@pytest.mark.parametrize("command", ["check-config", "serve", "receiver", "worker"])
def test_a_wrong_site_is_told_without_a_traceback(site: Path, command: str) -> None:
    site.write_text(SITE.replace("Modality ==", "Modality ="))

    result = run(command, "--config", site)

    assert result.returncode == 2
    assert "line 12, column 8: rule 'mr': condition, line 1, column 10" in result.stderr
    assert "use == to compare" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_site_is_told(tmp_path: Path) -> None:
    result = run("serve", "--config", tmp_path / "none.toml")

    assert result.returncode == 2
    assert "none.toml: cannot be read" in result.stderr


def test_rules_test(site: Path) -> None:
    result = run("rules", "test", "--config", site, "--json")

    assert result.returncode == 0
    assert json.loads(result.stdout) == [
        {"rule": "mr", "number": 1, "passed": True, "message": ""}
    ]


def test_rules_test_that_fails(site: Path) -> None:
    site.write_text(SITE.replace("expect = true", "expect = false"))

    result = run("rules", "test", "--config", site)

    assert result.returncode == 1
    assert "FAILED" in result.stdout


def test_complete_closes_at_once(site: Path, index: Index) -> None:
    receive(store_of(site), index)

    result = run("complete", "--config", site, "--series", "1.2.3.4")

    assert (result.returncode, result.stdout) == (0, "completed 1 series\n")
    assert [revision.state for revision in index.revisions()] == ["complete"]


@pytest.mark.parametrize("options", [[], ["--all", "--series", "1.2"]])
def test_complete_wants_one_choice(site: Path, options: list[str]) -> None:
    result = run("complete", "--config", site, *options)

    assert result.returncode == 1
    assert "exactly one of" in result.stderr


def test_complete_finds_nothing(site: Path) -> None:
    result = run("complete", "--config", site, "--study", "1.2.3")

    assert result.returncode == 1
    assert "no open series matches" in result.stderr


def test_status_and_replay(site: Path, index: Index) -> None:
    instance = receive(store_of(site), index)
    revision = index.close_series("1.2.3.4", "MODALITY", utc_now())
    assert revision is not None
    index.hold_instance(instance.id, "too-small", "1 by 1 pixel")
    index.set_revision(revision.id, "held", "of 1 instances 1 held: too-small")
    index.plan_deliveries(
        revision.id, "outside", protect=True, instance_ids=[instance.id]
    )

    report = json.loads(run("status", "--config", site, "--json").stdout)

    assert report["counts"]["instances"] == {"held": 1}
    assert report["held_instances"] == [
        {
            "sop_instance_uid": instance.sop_instance_uid,
            "reason": "too-small",
            "message": "1 by 1 pixel",
        }
    ]
    assert [item["destination"] for item in report["unsent"]] == ["outside"]
    assert "too-small" in run("status", "--config", site).stdout

    (dead,) = json.loads(run("jobs", "dead", "--config", site, "--json").stdout)
    assert dead["reason"] == "of 1 instances 1 held: too-small"
    assert (dead["priority"], dead["source"]) == ("routine", "MODALITY")

    for expected in (1, 0):  # asked for twice, done once
        result = run(
            *("jobs", "replay", dead["id"], "--config", site, "--json"),
            *("--reason", "decoder was updated"),
        )
        replayed = json.loads(result.stdout)["replayed"]
        assert (result.returncode, len(replayed)) == (0, expected)
    assert [revision.state for revision in index.revisions()] == ["complete"]
    assert index.instances_in_state("held") == []
    trail = (site.parent / "data" / "audit" / "audit.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in trail]
    (line,) = [line for line in lines if line["action"] == "release"]
    assert (line["reason"], line["service"]) == ("decoder was updated", "command line")
    assert run("jobs", "dead", "--config", site).stdout == "nothing is held\n"
    (under_way,) = json.loads(run("jobs", "list", "--config", site, "--json").stdout)
    assert (under_way["state"], under_way["owed"]) == ("complete", ["outside"])


def test_replay_wants_ids_that_are_there(site: Path) -> None:
    result = run("jobs", "replay", "7", "x", "--config", site, "--reason", "because")

    assert result.returncode == 1
    assert "no series has the id 7, x; see miad-gateway jobs dead" in result.stderr
    assert run("jobs", "replay", "all", "--config", site).returncode == 2  # no reason


def test_jobs_workers_shows_processes(site: Path, index: Index) -> None:
    Work(index.database).register(replace(EXECUTOR, id="m/worker-0/1", machine="m"))

    (shown,) = json.loads(run("jobs", "workers", "--config", site, "--json").stdout)

    assert (shown["id"], shown["state"]) == ("m/worker-0/1", "live")
    assert "worker" in run("jobs", "workers", "--config", site).stdout


def test_status_shows_what_a_rule_dropped(site: Path, index: Index) -> None:
    instance = receive(store_of(site), index)
    index.drop_instance(instance.id, "a rule drops it")

    report = json.loads(run("status", "--config", site, "--json").stdout)

    (dropped,) = report["dropped_instances"]
    assert dropped["sop_instance_uid"] == instance.sop_instance_uid
    assert "dropped-by-rule" in run("status", "--config", site).stdout


def test_check_config_tells_of_less_safe_choices_and_strict_refuses_them(
    site: Path,
) -> None:
    plain = run("check-config", "--config", site)
    assert plain.returncode == 0
    assert "warning: " in plain.stderr
    assert "no [tls] table" in plain.stderr
    assert "site.toml" in plain.stderr
    assert run("check-config", "--config", site, "--strict").returncode == 1
