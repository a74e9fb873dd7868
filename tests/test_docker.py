"""The files for containers say what the programs understand; nothing is built here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.load import load_site
from config.safety import insecurities
from gateway.cli.main import CHILDREN, build_app

DOCKER = Path(__file__).parents[1] / "docker"
FILES = ("compose.yml", "compose.cluster.yml")
COMMANDS = CHILDREN | {"serve"}


def compose(name: str) -> dict[str, Any]:
    found = yaml.safe_load((DOCKER / name).read_text())
    assert isinstance(found, dict)
    return found


def own(name: str) -> dict[str, dict[str, Any]]:
    """The services that run the gateway."""
    services = compose(name)["services"]
    return {k: v for k, v in services.items() if v["image"].startswith("miad-gateway")}


@pytest.mark.parametrize("name", FILES)
def test_services_run_commands_that_there_are(name: str) -> None:
    commands = [service["command"] for service in own(name).values()]
    assert {command[0] for command in commands} <= COMMANDS
    assert commands


@pytest.mark.parametrize("name", FILES)
def test_services_have_no_more_rights_than_they_need(name: str) -> None:
    for service in own(name).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


@pytest.mark.parametrize("name", FILES)
def test_all_that_services_name_is_there(name: str) -> None:
    whole = compose(name)
    known = {k: set(whole.get(k) or {}) for k in ("networks", "configs", "secrets")}
    for service in whole["services"].values():
        assert set(service.get("networks", [])) <= known["networks"]
        for kind in ("configs", "secrets"):
            for one in service.get(kind, []):
                assert (one if isinstance(one, str) else one["source"]) in known[kind]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith(".") or source in whole["volumes"]
        assert set(service.get("depends_on", [])) <= set(whole["services"])
    for config in (whole.get("configs") or {}).values():
        assert (DOCKER / config["file"]).is_file()


def test_a_cluster_has_two_receivers_workers_and_a_web_server() -> None:
    services = own("compose.cluster.yml")
    commands = [service["command"][0] for service in services.values()]
    assert sorted(commands) == ["receiver", "receiver", "web", "worker"]
    assert "volumes" in services["worker"]
    assert not any("/var/lib/miad" in v for v in services["worker"]["volumes"])
    balancer = (DOCKER / "cluster" / "haproxy.cfg").read_text()
    for name, service in services.items():
        if service["command"] == ["receiver"]:
            assert f"{name}:2762" in balancer
            assert f"{name}:2763" in balancer


def test_the_site_of_the_cluster_loads_and_its_risks_are_known() -> None:
    site = load_site(DOCKER / "cluster" / "site.toml", environ={"MIAD_MACHINE": "a"})
    assert site.machine.name == "a"
    warned = {one.setting for one in insecurities(site) if one.severity == "warning"}
    assert warned == {"database.plain", "objects.plain"}
    assert all(not node.plain and not node.addresses for node in site.nodes)


def test_the_database_is_made_as_the_index_needs_it() -> None:
    environment = compose("compose.cluster.yml")["services"]["database"]["environment"]
    assert "--lc-collate=C" in environment["POSTGRES_INITDB_ARGS"]
    assert "--encoding=UTF8" in environment["POSTGRES_INITDB_ARGS"]


def test_the_image_runs_as_nobody_in_particular_and_tells_its_health() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER miad$", text, re.MULTILINE)
    assert 'CMD ["miad-gateway", "health"]' in text
    names = {command.name for command in build_app().registered_commands}
    assert {"health", "serve"} <= names
    for source in re.findall(r"^COPY ([a-z]+) \./", text, re.MULTILINE):
        assert (DOCKER.parent / source).is_dir()
        assert f"!{source}" in (DOCKER.parent / ".dockerignore").read_text()


def test_secrets_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    shutil.copytree(DOCKER / "cluster", tmp_path / "cluster")
    program = tmp_path / "cluster" / "prepare.sh"
    for _ in range(2):
        subprocess.run([program], check=True, capture_output=True)
        made = {p.name: p.read_bytes() for p in (program.parent / "secrets").iterdir()}
        assert len(made["master.key"]) == 32
    again = {p.name: p.read_bytes() for p in (program.parent / "secrets").iterdir()}
    assert again == made
    identity = json.loads(made["objects.json"])["identities"][0]["credentials"][0]
    assert identity["accessKey"].encode() == made["objects.access"].strip()
    for path in (program.parent / "secrets").iterdir():
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", FILES)
def test_compose_itself_takes_them(name: str) -> None:
    docker = shutil.which("docker")
    if docker is None or _has_no_compose(docker):
        pytest.skip("the compose plugin is not installed")
    checked = subprocess.run(
        [docker, "compose", "-f", str(DOCKER / name), "config", "--quiet"],
        env={**os.environ, "SEAWEEDFS_TAG": "3.97"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def _has_no_compose(docker: str) -> bool:
    tried = subprocess.run(
        [docker, "compose", "version"], capture_output=True, check=False
    )
    return tried.returncode != 0
