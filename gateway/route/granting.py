"""Conditions of grants: CEL over what the index holds of an original's study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from config.explain import nearest
from gateway.route.conditions import Condition, compile_condition
from gateway.store.find import PATIENT_KEYS, STUDY_KEYS

MODALITIES: Final = "ModalitiesInStudy"
COLUMNS: Final[Mapping[str, str]] = {
    **PATIENT_KEYS,
    **STUDY_KEYS,
    "calling_ae": "calling_ae",
    "received_at": "received_at",
}
"""Keyword -> column of the index. ``received_at`` is a date, YYYYMMDD, in UTC."""
KEYWORDS: Final = frozenset({*COLUMNS, MODALITIES})


def compile_grant(text: str) -> Condition:
    """Compile the condition of a grant.

    Raises
    ------
    ConditionError
        It is wrong, or names what is not known of originals here.
    """
    return compile_condition(text, _refusal)


def _refusal(name: str) -> str | None:
    if name in KEYWORDS:
        return None
    known = ", ".join(sorted(KEYWORDS))
    return f"a grant cannot name {name}, only {known}{nearest(name, KEYWORDS)}"
