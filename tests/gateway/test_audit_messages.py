"""Every line of the trail as a DICOM audit message, valid against the schema."""

from __future__ import annotations

import ast
import base64
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from gateway.audit.mapping import ACTIONS, LOCAL_ONLY, Source, messages_of
from gateway.audit.messages import MAX_OCTETS, Message, split
from gateway.audit.personal import uri_query_of

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("audit_schema") / "audit-message.rng"
SOURCE = Source(
    name="site", ae_titles=("MIAD-GATEWAY", "MIAD-RECOVERY"), trail="file:///a.jsonl"
)
PLACE = {
    "n": 12,
    "at": "2026-01-02T12:00:00.000000+00:00",
    "previous": "0" * 64,
    "hash": "ab" * 32,
}
CALL = {
    "calling_ae": "WORKSTATION",
    "called_ae": "MIAD-RECOVERY",
    "peer_address": "10.0.0.7",
    "node": "reading-room",
    "certificate": "sha256:" + "a" * 64,
    "subject": "CN=workstation",
}
QUERY = {
    "data_set": base64.b64encode(b"\x08\x00\x52\x00CS\x06\x00STUDY ").decode(),
    "sop_class": "1.2.840.10008.5.1.4.1.2.2.1",
    "transfer_syntax": "1.2.840.10008.1.2.1",
}
TWO_PATIENTS = [
    {"id": "P1", "name": "Müller^Jörg", "studies": {"1.2.1": 2, "1.2.2": 1}},
    {"id": "P2", "name": "<&>\"'\x07^山田", "studies": {"1.2.3": 4}},
]

LINES: dict[str, dict[str, Any]] = {
    "start": {"process": "receiver", "version": "0.1.0", "configuration": "c" * 64},
    "stop": {"process": "receiver", "version": "0.1.0", "configuration": "c" * 64},
    "audit-read": {"command": "show", "user": "root", "actions": ["move"]},
    "checkpoint": {"site": "site", "line": 11, "digest": "d" * 64, "signature": "AA=="},
    "audit-broken": {"error": "Line 3 of a.jsonl was changed", "line": 3},
    "login": {"person": "alice", "peer_address": "10.0.0.8", "subject": "CN=alice"},
    "logout": {"person": "alice", "peer_address": "10.0.0.8"},
    "association": CALL | {"why": "certificate-of-no-node", "result": 1, "reason": 3},
    "connection": {"peer_address": "(others)", "further_refusals": 900},
    "handshake": {"peer_address": "10.0.0.9", "why": "unknown-authority"},
    "contexts": CALL | {"sop_classes": ["1.2.3", "1.2.4"]},
    "store": CALL | {"sop_instance_uid": "1.2.3.4", "message": "Too large"},
    "receive": CALL | {"studies": ["1.2.1", "1.2.2", "1.2.3"], "stored": 7},
    "query": CALL | {"level": "STUDY", "keys": ["PatientID"], "status": "0xA900"},
    "move": CALL | {"destination": "ARCHIVE", "studies": ["1.2.1"], "instances": 7},
    "move-end": CALL
    | {
        "destination": "ARCHIVE",
        "completed": 6,
        "warning": 1,
        "failed_uids": ["1.2.3.9", "1.2.3.8"],
        "status": "0xB000",
    },
    "get": CALL | {"destination": "WORKSTATION", "studies": ["1.2.1"], "instances": 7},
    "get-end": CALL | {"destination": "WORKSTATION", "completed": 7, "warning": 0},
    "recover": CALL | {"sop_instance_uid": "1.2.3", "error": "RecoveryRefused"},
    "export": {"destination": "cloud", "ae_title": "AI", "sop_instance_uid": "2.25.1"},
    "commitment": CALL | {"step": "asked", "status": "0x0124"},
    "release": {"person": "bob", "reason": "read by a radiologist", "study": "1.2.1"},
    "config": {"changed": ["nodes", "tls"], "configuration": "c" * 64},
    "tls": {"error": ""},
    "tls-reload": {"error": ""},
    "grant-add": {"person": "carol", "grant": "reading", "nodes": ["reading-room"]},
    "grant-revoke": {"person": "carol", "grant": "reading"},
    "access-accept": {"who": "root", "reason": "restored", "grants": 3},
    "approve": {"person": "carol", "who": "carol", "approval": "17"},
    "approval-needed": CALL | {"approval": "17", "studies": ["1.2.1"], "instances": 9},
    "approval-used": CALL | {"approval": "17", "studies": ["1.2.1"], "instances": 9},
    "clock-jump": {"direction": "back", "seconds": 3600, "stopped": True},
    "clock-reset": {"who": "root", "reason": "wrong battery", "to": "2026-01-02"},
    "key-made": {"operator": "root", "key_id": "k2", "where": "pkcs11"},
    "approval": {"person": "carol", "request": "17"},
    "key-rotation": {"operator": "root", "old": "k1", "new": "k2", "records": 100_000},
    "key-retire": {"operator": "root", "key": "k1"},
    "key-backup": {"operator": "root", "shares": 5, "threshold": 3},
    "key-restore": {"operator": "root", "key": "k2"},
    "disk": {"accepting": False, "free_bytes": 1000, "place": "store"},
    "erasure": {"operator": "root", "studies": ["1.2.1"], "instances": 3},
    "retention": {"originals": 3, "protected": 1, "keys": 0, "bytes": 1000},
    "key-erasure": {"operator": "root", "studies": ["1.2.1"], "records": 3},
}
"""A line of every action, with fields as the code writes them."""


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(SCHEMA))


