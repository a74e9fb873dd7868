"""What a line says of patients, to be sealed: who they are, and which studies."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol


class OfPatient(Protocol):
    """An object of a patient."""

    @property
    def patient_id(self) -> str:
        """PatientID (0010,0020)."""

    @property
    def patient_name(self) -> str:
        """PatientName (0010,0010)."""

    @property
    def study_instance_uid(self) -> str:
        """StudyInstanceUID (0020,000D)."""


@dataclass(frozen=True)
class Seen:
    """One object of a patient, where only that is known of it."""

    patient_id: str
    patient_name: str
    study_instance_uid: str


def patients_of(objects: Iterable[OfPatient]) -> list[dict[str, Any]]:
    """Return the patients of objects, with the number of objects per study."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for item in objects:
        studies = found.setdefault((item.patient_id, item.patient_name), {})
        uid = item.study_instance_uid
        studies[uid] = studies.get(uid, 0) + 1
    return [
        {"id": patient_id, "name": name, "studies": studies}
        for (patient_id, name), studies in sorted(found.items())
    ]


class Named(OfPatient, Protocol):
    """An object of a patient, with its UID."""

    @property
    def sop_instance_uid(self) -> str:
        """SOPInstanceUID (0008,0018)."""


def patients_with(
    objects: Iterable[Named], wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Return the patients of some objects, with their UIDs per study."""
    uids = frozenset(wanted)
    if not uids:
        return []
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for item in objects:
        if item.sop_instance_uid in uids:
            studies = found.setdefault((item.patient_id, item.patient_name), {})
            studies.setdefault(item.study_instance_uid, []).append(
                item.sop_instance_uid
            )
    return [
        {"id": patient_id, "name": name, "studies": studies}
        for (patient_id, name), studies in sorted(found.items())
    ]


def uri_query_of(path: str, query: str) -> dict[str, str]:
    """Return a search of DICOMweb: its path, and the rest of its URI."""
    encoded = base64.b64encode(f"{path}?{query}".encode()).decode("ascii")
    return {"uri": path, "data_set": encoded}


def query_of(octets: bytes, sop_class: str, transfer_syntax: str) -> dict[str, str]:
    """Return the data set of a query as it came."""
    return {
        "data_set": base64.b64encode(octets).decode("ascii"),
        "sop_class": sop_class,
        "transfer_syntax": transfer_syntax,
    }
