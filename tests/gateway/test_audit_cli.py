"""``miad-gateway audit``, and the auditor among the processes of a gateway."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from config.load import load_site
from gateway.app.openers import open_audit_of, open_keys_of
from gateway.audit.log import AuditLog
from gateway.cli.main import build_app
from gateway.errors import AuditBroken
from tests.gateway.collector import Collector, server_context
from tests.gateway.pki_cases import Pki
from tests.gateway.test_app import ports, serving
from tests.waiting import wait_until

SITE = """\
name = "hospital"
data_directory = "data"

[receiver]
plain_port = 0

[recovery]
plain_port = 0
"""

TLS = """
[tls]
certificate = "{gateway.certificate}"
key = "{gateway.key}"
authorities = ["{authority.certificate}"]

[audit]
checkpoint_lines = 4

[audit.collector]
host = "127.0.0.1"
port = {port}
message_id = "IHE+RFC-3881"
"""

PATIENT = {"id": "PAT-77", "name": "DOE^JANE", "studies": {"1.2": 1}}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return path


@pytest.fixture
def trail(site: Path) -> AuditLog:
    settings = load_site(site, environ={})
    opened = open_audit_of(settings, open_keys_of(settings))
    opened.record("association", "refused", calling_ae="X", peer_address="10.0.0.1")
    opened.record("move", "success", personal={"patients": [PATIENT]})
    return opened


def audit(site: Path, *arguments: str | Path, code: int = 0) -> str:
    command = ["audit", *map(str, arguments), "--config", str(site)]
    done = CliRunner().invoke(build_app(), command)
    assert done.exit_code == code, done.output
    return done.stdout


def shown(site: Path, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit(site, "show", *arguments).splitlines()]


def test_a_whole_trail_is_told_with_its_end(site: Path, trail: AuditLog) -> None:
    end = trail.verify()
    report = json.loads(audit(site, "verify", "--json"))
    assert (report["whole"], report["lines"], report["end"]) == (True, 2, str(end))
    assert (report["checkpoints"], report["uncovered"]) == (0, 2)
    text = audit(site, "verify", "--at-least", str(end))
    assert "whole: 3 lines in 1 files" in text
    assert "not covered by a checkpoint yet: 3 lines" in text


def test_a_flipped_octet_is_told_by_file_and_line(site: Path, trail: AuditLog) -> None:
    octets = trail.path.read_bytes()
    trail.path.write_bytes(octets.replace(b"10.0.0.1", b"10.0.0.2"))
    report = json.loads(audit(site, "verify", "--json", code=1))
    assert (report["whole"], report["line"]) == (False, 1)
    assert report["file"] == str(trail.path)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "audit", "verify", "-c", str(site)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"error: Line 1 of {trail.path} was changed\n"


def test_a_cut_end_is_told_against_the_kept_one(site: Path, trail: AuditLog) -> None:
    kept = str(trail.verify())
    trail.path.write_bytes(b"")
    report = json.loads(audit(site, "verify", "--at-least", kept, "--json", code=1))
    assert "its end was cut off" in report["error"]
    audit(site, "verify", "--at-least", "12", code=2)


def test_the_public_key_is_kept_elsewhere_and_pins_the_checkpoints(
    site: Path, trail: AuditLog, tmp_path: Path
) -> None:
    kept = tmp_path / "audit-key.pem"
    assert audit(site, "key", "-o", kept).startswith("sha256:")
    assert kept.read_text() == audit(site, "key")
    audit(site, "key", "-o", kept, code=2)
    from gateway.audit.checkpoints import CheckpointSigner, write_checkpoint

    write_checkpoint(trail, CheckpointSigner(bytes(32)), "hospital")
    report = json.loads(audit(site, "verify", "--public-key", kept, "--json", code=1))
    assert "signed by another key" in report["error"]
    assert json.loads(audit(site, "verify", "--json"))["checkpoints"] == 1


def test_a_copy_is_verified_without_a_word_in_it(
    site: Path, trail: AuditLog, tmp_path: Path
) -> None:
    copy = tmp_path / "audit.jsonl"
    copy.write_bytes(trail.path.read_bytes())
    report = json.loads(audit(site, "verify", "--log", copy, "--json"))
    assert report["lines"] == 2
    assert copy.read_bytes() == trail.path.read_bytes()


@pytest.mark.usefixtures("trail")
def test_personal_fields_are_shown_with_the_key_and_on_demand_only(site: Path) -> None:
    text = audit(site, "show")
    assert "personal=<sealed>" in text
    assert "DOE" not in text
    assert "PAT-77" not in text
    (_, move, *_) = shown(site, "--json", "--personal")
    assert move["personal"] == {"patients": [PATIENT]}


@pytest.mark.usefixtures("trail")
def test_who_reads_is_recorded_and_lines_can_be_chosen(site: Path) -> None:
    shown(site, "--json", "--personal", "--action", "move")
    refused = shown(site, "--json", "--outcome", "refused")
    assert [entry["action"] for entry in refused] == ["association"]
    first, second = shown(site, "--json", "--action", "audit-read")[:2]
    assert (first["opened"], first["actions"]) == (True, ["move"])
    assert (second["opened"], second["command"]) == (False, "show")
    assert first["user"]
    assert shown(site, "--json", "--since", "2100-01-01") == []


def test_what_names_a_patient_is_nowhere_in_clear(trail: AuditLog) -> None:
    trail.record("export", "success", patient_name="DOE^JANE", message="well")
    trail.record("export", "success", details={"id": "PAT-77"})
    plain = AuditLog(trail.path)
    plain.record("export", "success", personal={"patients": [PATIENT]})
    octets = trail.path.read_bytes()
    assert b"DOE" not in octets
    assert b"PAT-77" not in octets
    *_, named, mapped, dropped = trail.entries()
    assert (named["patient_name"], named["message"]) == ("(withheld)", "well")
    assert mapped["details"] == "(withheld)"
    assert dropped["personal"] == "<dropped: no key>"


def test_a_sealed_field_opens_in_its_own_line_only(trail: AuditLog) -> None:
    from gateway.audit.sealer import AesFieldSealer, open_fields
    from gateway.errors import InvalidSeal

    log = AuditLog(trail.path, sealer=AesFieldSealer(bytes(32)))
    log.record("move", "success", personal={"patients": [PATIENT]})
    *_, entry = log.entries()
    assert open_fields(AesFieldSealer(bytes(32)), entry) == {"patients": [PATIENT]}
    for changed in (entry | {"n": 9}, entry | {"at": "x"}, entry | {"personal": "!"}):
        with pytest.raises(InvalidSeal):
            open_fields(AesFieldSealer(bytes(32)), changed)
    with pytest.raises(InvalidSeal):
        open_fields(AesFieldSealer(bytes(range(32))), entry)


@pytest.mark.slow
def test_a_gateway_signs_and_sends_its_trail(site: Path, pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site.write_text(
        SITE + TLS.format(gateway=pki.gateway, authority=pki.authority, port=port)
    )
    context = server_context(pki.archive, pki.authority.certificate)
    trail = AuditLog(site.parent / "data" / "audit" / "audit.jsonl")
    collector = Collector(context, port)
    with collector.running(), serving(site) as process:
        wait_until(lambda: ports(site) is not None)
        wait_until(lambda: len(collector.lines()) >= 6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    entries = list(trail.entries())
    told = [(e["action"], e.get("process")) for e in entries]
    assert told[:2] == [("config", None), ("start", "serve")]
    assert {("start", name) for name in ("receiver", "worker", "auditor")} < set(told)
    # A worker that is told to stop before it is ready just ends.
    assert {("stop", name) for name in ("serve", "receiver", "auditor")} < set(told)
    assert "data_directory" in entries[0]["changed"]
    assert told.count(("config", None)) == 1
    report = json.loads(audit(site, "verify", "--json"))
    assert report["checkpoints"] >= 1
    sent = collector.lines()
    assert sent == sorted(sent)
    assert set(sent) == set(range(1, max(sent) + 1))
    assert all(b" IHE+RFC-3881 - " in message for message in collector.messages)


def test_a_collector_needs_tls(site: Path) -> None:
    site.write_text(SITE + '\n[audit.collector]\nhost = "logs.test"\n')
    done = CliRunner().invoke(build_app(), ["check-config", "--config", str(site)])
    assert "add a [tls] table" in str(done.exception)


def test_a_changed_configuration_is_recorded_by_the_names_of_its_tables(
    site: Path, trail: AuditLog
) -> None:
    from gateway.audit.process import recorded

    before = load_site(site, environ={})
    with recorded(trail, "receiver", before):
        pass
    site.write_text(SITE + "\n[audit]\ncheckpoint_lines = 7\n")
    after = load_site(site, environ={})
    with recorded(trail, "receiver", after):
        pass
    with recorded(trail, "worker", after):
        pass
    first, second = [e for e in trail.entries() if e["action"] == "config"]
    assert second["changed"] == ["audit"]
    assert second["before"] == first["configuration"]
    starts = [e for e in trail.entries() if e["action"] == "start"]
    assert [e["configuration"] for e in starts] == [
        first["configuration"],
        second["configuration"],
        second["configuration"],
    ]
    assert len([e for e in trail.entries() if e["action"] == "stop"]) == 3


def test_a_process_that_cannot_be_recorded_does_not_start(
    site: Path, trail: AuditLog
) -> None:
    from gateway.audit.process import recorded

    with trail.path.open("ab") as stream:
        stream.write(b"garbage\n")
    started = recorded(trail, "receiver", load_site(site, environ={}))
    with pytest.raises(AuditBroken):
        started.__enter__()
