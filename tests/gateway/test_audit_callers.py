"""What stores, queries and retrievals leave in the trail of a listening gateway."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from pydicom.filereader import read_dataset

from config.schema import Node
from gateway.access.caller import Caller
from gateway.audit.mapping import Source, messages_of
from gateway.audit.messages import split
from gateway.audit.sealer import AesFieldSealer, open_fields
from gateway.audit.who import who
from gateway.dicom.admission import Call
from tests.gateway.pki_cases import Pki
from tests.gateway.scp import (
    AUDIT_KEY,
    EXPLICIT,
    WORKSTATION,
    Gateway,
    associated,
    encoded,
    gateway,
    send,
    site,
    small,
)
from tests.gateway.test_audit_messages import SCHEMA
from tests.gateway.test_find import STUDY_ROOT, identifier
from tests.gateway.test_get import Getter
from tests.waiting import wait_until

NAMES = ("ADAMS^EVE", "BROWN^BOB")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(site(tmp_path_factory.mktemp("audit"))) as listening:
        objects = [
            small(f"1.2.{n}", StudyInstanceUID=study, PatientID=who, PatientName=name)
            for n, study, who, name in (
                (1, "1.7.1", "P1", NAMES[0]),
                (2, "1.7.1", "P1", NAMES[0]),
                (3, "1.7.2", "P2", NAMES[1]),
            )
        ]
        assert send(listening.port, *map(encoded, objects)) == [0, 0, 0]
        query = identifier("STUDY", StudyInstanceUID="", PatientName="ADAMS*")
        with associated(
            listening.recovery_port,
            [(STUDY_ROOT, EXPLICIT)],
            WORKSTATION,
            "MIAD-RECOVERY",
        ) as association:
            list(association.send_c_find(query, STUDY_ROOT))
            query.QueryRetrieveLevel = "NONSENSE"
            list(association.send_c_find(query, STUDY_ROOT))
        getter = Getter()
        getter.get(
            listening.recovery_port, identifier("STUDY", StudyInstanceUID="1.7.1")
        )
        assert len(getter.arrivals) == 2
        wait_until(lambda: bool(listening.audited("receive", "success")))
        yield listening


def personal(running: Gateway, action: str, outcome: str) -> dict[str, Any]:
    (entry,) = running.audited(action, outcome)
    return open_fields(AesFieldSealer(AUDIT_KEY), entry)


def test_a_reception_says_whose_studies_came(running: Gateway) -> None:
    assert personal(running, "receive", "success")["patients"] == [
        {"id": "P1", "name": NAMES[0], "studies": {"1.7.1": 2}},
        {"id": "P2", "name": NAMES[1], "studies": {"1.7.2": 1}},
    ]


def test_a_query_is_there_as_it_came(running: Gateway) -> None:
    for outcome, level in (("success", "STUDY"), ("refused", "NONSENSE")):
        query = personal(running, "query", outcome)["query"]
        assert (query["sop_class"], query["transfer_syntax"]) == (STUDY_ROOT, EXPLICIT)
        octets = base64.b64decode(query["data_set"])
        asked = read_dataset(BytesIO(octets), False, True)
        assert (asked.QueryRetrieveLevel, asked.PatientName) == (level, "ADAMS*")


def test_a_retrieval_says_whose_objects_went_and_came(running: Gateway) -> None:
    wanted = [{"id": "P1", "name": NAMES[0], "studies": {"1.7.1": 2}}]
    assert personal(running, "get", "success") == {"patients": wanted}
    assert personal(running, "get-end", "success") == {
        "patients": wanted,
        "failed": [],
    }


def test_every_line_says_who_asked(running: Gateway) -> None:
    for entry in running.audit.entries():
        assert {"calling_ae", "called_ae", "peer_address", "node"} <= set(entry), entry


def test_no_patient_is_readable_in_the_file(running: Gateway) -> None:
    octets = running.audit.path.read_bytes()
    for name in (*NAMES, "ADAMS"):
        assert name.encode() not in octets
        assert base64.b64encode(name.encode())[:8] not in octets


def test_all_lines_become_valid_messages(running: Gateway) -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    sealer = AesFieldSealer(AUDIT_KEY)
    events = set()
    for entry in running.audit.entries():
        for message in messages_of(entry, open_fields(sealer, entry), Source(name="s")):
            for octets in split(message):
                document = etree.fromstring(octets)
                assert schema.validate(document), octets
                events.add(document.find("EventIdentification/EventID").get("csd-code"))
    assert events == {"110102", "110104", "110112"}


def test_a_caller_is_named_by_node_certificate_and_user(pki: Pki) -> None:
    titles = {
        "calling_ae": "WORKSTATION",
        "called_ae": "MIAD-RECOVERY",
        "peer_address": "127.0.0.1",
    }
    assert who(Call(**titles)) == titles
    peer = pki.workstation.peer
    node = Node(name="reading-room", ae_titles=("WORKSTATION",), roles=("recover",))
    admitted = Caller(
        node=node,
        ae_title="WORKSTATION",
        address="127.0.0.1",
        certificate=peer,
        user="dr.house",
    )
    named = who(Call(**titles, certificate=peer), admitted)
    assert named["node"] == "reading-room"
    assert named["certificate"] == pki.workstation.fingerprint
    assert named["subject"] == "CN=workstation"
    assert named["user"] == "dr.house"


def test_a_refused_caller_is_named_by_title_and_address(tmp_path: Path) -> None:
    with gateway(site(tmp_path)) as listening:
        with associated(listening.port, [(STUDY_ROOT, EXPLICIT)], "STRANGER") as peer:
            assert peer.is_rejected
        (entry,) = listening.audited("association", "refused")
    assert entry["calling_ae"] == "STRANGER"
    assert entry["peer_address"] == "127.0.0.1"
    (message,) = messages_of(entry, {}, Source(name="s"))
    assert [kind.value for kind in message.types] == ["110126"]
