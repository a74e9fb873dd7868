"""What requests over HTTPS leave in the trail, and as DICOM audit messages."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree

from gateway.audit.log import AuditLog
from gateway.audit.mapping import Source, messages_of
from gateway.audit.messages import split
from gateway.audit.sealer import AesFieldSealer, open_fields
from gateway.tls.certificates import shown
from tests.gateway.pki_cases import Pki
from tests.gateway.scp import AUDIT_KEY, encoded, small
from tests.gateway.test_audit_messages import SCHEMA
from tests.gateway.web_cases import ANY, Web, person, serving, settings, stow

NAME = "ADAMS^EVE"
SEALER = AesFieldSealer(AUDIT_KEY)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Web]:
    """One of everything was asked: by a node, by a stranger, and by a person."""
    officer = pki.authority.node("audited")
    grants = [{"name": "all", "nodes": ["workstation"], "when": "true"}]
    people = [person("officer", officer, "security")]
    folder = tmp_path_factory.mktemp("web")
    site = settings(folder, pki, people=people, grants=grants)
    with serving(site, pki, sealer=SEALER) as running:
        item = encoded(small("1.2.3.4", PatientName=NAME, StudyInstanceUID="1.2.3"))
        with running.client(pki.modality) as client:
            assert stow(client, item, b"none").status_code == 202
        with running.client(pki.workstation) as client:
            asked = {"PatientName": NAME}
            assert client.get("/originals/studies", params=asked).status_code == 200
            answer = client.get("/originals/studies/1.2.3", headers={"Accept": ANY})
            assert answer.status_code == 200
            assert client.get("/originals/studies?x=" + NAME).status_code == 400
            assert client.get("/originals/studies/1.2.4").status_code == 404
        with running.client(pki.stranger) as client:
            assert client.get("/originals/studies").status_code == 403
            assert client.get("/").status_code == 403
        with running.client(officer) as client:
            assert client.get("/audit").status_code == 200
        yield running


def personal(audit: AuditLog, action: str, outcome: str) -> Any:
    found = [
        e for e in audit.entries() if (e["action"], e["outcome"]) == (action, outcome)
    ]
    return open_fields(SEALER, found[-1])


def test_a_search_is_kept_as_it_was_asked(web: Web) -> None:
    asked = personal(web.audit, "query", "success")["query"]
    assert asked["uri"] == "/originals/studies"
    assert b"PatientName=ADAMS" in base64.b64decode(asked["data_set"])
    refused = personal(web.audit, "query", "refused")["query"]
    assert b"x=ADAMS" in base64.b64decode(refused["data_set"])


def test_what_came_and_went_names_its_patients(web: Web) -> None:
    wanted = [{"id": "P1", "name": NAME, "studies": {"1.2.3": 1}}]
    assert personal(web.audit, "receive", "success") == {"patients": wanted}
    assert personal(web.audit, "get", "success") == {"patients": wanted}
    assert personal(web.audit, "get-end", "success")["patients"] == wanted


def test_every_line_of_a_node_says_who_asked(web: Web) -> None:
    for entry in web.audit.entries():
        if entry["action"] in {"query", "get", "get-end", "receive", "store"}:
            named = {"calling_ae", "called_ae", "peer_address", "node", "subject"}
            assert named <= set(entry), entry
            node = (
                web.pki.modality if entry["node"] == "modality" else web.pki.workstation
            )
            assert entry["certificate"] == shown(node.peer.sha256)


def test_no_patient_is_readable_in_the_file(web: Web) -> None:
    octets = web.audit.path.read_bytes()
    assert b"ADAMS" not in octets
    assert base64.b64encode(NAME.encode())[:8] not in octets


def test_all_lines_become_valid_messages(web: Web) -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    events = set()
    for entry in web.audit.entries():
        for message in messages_of(entry, open_fields(SEALER, entry), Source(name="s")):
            for octets in split(message):
                document = etree.fromstring(octets)
                assert schema.validate(document), octets
                events.add(document.find("EventIdentification/EventID").get("csd-code"))
    # Log used, begin transferring, query, transferred, alert, authentication.
    assert events == {"110101", "110102", "110112", "110104", "110113", "110114"}


def test_the_trail_is_whole(web: Web) -> None:
    assert web.audit.verify().count > 10
