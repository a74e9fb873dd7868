"""From lines of the trail to audit messages of PS3.15 A.5.3.

`ACTIONS` says of every action what it becomes; `LOCAL_ONLY` which stay here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Final

from pydicom.sr.coding import Code

from gateway.audit import codes
from gateway.audit.messages import (
    Message,
    Object,
    Participant,
    Patient,
    Study,
)

Entry = Mapping[str, Any]

NOT_AUTHORISED: Final = "0x0124"
"""DIMSE status of a request that may not be made (PS3.7 Annex C)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Whose trail it is.

    Attributes
    ----------
    name
        AuditSourceID: the site.
    process
        UserID of this gateway's processes, before their own name.
    ae_titles
        Its AE titles.
    trail
        URI of the trail.
    """

    name: str
    ae_titles: tuple[str, ...] = ()
    trail: str = "file:audit.jsonl"
    process: str = "miad-gateway"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line, its personal fields opened, and whose it is."""

    entry: Entry
    personal: Entry
    source: Source

    def text(self, name: str, default: str = "") -> str:
        """Return a field as text."""
        value = self.entry.get(name)
        return default if value is None else str(value)

    @property
    def succeeded(self) -> bool:
        """Whether its outcome is success."""
        return bool(self.entry["outcome"] == "success")


Make = Callable[[Line], list[Message]]


def messages_of(entry: Entry, personal: Entry, source: Source) -> list[Message]:
    """Return what a line becomes; nothing for one that stays here.

    An action that no table knows, of another release, becomes a security alert
    with all its fields: nothing is left out unseen.
    """
    action = str(entry["action"])
    if action in LOCAL_ONLY:
        return []
    line = Line(entry=entry, personal=personal, source=source)
    made = ACTIONS.get(action, _alert(codes.SOFTWARE_CONFIGURATION))(line)
    mark = f"line {entry['n']} {str(entry['hash'])[:16]}"
    return [
        replace(message, description=f"{message.description} [{mark}]".strip())
        for message in made
    ]


# A.5.3.1 Application Activity, A.5.3.2 Audit Log Used, A.5.3.12 User Authentication


def _activity(kind: Code) -> Make:
    def make(line: Line) -> list[Message]:
        own = replace(
            _own(line, line.text("process")),
            role=codes.APPLICATION,
            ae_titles=line.source.ae_titles,
        )
        launcher = Participant(
            user_id=line.text("user", line.source.process), role=codes.LAUNCHER
        )
        message = _message(line, codes.APPLICATION_ACTIVITY, "E", (own, launcher))
        return [replace(message, types=(kind,))]

    return make


def _log_used(line: Line) -> list[Message]:
    person = line.text("user") or line.text("person")
    participants = [replace(_own(line), requestor=not person)]
    if person:
        address = _address(line.text("peer_address"))
        participants.append(
            Participant(user_id=person, requestor=True, address=address)
        )
    trail = Object(
        id=line.source.trail,
        id_type=codes.URI,
        type_code=2,
        role=13,
        name="Security Audit Log",
        details=_details(line),
    )
    message = _message(line, codes.AUDIT_LOG_USED, "R", tuple(participants))
    return [replace(message, objects=(trail,))]


def _authentication(kind: Code) -> Make:
    def make(line: Line) -> list[Message]:
        person = Participant(
            user_id=line.text("person") or line.text("user") or line.text("node"),
            name=line.text("subject"),
            requestor=True,
            address=_address(line.text("peer_address")) or "127.0.0.1",
        )
        message = _message(line, codes.USER_AUTHENTICATION, "E", (person, _own(line)))
        return [replace(message, types=(kind,))]

    return make


# A.5.3.3 Begin Transferring, A.5.3.7 Instances Transferred, A.5.3.6 Accessed


def _begin(line: Line) -> list[Message]:
    if not line.succeeded:
        return _alert(codes.RESTRICTED_FUNCTION)(line)
    message = _message(line, codes.BEGIN_TRANSFERRING, "E", _retrieval(line))
    return _per_patient(message, line, "patients")


