"""Audit messages of PS3.15 A.5: what they are made of, and their XML.

The order of elements is that of the schema in A.5.1.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar
from xml.etree import ElementTree as ET

from pydicom.sr.coding import Code

from gateway.audit.codes import (
    PATIENT_NUMBER,
    STUDY_INSTANCE_UID,
)

MAX_OCTETS: Final = 32_768
"""What every receiver takes (PS3.15 A.6)."""

UNKNOWN: Final = "unknown"

T = TypeVar("T")

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOTE_OCTETS: Final = 1024
_GATEWAY_TYPE: Final = "4"  # application server process (A.5.1.2.1)


@dataclass(frozen=True, kw_only=True)
class Participant:
    """Who took part (A.5.2): a process, node or person.

    Attributes
    ----------
    ae_titles
        They go into AlternativeUserID.
    address
        IP address; NetworkAccessPointTypeCode is then 2.
    """

    user_id: str
    role: Code | None = None
    requestor: bool = False
    name: str = ""
    ae_titles: tuple[str, ...] = ()
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class Object:
    """What it was about (A.5.2).

    Attributes
    ----------
    query
        Octets of a query; absent: ``name`` stands there.
    details
        Pairs of a type and its octets.
    """

    id: str
    id_type: Code
    type_code: int
    role: int | None = None
    name: str = ""
    query: bytes | None = None
    details: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study of a message, and which of its instances.

    Attributes
    ----------
    count
        How many instances, where that is known of this study.
    instances
        Which; all, or none are named.
    """

    uid: str
    count: int | None
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A patient as the objects name them; empty where that is not known."""

    id: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One audit message.

    Attributes
    ----------
    event, types
        EventID and EventTypeCode.
    action
        One of C, R, U, D, E.
    outcome
        0 success; 4 minor, 8 serious, 12 major failure.
    at
        Time of the event, ISO 8601 with zone.
    source
        AuditSourceID.
    description
        EventOutcomeDescription.
    """

    event: Code
    action: str
    outcome: int
    at: str
    source: str
    participants: tuple[Participant, ...]
    types: tuple[Code, ...] = ()
    description: str = ""
    studies: tuple[Study, ...] = ()
    patient: Patient | None = None
    objects: tuple[Object, ...] = field(default=())


def render(message: Message) -> bytes:
    """Return the XML of a message, UTF-8, without a declaration."""
    root = ET.Element("AuditMessage")
    event = _sub(
        root,
        "EventIdentification",
        {
            "EventActionCode": message.action,
            "EventDateTime": message.at,
            "EventOutcomeIndicator": str(message.outcome),
        },
    )
    _code(event, "EventID", message.event)
    for kind in message.types:
        _code(event, "EventTypeCode", kind)
    if message.description:
        _sub(event, "EventOutcomeDescription").text = _clean(message.description)
    for participant in message.participants:
        _participant(root, participant)
    source = _sub(root, "AuditSourceIdentification", {"AuditSourceID": message.source})
    _sub(source, "AuditSourceTypeCode", {"csd-code": _GATEWAY_TYPE})
    for study in message.studies:
        _study(root, study)
    if message.patient is not None:
        _object(root, _patient_object(message.patient))
    for item in message.objects:
        _object(root, item)
    octets: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=False)
    return octets


def split(message: Message, limit: int = MAX_OCTETS) -> list[bytes]:
    """Return the XML of a message, in several where one would be too large.

    Instances, studies and details are dealt out; everything else is in each.
    What cannot be dealt out, one detail or query, is cut, and said to be.
    """
    octets = render(message)
    if len(octets) <= limit:
        return [octets]
    halves = _halves(message)
    if halves is None:
        shorter = _shortened(message, len(octets) - limit)
        return [octets] if shorter is None else split(shorter, limit)
    return [part for half in halves for part in split(half, limit)]


def _halves(message: Message) -> tuple[Message, Message] | None:
    if len(message.studies) > 1:
        one, two = _cut(message.studies)
        return replace(message, studies=one), replace(message, studies=two)
    if message.studies and len(message.studies[0].instances) > 1:
        (study,) = message.studies
        one_i, two_i = _cut(study.instances)
        return (
            replace(message, studies=(_with(study, one_i),)),
            replace(message, studies=(_with(study, two_i),)),
        )
    for place, item in enumerate(message.objects):
        if len(item.details) > 1:
            one_d, two_d = _cut(item.details)
            return (
                _with_object(message, place, replace(item, details=one_d)),
                _with_object(message, place, replace(item, details=two_d)),
            )
    return None