def made(
    action: str, outcome: str = "success", personal: dict[str, Any] | None = None
) -> list[Message]:
    entry = {**PLACE, "action": action, "outcome": outcome, **LINES.get(action, {})}
    return messages_of(entry, personal or {}, SOURCE)


def all_made() -> Iterator[tuple[str, bytes]]:
    failed = [{"id": "P1", "name": "A^B", "studies": {"1.2.3": ["1.2.3.8", "1.2.3.9"]}}]
    known = {"patients": TWO_PATIENTS, "failed": failed, "query": QUERY}
    for action in ACTIONS:
        for outcome in ("success", "refused", "failure"):
            for personal in ({}, known):
                for message in made(action, outcome, personal):
                    for octets in split(message):
                        yield action, octets


def test_every_message_is_valid(schema: etree.RelaxNG) -> None:
    seen = set()
    for action, octets in all_made():
        document = etree.fromstring(octets)
        assert schema.validate(document), (action, str(schema.error_log))
        seen.add(action)
    assert seen == set(ACTIONS)


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint")
def test_xmllint_finds_them_valid_too(tmp_path: Path) -> None:
    files = []
    for number, (_, octets) in enumerate(all_made()):
        files.append(tmp_path / f"{number}.xml")
        files[-1].write_bytes(octets)
    done = subprocess.run(
        ["xmllint", "--noout", "--relaxng", str(SCHEMA), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("validates") == len(files)


def test_the_schema_refuses_what_the_standard_does_not_have(
    schema: etree.RelaxNG,
) -> None:
    (message,) = made("start")
    octets = split(message)[0]
    for before, after in (
        (b'EventActionCode="E"', b'EventActionCode="X"'),
        (b'EventOutcomeIndicator="0"', b'EventOutcomeIndicator="1"'),
        (b"<EventID ", b"<EventId "),
        (b' UserIsRequestor="false"', b""),
        (b"<AuditSourceIdentification", b"<Other/><AuditSourceIdentification"),
    ):
        assert before in octets
        assert not schema.validate(
            etree.fromstring(octets.replace(before, after, 1))
        ), after


# every action of the source has a message, or is said to stay local


def recorded_actions() -> Iterator[tuple[str, ast.expr]]:
    """Yield where something is put into the trail, and the action's expression."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"record", "note", "refuse", "record_over"}
                and node.args
                and (
                    isinstance(node.args[0], ast.Constant)
                    or "audit" in ast.unparse(node.func.value).lower()
                )
            ):
                yield path.relative_to(ROOT).as_posix(), node.args[0]


PASSED_ON = {
    "gateway/audit/log.py",
    "gateway/audit/refusals.py",
    "gateway/cli/key_site.py",
}
"""Where the action is an argument: their callers name it."""

NAMED_ELSEWHERE = {
    (
        "gateway/access/access.py",
        "'approval-needed' if needed else 'approval-used'",
    ): {"approval-needed", "approval-used"},
    ("gateway/web/exchange.py", "action"): {"query", "get", "store"},
    ("gateway/audit/checkpoints.py", "ACTION"): {"checkpoint"},
    ("gateway/stages/erase.py", "action"): {"erasure", "key-erasure"},
    ("gateway/audit/forwarder.py", "BROKEN"): {"audit-broken"},
    ("gateway/dicom/retrieve_suboperations.py", "self._action"): {"move", "get"},
    ("gateway/dicom/retrieve_suboperations.py", "f'{self._action}-end'"): {
        "move-end",
        "get-end",
    },
}


def test_every_action_of_the_source_has_a_message_or_stays_here() -> None:
    known = set(ACTIONS) | set(LOCAL_ONLY)
    found = set()
    for path, action in recorded_actions():
        if isinstance(action, ast.Constant):
            names = {str(action.value)}
        elif path in PASSED_ON:
            continue
        else:
            names = NAMED_ELSEWHERE[path, ast.unparse(action)]
        assert names <= known, f"{path}: {names} has no message"
        found |= names
    assert {"move", "get-end", "query", "export", "start", "audit-read"} <= found


def test_the_examples_here_are_of_every_action() -> None:
    assert set(LINES) == set(ACTIONS)
    assert not set(ACTIONS) & set(LOCAL_ONLY)


def test_an_unknown_action_is_not_left_out(schema: etree.RelaxNG) -> None:
    (message,) = made("of-another-release", "refused")
    document = etree.fromstring(split(message)[0])
    assert schema.validate(document)
    assert code_of(document) == ("110113", ["110131"])


# what is in them


def code_of(document: Any) -> tuple[str, list[str]]:
    event = document.find("EventIdentification")
    kinds = [kind.get("csd-code") for kind in event.findall("EventTypeCode")]
    return event.find("EventID").get("csd-code"), kinds


def parsed(message: Message) -> Any:
    (octets,) = split(message)
    return etree.fromstring(octets)


@pytest.mark.parametrize(
    ("action", "outcome", "code", "kinds"),
    [
        ("start", "success", "110100", ["110120"]),
        ("stop", "success", "110100", ["110121"]),
        ("audit-read", "success", "110101", []),
        ("checkpoint", "success", "110101", []),
        ("move", "success", "110102", []),
        ("move", "refused", "110113", ["110132"]),
        ("get-end", "success", "110104", []),
        ("recover", "failure", "110103", []),
        ("receive", "success", "110104", []),
        ("export", "success", "110104", []),
        ("query", "success", "110112", []),
        ("association", "refused", "110113", ["110126"]),
        ("handshake", "refused", "110113", ["110126"]),
        ("contexts", "refused", "110113", ["110132"]),
        ("login", "refused", "110114", ["110122"]),
        ("logout", "success", "110114", ["110123"]),
        ("config", "success", "110113", ["110131"]),
        ("tls-reload", "success", "110113", ["110129"]),
        ("grant-add", "success", "110113", ["110136"]),
        ("key-rotation", "success", "110113", ["110129"]),
        ("key-erasure", "success", "110105", []),
        ("audit-broken", "failure", "110113", ["110135"]),
    ],
)
def test_codes_are_those_of_the_standard(
    action: str, outcome: str, code: str, kinds: list[str]
) -> None:
    for message in made(action, outcome):
        assert code_of(parsed(message)) == (code, kinds)


def test_a_message_is_about_one_patient_only() -> None:
    messages = made("move", personal={"patients": TWO_PATIENTS})
    assert len(messages) == 2
    for message, patient in zip(messages, TWO_PATIENTS, strict=True):
        objects = parsed(message).findall("ParticipantObjectIdentification")
        *studies, person = objects
        assert person.get("ParticipantObjectID") == patient["id"]
        assert [s.get("ParticipantObjectID") for s in studies] == list(
            patient["studies"]
        )
        counts = [
            int(
                s.find("ParticipantObjectDescription/SOPClass").get("NumberOfInstances")
            )
            for s in studies
        ]
        assert counts == list(patient["studies"].values())
    name = objects[-1].findtext("ParticipantObjectName")
    assert name == TWO_PATIENTS[1]["name"].replace("\x07", "�")


def test_what_arrived_and_what_failed_are_messages_of_their_own() -> None:
    failed = [{"id": "P1", "name": "A^B", "studies": {"1.2.3": ["1.2.3.8", "1.2.3.9"]}}]
    personal = {"patients": TWO_PATIENTS[:1], "failed": failed}
    arrived, lost = (parsed(m) for m in made("move-end", "failure", personal))
    outcomes = [
        d.find("EventIdentification").get("EventOutcomeIndicator")
        for d in (arrived, lost)
    ]
    assert outcomes == ["0", "4"]
    assert [i.get("UID") for i in lost.iter("Instance")] == ["1.2.3.8", "1.2.3.9"]


def test_who_asked_and_who_got_it_are_told_apart() -> None:
    (message,) = made("move", personal={"patients": TWO_PATIENTS[:1]})
    participants = parsed(message).findall("ActiveParticipant")
    roles = [
        (p.get("UserID"), p.get("UserIsRequestor"), p.findtext("RoleIDCode"))
        for p in participants
    ]
    assert [p[:2] for p in roles] == [
        ("miad-gateway", "false"),
        ("ARCHIVE", "false"),
        ("reading-room", "true"),
    ]
    codes = [[r.get("csd-code") for r in p.findall("RoleIDCode")] for p in participants]
    assert codes == [["110153"], ["110152"], []]
    asked = participants[2]
    assert asked.get("AlternativeUserID") == "AETITLES=WORKSTATION"
    assert asked.get("NetworkAccessPointID") == "10.0.0.7"
    assert asked.get("NetworkAccessPointTypeCode") == "2"


def test_at_most_one_participant_is_the_requestor() -> None:
    for _, octets in all_made():
        participants = etree.fromstring(octets).findall("ActiveParticipant")
        asking = [p for p in participants if p.get("UserIsRequestor") == "true"]
        assert len(asking) <= 1


def test_a_query_carries_its_data_set() -> None:
    (message,) = made("query", personal={"query": QUERY})
    asked = parsed(message).find("ParticipantObjectIdentification")
    assert asked.get("ParticipantObjectID") == QUERY["sop_class"]
    assert asked.findtext("ParticipantObjectQuery") == QUERY["data_set"]
    (syntax,) = asked.findall("ParticipantObjectDetail")
    assert syntax.get("type") == "TransferSyntax"
    assert base64.b64decode(syntax.get("value")).decode() == QUERY["transfer_syntax"]


def test_a_search_of_dicomweb_carries_its_uri() -> None:
    query = uri_query_of("/dicomweb/studies", "PatientID=P1")
    (message,) = made("query", personal={"query": query})
    asked = parsed(message).find("ParticipantObjectIdentification")
    assert asked.get("ParticipantObjectID") == "/dicomweb/studies"
    assert asked.find("ParticipantObjectIDTypeCode").get("csd-code") == "12"
    uri = base64.b64decode(asked.findtext("ParticipantObjectQuery"))
    assert uri == b"/dicomweb/studies?PatientID=P1"


def test_an_alert_says_what_for_and_carries_all_fields() -> None:
    (message,) = made("association", "refused")
    subject = parsed(message).find("ParticipantObjectIdentification")
    details = [
        (d.get("type"), base64.b64decode(d.get("value")).decode())
        for d in subject.findall("ParticipantObjectDetail")
    ]
    assert ("Alert Description", "association refused: certificate-of-no-node") in (
        details
    )
    assert ("certificate", CALL["certificate"]) in details


def test_a_message_names_its_line() -> None:
    (message,) = made("start")
    text = parsed(message).findtext("EventIdentification/EventOutcomeDescription")
    assert text == "[line 12 abababababababab]"


# sizes


@pytest.mark.parametrize("count", [500, 20_000])
def test_large_messages_are_split_and_nothing_is_lost(
    schema: etree.RelaxNG, count: int
) -> None:
    uids = [f"1.2.826.0.1.3680043.8.498.{'7' * 30}.{n}" for n in range(count)]
    personal = {"failed": [{"id": "P1", "name": "A^B", "studies": {"1.2.3": uids}}]}
    entry = {**PLACE, "action": "move-end", "outcome": "failure"}
    entry |= LINES["move-end"] | {"completed": 0, "warning": 0, "failed_uids": uids}
    (message,) = messages_of(entry, personal, SOURCE)
    parts = split(message)
    assert len(parts) > 1
    assert max(len(part) for part in parts) <= MAX_OCTETS
    found = []
    for part in parts:
        document = etree.fromstring(part)
        assert schema.validate(document)
        (sop_class,) = document.iter("SOPClass")
        here = [i.get("UID") for i in sop_class.findall("Instance")]
        assert int(sop_class.get("NumberOfInstances")) == len(here)
        assert document.findall("ParticipantObjectIdentification")[-1].get(
            "ParticipantObjectID"
        ) == ("P1")
        found += here
    assert found == uids


@pytest.mark.parametrize("octets", [30_000, 100_000, 1 << 20])
def test_a_query_that_is_too_large_is_cut_and_says_so(
    schema: etree.RelaxNG, octets: int
) -> None:
    query = QUERY | {"data_set": base64.b64encode(b"A" * octets).decode()}
    (message,) = made("query", personal={"query": query})
    (part,) = split(message)
    assert len(part) <= MAX_OCTETS
    document = etree.fromstring(part)
    assert schema.validate(document)
    details = [
        (d.get("type"), base64.b64decode(d.get("value")))
        for d in document.iter("ParticipantObjectDetail")
    ]
    assert details.count(("QueryCutFrom", str(octets).encode())) == 1
    (kept,) = document.iter("ParticipantObjectQuery")
    assert len(base64.b64decode(kept.text)) > 15_000


def test_details_of_an_alert_are_dealt_out(schema: etree.RelaxNG) -> None:
    entry = {**PLACE, "action": "contexts", "outcome": "refused"} | CALL
    classes = [f"1.2.840.10008.5.1.4.1.1.{n}" for n in range(2000)]
    (message,) = messages_of(entry | {"sop_classes": classes}, {}, SOURCE)
    parts = split(message)
    assert max(len(part) for part in parts) <= MAX_OCTETS
    found = [
        base64.b64decode(d.get("value")).decode()
        for part in parts
        for d in etree.fromstring(part).iter("ParticipantObjectDetail")
        if d.get("type") == "sop_classes"
    ]
    assert found == classes
    long = replace(message.objects[0], details=(("message", b"x" * 100_000),))
    (cut,) = split(replace(message, objects=(long,)))
    assert schema.validate(etree.fromstring(cut))


@given(
    st.dictionaries(
        st.sampled_from(["calling_ae", "peer_address", "node", "user", "message"]),
        st.text(max_size=80),
    ),
    st.sampled_from(sorted(ACTIONS)),
    st.sampled_from(["success", "refused", "failure"]),
    st.text(max_size=80),
)
@settings(max_examples=300, deadline=None)
def test_whatever_peers_send_makes_valid_messages(
    fields: dict[str, str], action: str, outcome: str, text: str
) -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    entry = {**PLACE, "action": action, "outcome": outcome, **LINES[action], **fields}
    patients = [{"id": text, "name": text, "studies": {text: 1}}]
    for message in messages_of(entry, {"patients": patients}, SOURCE):
        for octets in split(message):
            assert schema.validate(etree.fromstring(octets)), octets
