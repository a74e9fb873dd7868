"""Grants of a receiver that runs: given, revoked and approved by commands beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import build_role, evt

from gateway.app.places import Places
from gateway.audit.log import AuditLog
from gateway.demo.site import GatewayProcess
from tests.gateway.pki_cases import NodeFiles, Pki, calling, pki_of
from tests.gateway.scp import CT_IMAGE, EXPLICIT, associated, encoded, send, small
from tests.gateway.test_find import identifier

GET = "1.2.840.10008.5.1.4.1.2.2.3"
NOT_AUTHORISED = 0x0124
SITE = """\
data_directory = "{data}"

[receiver]
port = 0

[recovery]
port = 0
two_person_above = 1

[tls]
certificate = "{pki.gateway.certificate}"
key = "{pki.gateway.key}"
authorities = ["{pki.authority.certificate}"]
revocation_lists = ["{pki.authority.crl}"]

[[nodes]]
name = "modality"
ae_titles = ["MODALITY"]
roles = ["store"]
certificate_names = ["modality.test"]

[[nodes]]
name = "workstation"
ae_titles = ["WORKSTATION"]
roles = ["recover"]
certificates = ["{pki.workstation.certificate}"]

[[people]]
name = "anna"
roles = ["approver"]
certificates = ["{anna.certificate}"]

[[people]]
name = "bert"
roles = ["approver"]
certificates = ["{bert.certificate}"]
"""


class Site:
    """``miad-gateway serve`` with TLS, and the command line beside it."""

    def __init__(self, directory: Path) -> None:
        self.pki: Pki = pki_of(directory / "pki")
        self.people: dict[str, NodeFiles] = {
            name: self.pki.authority.node(name) for name in ("anna", "bert")
        }
        self.data = directory / "data"
        self.config = directory / "site.toml"
        text = SITE.format(data=self.data, pki=self.pki, **self.people)
        self.config.write_text(text)
        self.log = directory / "gateway.log"

    @contextmanager
    def serving(self) -> Iterator[None]:
        (self.data / "run" / "ports.json").unlink(missing_ok=True)
        with GatewayProcess(self.config, self.log) as process:
            process.wait_for_ports(self.data)
            places = Places(self.data)
            self.ports = json.loads(places.ports.read_text())
            yield
            process.kill()  # nothing of a revocation may be in memory only

    def run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "gateway.cli.main", *arguments]
        subprocess.run([*command, "--config", str(self.config)], check=True)

    def store(self, *uids: str) -> None:
        objects = [encoded(small(uid)) for uid in uids]
        tls = calling(self.pki, self.pki.modality)
        statuses = send(self.ports["receiver"], *objects, tls_args=tls)
        assert statuses == [0x0000] * len(uids)

    def fetch(self, *uids: str) -> tuple[int, str, set[str]]:
        """Ask with C-GET: the final status, its comment, what has arrived."""
        arrived: set[str] = set()

        def keep(event: evt.Event) -> int:
            arrived.add(str(event.request.AffectedSOPInstanceUID))
            return 0

        with associated(
            self.ports["recovery"],
            [(GET, EXPLICIT), (CT_IMAGE, EXPLICIT)],
            "WORKSTATION",
            "MIAD-RECOVERY",
            tls_args=calling(self.pki, self.pki.workstation),
            ext_neg=[build_role(CT_IMAGE, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, keep)],
        ) as association:
            assert association.is_established
            query = identifier("IMAGE", SOPInstanceUID=list(uids))
            query.StudyInstanceUID, query.SeriesInstanceUID = "1.2.3", "1.2.3.1"
            status = list(association.send_c_get(query, GET))[-1][0]
        return int(status.Status), str(status.get("ErrorComment", "")), arrived

    def audited(self) -> list[str]:
        audit = AuditLog(Places(self.data).audit)
        actions = [str(entry["action"]) for entry in audit.entries()]
        return [action for action in actions if action.startswith(("grant", "appr"))]


@pytest.mark.slow
def test_grants_and_approvals_take_effect_while_the_gateway_runs(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    one, both = "1.2.3.10", ("1.2.3.10", "1.2.3.11")
    with site.serving():
        site.store(*both)
        assert site.fetch(one)[0] == NOT_AUTHORISED

        add = ("grants", "add", "trial", "--node", "workstation")
        site.run(*add, "--when", 'StudyInstanceUID == "1.2.3"')
        assert site.fetch(one) == (0x0000, "", {one})

        status, comment, arrived = site.fetch(*both)
        assert (status, arrived) == (NOT_AUTHORISED, set())
        id = comment.rsplit(" ", 1)[1]
        for name, person in site.people.items():
            key = ("--person", name, "--key", str(person.key))
            site.run("approvals", "approve", id, *key)
        assert site.fetch(*both) == (0x0000, "", set(both))
        assert site.fetch(*both)[0] == NOT_AUTHORISED

        site.run("grants", "revoke", "trial", "--reason", "over")
        assert site.fetch(one)[0] == NOT_AUTHORISED
    with site.serving():
        assert site.fetch(one)[0] == NOT_AUTHORISED
    assert site.audited() == [
        "grant-add",
        "approval-needed",
        "approve",
        "approve",
        "approval-used",
        "approval-needed",
        "grant-revoke",
    ]