def _shortened(message: Message, excess: int) -> Message | None:
    """Cut the longest thing that cannot be dealt out; None where there is none."""
    for place, item in enumerate(message.objects):
        if item.query:
            kept = max(0, len(item.query) - excess * 3 // 4 - _NOTE_OCTETS)
            details = item.details
            if "QueryCutFrom" not in dict(details):
                whole = str(len(item.query)).encode()
                details = (("QueryCutFrom", whole), *details)
            cut = replace(item, query=item.query[:kept], details=details)
            return _with_object(message, place, cut)
        if item.details and len(item.details[0][1]) > _NOTE_OCTETS:
            kind, value = item.details[0]
            cut = replace(item, details=((kind, value[: len(value) // 2]),))
            return _with_object(message, place, cut)
    return None


def _cut(items: tuple[T, ...]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    middle = len(items) // 2
    return items[:middle], items[middle:]


def _with(study: Study, instances: tuple[str, ...]) -> Study:
    return replace(study, instances=instances, count=len(instances))


def _with_object(message: Message, place: int, item: Object) -> Message:
    objects = (*message.objects[:place], item, *message.objects[place + 1 :])
    return replace(message, objects=objects)


def _participant(root: ET.Element, participant: Participant) -> None:
    attributes = {"UserID": participant.user_id or UNKNOWN}
    if participant.ae_titles:
        titles = ";".join(participant.ae_titles)
        attributes["AlternativeUserID"] = f"AETITLES={titles}"
    if participant.name:
        attributes["UserName"] = participant.name
    attributes["UserIsRequestor"] = "true" if participant.requestor else "false"
    if participant.address:
        attributes["NetworkAccessPointID"] = participant.address
        attributes["NetworkAccessPointTypeCode"] = "2"  # IP address
    element = _sub(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        _code(element, "RoleIDCode", participant.role)


def _study(root: ET.Element, study: Study) -> None:
    item = Object(
        id=study.uid or UNKNOWN,
        id_type=STUDY_INSTANCE_UID,
        type_code=2,
        role=3,
        name="study",
    )
    element = _object(root, item)
    if study.count is None:
        return
    described = _sub(element, "ParticipantObjectDescription")
    attributes = {"NumberOfInstances": str(study.count)}
    sop_class = _sub(described, "SOPClass", attributes)
    for uid in study.instances:
        _sub(sop_class, "Instance", {"UID": uid})


def _patient_object(patient: Patient) -> Object:
    return Object(
        id=patient.id or UNKNOWN,
        id_type=PATIENT_NUMBER,
        type_code=1,
        role=1,
        name=patient.name or UNKNOWN,
    )


def _object(root: ET.Element, item: Object) -> ET.Element:
    attributes = {
        "ParticipantObjectID": item.id or UNKNOWN,
        "ParticipantObjectTypeCode": str(item.type_code),
    }
    if item.role is not None:
        attributes["ParticipantObjectTypeCodeRole"] = str(item.role)
    element = _sub(root, "ParticipantObjectIdentification", attributes)
    _code(element, "ParticipantObjectIDTypeCode", item.id_type)
    if item.query is not None:
        query = _sub(element, "ParticipantObjectQuery")
        query.text = base64.b64encode(item.query).decode("ascii")
    else:
        _sub(element, "ParticipantObjectName").text = _clean(item.name or UNKNOWN)
    for kind, value in item.details:
        encoded = base64.b64encode(value).decode("ascii")
        _sub(element, "ParticipantObjectDetail", {"type": kind, "value": encoded})
    return element


def _code(parent: ET.Element, name: str, code: Code) -> None:
    _sub(
        parent,
        name,
        {
            "csd-code": code.value,
            "codeSystemName": code.scheme_designator,
            "originalText": code.meaning,
        },
    )


def _sub(
    parent: ET.Element, name: str, attributes: Mapping[str, str] | None = None
) -> ET.Element:
    clean = {key: _clean(value) for key, value in (attributes or {}).items()}
    return ET.SubElement(parent, name, clean)


def _clean(text: str) -> str:
    """Return text without what XML 1.0 cannot hold."""
    return _NOT_XML.sub("�", text)
