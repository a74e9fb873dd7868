"""What a de-identified object says of its de-identification (PS3.15 E.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from highdicom.sr import CodedConcept

from gateway.dicom.lenient import items, text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from config.schema import DeidentificationOption
    from gateway.dicom.deidentify_profile import Profile

METHOD: Final = "MIAD Gateway: PS3.15 E Basic Application Confidentiality Profile"
BASIC: Final = ("113100", "Basic Application Confidentiality Profile")
OPTIONS: Final[dict[DeidentificationOption, tuple[str, str]]] = {
    "clean-graphics": ("113103", "Clean Graphics Option"),
    "clean-structured-content": ("113104", "Clean Structured Content Option"),
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    "retain-longitudinal-full-dates": (
        "113106",
        "Retain Longitudinal Temporal Information Full Dates Option",
    ),
    "retain-longitudinal-modified-dates": (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    "retain-patient-characteristics": (
        "113108",
        "Retain Patient Characteristics Option",
    ),
    "retain-device-identity": ("113109", "Retain Device Identity Option"),
    "retain-uids": ("113110", "Retain UIDs Option"),
    "retain-safe-private": ("113111", "Retain Safe Private Option"),
    "retain-institution-identity": ("113112", "Retain Institution Identity Option"),
}
"""Codes of PS3.16 CID 7050."""


def state_deidentification(source: Dataset, target: Dataset, profile: Profile) -> None:
    """Write that identity was removed, how, and what became of dates.

    Parameters
    ----------
    source
        Before; what it says of earlier de-identification is taken over.
    target
        After.
    profile
        The profile with the options chosen.
    """
    target.PatientIdentityRemoved = "YES"
    target.DeidentificationMethod = METHOD
    stated = [BASIC, *(OPTIONS[each] for each in OPTIONS if each in profile)]
    now = [CodedConcept(value, "DCM", meaning) for value, meaning in stated]
    written = {code.value for code in now}
    earlier = [
        CodedConcept(text(item, "CodeValue"), "DCM", text(item, "CodeMeaning"))
        for item in items(source, "DeidentificationMethodCodeSequence")
        if text(item, "CodingSchemeDesignator") == "DCM"
        and text(item, "CodeValue") not in written
    ]
    target.DeidentificationMethodCodeSequence = [*earlier, *now]
    target.LongitudinalTemporalInformationModified = _dates(profile)


def _dates(profile: Profile) -> str:
    if "retain-longitudinal-modified-dates" in profile:
        return "MODIFIED"
    full = "retain-longitudinal-full-dates" in profile
    return "UNMODIFIED" if full else "REMOVED"