def _end(line: Line) -> list[Message]:
    """Return what arrived, and as failed what did not: never both in one."""
    message = _message(line, codes.INSTANCES_TRANSFERRED, "R", _retrieval(line))
    done = int(line.entry.get("completed") or 0) + int(line.entry.get("warning") or 0)
    failed = line.entry.get("failed_uids") or []
    made = []
    if done:
        made += _per_patient(replace(message, outcome=0), line, "patients", done)
    if failed:
        lost = replace(message, outcome=4, description=line.text("status"))
        made += _per_patient(lost, line, "failed", len(failed), tuple(failed))
    return made or _per_patient(message, line, "patients", 0)


def _received(line: Line) -> list[Message]:
    outcomes = line.entry
    kept = sum(int(outcomes.get(name) or 0) for name in ("stored", "duplicate"))
    if not kept:
        return []  # each refusal has its own line
    action = "C" if outcomes.get("stored") else "R"
    message = _message(line, codes.INSTANCES_TRANSFERRED, action, _arrival(line))
    return _per_patient(message, line, "patients", kept)


def _refused_store(line: Line) -> list[Message]:
    message = _message(line, codes.INSTANCES_TRANSFERRED, "C", _arrival(line))
    uid = line.text("sop_instance_uid")
    return _per_patient(message, line, "patients", 1, (uid,) if uid else ())


def _exported(line: Line) -> list[Message]:
    if "sop_instance_uid" not in line.entry:  # held by our own check
        return _alert(codes.RESTRICTED_FUNCTION)(line)
    sender = replace(
        _own(line),
        role=codes.SOURCE,
        requestor=True,
        ae_titles=line.source.ae_titles[:1],
    )
    receiver = Participant(
        user_id=line.text("destination"),
        role=codes.DESTINATION,
        ae_titles=_titles(line.text("ae_title")),
    )
    message = _message(line, codes.INSTANCES_TRANSFERRED, "R", (sender, receiver))
    return _per_patient(message, line, "patients", 1, (line.text("sop_instance_uid"),))


def _committed(line: Line) -> list[Message]:
    """Return nothing of one that went well: the objects have their own messages."""
    return [] if line.succeeded else _alert(codes.RESTRICTED_FUNCTION)(line)


def _not_rebuilt(line: Line) -> list[Message]:
    participants = (replace(_caller(line), requestor=True), _own(line))
    message = _message(line, codes.INSTANCES_ACCESSED, "R", participants)
    message = replace(message, outcome=8, description=line.text("error"))
    return _per_patient(message, line, "patients", 1, (line.text("sop_instance_uid"),))


def _erased(line: Line) -> list[Message]:
    """Return the deletion of studies whose keys were erased, if it names them."""
    if not line.entry.get("studies"):
        return _alert(codes.SECURITY_CONFIGURATION)(line)
    message = _message(line, codes.STUDY_DELETED, "D", _staff(line))
    return _per_patient(message, line, "patients")


# A.5.3.10 Query


def _queried(line: Line) -> list[Message]:
    if line.text("status") == NOT_AUTHORISED or line.entry.get("further_refusals"):
        return _alert(codes.RESTRICTED_FUNCTION)(line)
    asked = _asked(line.personal.get("query") or {})
    caller = replace(_caller(line), role=codes.SOURCE, requestor=True)
    answers = replace(
        _own(line), role=codes.DESTINATION, ae_titles=_titles(line.text("called_ae"))
    )
    participants = (caller, answers, *_user(line))
    message = _message(line, codes.QUERY, "E", participants)
    return [replace(message, objects=(asked,))]


def _asked(query: Entry) -> Object:
    """Return a query: the data set of C-FIND, or the URI of DICOMweb."""
    octets = base64.b64decode(query.get("data_set", ""))
    if query.get("uri"):
        path = str(query["uri"])
        return Object(id=path, id_type=codes.URI, type_code=2, role=3, query=octets)
    syntax = str(query.get("transfer_syntax", "")).encode()
    return Object(
        id=str(query.get("sop_class", "")),
        id_type=codes.SOP_CLASS_UID,
        type_code=2,
        role=3,
        query=octets,
        details=(("TransferSyntax", syntax),),
    )


# A.5.3.11 Security Alert


