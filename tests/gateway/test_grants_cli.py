"""``miad-gateway grants`` and ``approvals``, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from typer.testing import CliRunner, Result

from config.errors import ConfigurationError
from config.load import load_site
from gateway.access.access import Access
from gateway.app.openers import open_access_of, open_index_of, open_keys_of
from gateway.app.places import Places
from gateway.audit.log import AuditLog
from gateway.cli.main import build_app
from gateway.errors import (
    AccessTampered,
    ApprovalNeeded,
    ApprovalRefused,
    GrantRefused,
)
from gateway.store.find import FindKeys
from gateway.store.schema import grants
from tests.gateway.pki_cases import Pki
from tests.gateway.test_access_grants import put
from tests.gateway.test_index import new

SITE = """\
data_directory = "data"

[[nodes]]
name = "ward"
ae_titles = ["WARD"]
roles = ["recover"]
certificate_names = ["ward.test"]

[[grants]]
name = "static"
nodes = ["ward"]
when = "true"

[recovery]
two_person_above = 1

[[people]]
name = "anna"
roles = ["approver"]
certificates = ["{anna}"]

[[people]]
name = "bert"
roles = ["approver"]
certificates = ["{bert}"]
"""


@pytest.fixture
def site(tmp_path: Path, pki: Pki) -> Path:
    path = tmp_path / "site.toml"
    anna, bert = pki.modality.certificate, pki.workstation.fingerprint
    path.write_text(SITE.format(anna=anna, bert=bert))
    return path


def run(site: Path, *arguments: str, input: str | None = None) -> Result:
    options = ["--config", str(site)]
    return CliRunner().invoke(build_app(), [*arguments, *options], input=input)


def done(site: Path, *arguments: str) -> str:
    result = run(site, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(site: Path, *arguments: str) -> Any:
    return json.loads(done(site, *arguments, "--json"))


def with_access(site: Path, work: Callable[[Access], Any]) -> Any:
    """Do something as the receiver would."""
    settings = load_site(site, environ={})
    keys = open_keys_of(settings)
    index = open_index_of(settings, keys)
    audit = AuditLog(Places(settings.data_directory).audit)
    try:
        if not index.originals_matching(FindKeys({})):
            put(index, [new(1), new(2)])
        return work(open_access_of(settings, index, audit, keys))
    finally:
        index.close()


def audited(site: Path, action: str) -> list[dict[str, Any]]:
    audit = AuditLog(site.parent / "data" / "audit" / "audit.jsonl")
    return [entry for entry in audit.entries() if entry["action"] == action]


def test_a_grant_is_added_shown_and_revoked(site: Path) -> None:
    done(
        site,
        *("grants", "add", "trial", "--node", "ward", "--when", 'PatientID == "P1"'),
        *("--to", "WARD", "--until", "2099-01-31T18:00+01:00", "--user", "anna"),
    )
    found = {row["name"]: row for row in rows(site, "grants", "list")}
    assert set(found) == {"static", "trial"}
    trial = found["trial"]
    assert (trial["state"], trial["source"]) == ("active", "database")
    assert trial["until"] == "2099-01-31T17:00:00Z"
    assert (trial["move_destinations"], trial["users"]) == (["WARD"], ["anna"])
    assert trial["added"]["who"]
    for name in ("trial", "static"):
        done(site, "grants", "revoke", name, "--reason", "trial is over")
    states = {row["name"]: row["state"] for row in rows(site, "grants", "list")}
    assert states == {"static": "revoked", "trial": "revoked"}
    shown = done(site, "grants", "list")
    assert "revoked" in shown
    lines = audited(site, "grant-revoke")
    assert [line["grant"] for line in lines] == ["trial", "static"]
    assert {line["reason"] for line in lines} == {"trial is over"}
    (added,) = audited(site, "grant-add")
    assert "P1" not in json.dumps(added)  # conditions may name patients


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("add", "x", "--node", "ward", "--when", "Foo == 1"), "cannot name Foo"),
        (("add", "x", "--node", "wrd", "--when", "true"), "did you mean ward"),
        (("add", "static", "--node", "ward", "--when", "true"), "used before"),
        (("add", "a b", "--node", "ward", "--when", "true"), "name: "),
        (
            ("add", "x", "--node", "ward", "--when", "true", "--until", "2099-01-01"),
            "until: ",
        ),
        (("revoke", "none", "--reason", "r"), "no grant is named 'none'"),
    ],
)
def test_what_cannot_be_done_is_explained(
    site: Path, arguments: tuple[str, ...], match: str
) -> None:
    result = run(site, "grants", *arguments)
    assert isinstance(result.exception, GrantRefused)
    assert match in str(result.exception)


@pytest.mark.parametrize(
    "arguments", [("revoke", "static"), ("accept",), ("clock", "--reset")]
)
def test_a_reason_is_needed(site: Path, arguments: tuple[str, ...]) -> None:
    result = run(site, "grants", *arguments)
    assert result.exit_code == 2
    assert "--reason" in result.output


def test_the_clock_is_shown_and_reset(site: Path) -> None:
    before = rows(site, "grants", "clock")
    assert abs(before["seconds_ahead"]) < 5
    done(site, "grants", "clock", "--reset", "--reason", "wrong battery")
    assert "behind" in done(site, "grants", "clock")
    (line,) = audited(site, "clock-reset")
    assert line["reason"] == "wrong battery"


def test_a_table_that_was_cut_is_accepted_by_command(site: Path) -> None:
    done(site, "grants", "revoke", "static", "--reason", "over")

    def cut(access: Access) -> None:
        with access._index.database.write() as connection:
            connection.execute(delete(grants))

    with_access(site, cut)
    result = run(site, "grants", "list")
    assert isinstance(result.exception, AccessTampered)
    assert "grants accept" in str(result.exception)
    assert "grants 0" in done(site, "grants", "accept", "--reason", "restored")
    assert [row["state"] for row in rows(site, "grants", "list")] == ["active"]
    assert audited(site, "access-accept")[0]["reason"] == "restored"


def ask(access: Access) -> str:
    """Ask for more than one original; the id that needs approval, or ''."""
    from gateway.access.caller import Caller

    node = access.nodes._nodes[0]
    caller = Caller(node=node, ae_title="WARD", address="127.0.0.1")
    objects = access.given(caller).matching(FindKeys({})).granted
    assert len(objects) == 2
    try:
        access.release(caller, objects)
    except ApprovalNeeded as needed:
        return needed.approval
    return ""


def test_two_people_approve_by_command(site: Path, pki: Pki) -> None:
    id = with_access(site, ask)
    assert id
    (row,) = rows(site, "approvals", "list")
    assert (row["id"], row["node"], row["objects"]) == (id, "ward", 2)
    assert (row["approved_by"], row["state"]) == ([], "open")
    key = ("--key", str(pki.modality.key))
    assert "approved by anna" in done(
        site, "approvals", "approve", id, "--person", "anna", *key
    )
    assert with_access(site, ask) == id
    key = ("--key", str(pki.workstation.key))
    result = run(site, "approvals", "approve", id, "--person", "bert", *key)
    assert isinstance(result.exception, ApprovalRefused)
    assert "--certificate" in str(result.exception)  # only its fingerprint is known
    named = ("--certificate", str(pki.workstation.certificate))
    assert "approved by anna, bert" in done(
        site, "approvals", "approve", id, "--person", "bert", *key, *named
    )
    assert with_access(site, ask) == ""
    assert with_access(site, ask) not in ("", id)
    states = {
        row["id"]: row["state"] for row in rows(site, "approvals", "list", "--all")
    }
    assert states[id] == "used"
    assert id not in done(site, "approvals", "list")


@pytest.mark.parametrize(
    ("person", "node", "match"),
    [
        ("anna", "workstation", "not of this request"),
        ("carl", "modality", "--certificate"),
    ],
)
def test_nobody_else_approves_by_command(
    site: Path, pki: Pki, person: str, node: str, match: str
) -> None:
    id = with_access(site, ask)
    key = ("--key", str(getattr(pki, node).key))
    result = run(site, "approvals", "approve", id, "--person", person, *key)
    assert isinstance(result.exception, ApprovalRefused)
    assert match in str(result.exception)


def test_a_key_with_a_passphrase_is_asked_for_it(
    site: Path, pki: Pki, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(pki.modality.key.read_bytes(), None)
    locked = tmp_path / "anna.pem"
    locked.write_bytes(
        key.private_bytes(
            form.Encoding.PEM,
            form.PrivateFormat.PKCS8,
            form.BestAvailableEncryption(b"open sesame"),
        )
    )
    id = with_access(site, ask)
    approve = ("approvals", "approve", id, "--person", "anna", "--key", str(locked))
    wrong = run(site, *approve, input="no\n")
    assert isinstance(wrong.exception, ApprovalRefused)
    right = run(site, *approve, input="open sesame\n")
    assert "approved by anna" in right.output
    assert "sesame" not in right.output


def test_a_wrong_condition_in_the_site_file_is_told(site: Path) -> None:
    site.write_text(site.read_text().replace('"true"', "\"Modality == 'CT'\""))
    result = run(site, "grants", "list")
    assert isinstance(result.exception, ConfigurationError)
    assert "grant 'static'" in str(result.exception)