def _alert(kind: Code, *, severe: int = 4) -> Make:
    """Make a security alert of a kind, with all fields of the line."""

    def make(line: Line) -> list[Message]:
        node = line.text("calling_ae") or line.text("peer_address")
        others: tuple[Participant, ...] = ()
        if node:
            others = (_caller(line), *_user(line))
        address = _address(line.text("peer_address"))
        subject = Object(
            id=address or line.text("node") or line.source.trail,
            id_type=codes.NODE_ID if address or line.text("node") else codes.URI,
            type_code=2,
            role=13,
            name=line.text("node") or line.text("calling_ae") or line.source.process,
            details=(
                ("Alert Description", _described(line).encode()),
                *_details(line),
            ),
        )
        message = _message(line, codes.SECURITY_ALERT, "E", (*_staff(line), *others))
        outcome = 0 if line.succeeded else severe
        return [replace(message, outcome=outcome, types=(kind,), objects=(subject,))]

    return make


ACTIONS: Final[Mapping[str, Make]] = {
    "start": _activity(codes.APPLICATION_START),
    "stop": _activity(codes.APPLICATION_STOP),
    "audit-read": _log_used,
    "checkpoint": _log_used,
    "audit-broken": _alert(codes.SECURITY_ATTRIBUTES, severe=12),
    "login": _authentication(codes.LOGIN),
    "logout": _authentication(codes.LOGOUT),
    "association": _alert(codes.NODE_AUTHENTICATION),
    "connection": _alert(codes.NODE_AUTHENTICATION),
    "handshake": _alert(codes.NODE_AUTHENTICATION),
    "contexts": _alert(codes.RESTRICTED_FUNCTION),
    "store": _refused_store,
    "receive": _received,
    "query": _queried,
    "move": _begin,
    "move-end": _end,
    "get": _begin,
    "get-end": _end,
    "recover": _not_rebuilt,
    "export": _exported,
    "commitment": _committed,
    "release": _alert(codes.RESTRICTED_FUNCTION),
    "config": _alert(codes.SOFTWARE_CONFIGURATION),
    "tls": _alert(codes.SECURITY_CONFIGURATION),
    "tls-reload": _alert(codes.SECURITY_CONFIGURATION),
    "grant-add": _alert(codes.SECURITY_ROLES),
    "grant-revoke": _alert(codes.SECURITY_ROLES),
    "access-accept": _alert(codes.SECURITY_ATTRIBUTES),
    "approval": _alert(codes.SECURITY_ROLES),
    "approve": _alert(codes.SECURITY_ROLES),
    "approval-needed": _alert(codes.RESTRICTED_FUNCTION),
    "approval-used": _alert(codes.RESTRICTED_FUNCTION),
    "clock-jump": _alert(codes.SECURITY_CONFIGURATION, severe=8),
    "clock-reset": _alert(codes.SECURITY_CONFIGURATION),
    "key-made": _alert(codes.SECURITY_CONFIGURATION),
    "key-rotation": _alert(codes.SECURITY_CONFIGURATION),
    "key-retire": _alert(codes.SECURITY_CONFIGURATION),
    "key-backup": _alert(codes.SECURITY_CONFIGURATION),
    "key-restore": _alert(codes.SECURITY_CONFIGURATION),
    "key-erasure": _erased,
    "disk": _alert(codes.SOFTWARE_CONFIGURATION),
    "erasure": _erased,
    "retention": _alert(codes.SOFTWARE_CONFIGURATION),
}
"""What every action becomes."""

LOCAL_ONLY: Final[Mapping[str, str]] = {}
"""Actions that stay here, and why."""


# parts


def _message(
    line: Line, event: Code, action: str, participants: tuple[Participant, ...]
) -> Message:
    return Message(
        event=event,
        action=action,
        outcome=0 if line.succeeded else 4,
        at=line.text("at"),
        source=line.source.name,
        participants=participants,
        description="" if line.succeeded else _described(line),
    )


def _described(line: Line) -> str:
    said = (line.text(name) for name in ("message", "why", "error", "reason", "status"))
    why = next((text for text in said if text), "")
    told = f"{line.text('action')} {line.text('outcome')}"
    return f"{told}: {why}" if why else told


def _details(line: Line) -> tuple[tuple[str, bytes], ...]:
    """Return all other fields of a line, of a list one pair per value."""
    plain = {"n", "at", "action", "outcome", "previous", "hash", "personal"}
    pairs: list[tuple[str, bytes]] = []
    for name, value in line.entry.items():
        if name not in plain:
            values = value if isinstance(value, list) else [value]
            pairs += [(name, str(each).encode()) for each in values]
    return tuple(pairs)


def _own(line: Line, process: str = "") -> Participant:
    name = process or line.text("process") or line.text("service")
    user_id = f"{line.source.process}/{name}" if name else line.source.process
    return Participant(user_id=user_id, name=line.source.process)


def _caller(line: Line) -> Participant:
    """Return the node that called: by name, certificate, or title at last."""
    user_id = (
        line.text("node")
        or line.text("certificate")
        or line.text("calling_ae")
        or line.text("peer_address")
    )
    return Participant(
        user_id=user_id,
        name=line.text("subject"),
        ae_titles=_titles(line.text("calling_ae")),
        address=_address(line.text("peer_address")),
    )


def _user(line: Line) -> tuple[Participant, ...]:
    """Return the person a node speaks for."""
    user = line.text("user")
    return (Participant(user_id=user),) if user else ()


def _staff(line: Line) -> tuple[Participant, ...]:
    """Return who reports: this gateway, and the person at it."""
    person = line.text("person") or line.text("operator") or line.text("who")
    if not person:
        return (_own(line),)
    return (_own(line), Participant(user_id=person, requestor=True))


def _retrieval(line: Line) -> tuple[Participant, ...]:
    """Return source, destination and who asked, of C-MOVE and C-GET."""
    sender = replace(
        _own(line), role=codes.SOURCE, ae_titles=_titles(line.text("called_ae"))
    )
    caller = replace(_caller(line), requestor=True)
    if line.text("destination") in {"", line.text("calling_ae")}:
        return (sender, replace(caller, role=codes.DESTINATION), *_user(line))
    receiver = Participant(
        user_id=line.text("destination"),
        role=codes.DESTINATION,
        ae_titles=_titles(line.text("destination")),
    )
    return (sender, receiver, caller, *_user(line))


def _arrival(line: Line) -> tuple[Participant, ...]:
    caller = replace(_caller(line), role=codes.SOURCE, requestor=True)
    own = replace(
        _own(line), role=codes.DESTINATION, ae_titles=_titles(line.text("called_ae"))
    )
    return (caller, own, *_user(line))


def _per_patient(
    message: Message,
    line: Line,
    name: str,
    count: int | None = None,
    instances: tuple[str, ...] = (),
) -> list[Message]:
    """Return a message per patient: one may only be of one (A.5.3.3).

    Where the line could not say who they are, one message of the studies.
    """
    made = []
    for known in line.personal.get(name) or ():
        studies = tuple(_study(uid, told, instances) for uid, told in _told(known))
        patient = Patient(id=str(known["id"]), name=str(known["name"]))
        made.append(replace(message, studies=studies, patient=patient))
    if made:
        return made
    uids = [str(uid) for uid in line.entry.get("studies") or [""]]
    total = int(line.entry.get("instances") or 0) if count is None else count
    if len(uids) == 1:
        named = instances if len(instances) == total else ()
        studies = (Study(uid=uids[0], count=total, instances=named),)
    else:
        studies = tuple(Study(uid=uid, count=None) for uid in uids)
    return [replace(message, studies=studies, patient=Patient())]


def _told(known: Entry) -> list[tuple[str, Any]]:
    return list(known["studies"].items())


def _study(uid: str, told: int | list[str], instances: tuple[str, ...]) -> Study:
    """Return a study with how many, or which, of its instances."""
    if isinstance(told, list):
        return Study(uid=uid, count=len(told), instances=tuple(told))
    named = instances if len(instances) == told else ()
    return Study(uid=uid, count=told, instances=named)


def _titles(title: str) -> tuple[str, ...]:
    return (title,) if title else ()


def _address(text: str) -> str:
    """Return an IP address; nothing where it is none."""
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return ""
