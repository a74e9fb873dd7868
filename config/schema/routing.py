"""Which objects go where, and as what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from config.schema.base import Name, Settings

Priority = Literal["urgent", "routine", "low"]

Custody = Literal["auto", "key", "sealed-original"]
"""How originals are kept: the paper's key sequence, the sealed octets, or the
smaller of the two that verifies."""

NonImages = Literal["hold", "pass", "drop"]
"""``pass``: the object leaves with its references rewritten to protected UIDs."""


class RuleTest(Settings):
    """An example that a rule must decide as said; tried at every load."""

    attributes: dict[str, str | bool | int | float | list[str | int | float]]
    """DICOM keyword or association fact -> value; all others are absent."""
    expect: bool


class Rule(Settings):
    """One routing rule: a CEL condition and what follows from it."""

    name: Name
    when: str
    destinations: tuple[Name, ...] = Field(min_length=1)
    protect: bool
    custody: Custody = "auto"
    non_images: NonImages = "hold"
    """What becomes of reports, documents, plans, segmentations ... if `protect`."""
    deidentify: Name | None = None
    """Name of a ``[[deidentification]]`` table; only with `protect`."""
    priority: Priority = "routine"
    """Urgent series are protected and sent before all others."""
    uids: Literal["keep", "map"] = "keep"
    """Study and frame of reference UIDs of protected objects."""
    tests: tuple[RuleTest, ...] = ()


class Routing(Settings):
    """The rules, in order, and how they combine."""

    match: Literal["first", "all"] = "first"
    rules: tuple[Rule, ...] = ()
    """Nothing matches: the instance is held."""
    rules_files: tuple[Path, ...] = ()
    """Files of further ``[[rules]]``, taken after those above, in order."""


DeidentificationOption = Literal[
    "clean-graphics",
    "clean-structured-content",
    "clean-descriptors",
    "retain-longitudinal-full-dates",
    "retain-longitudinal-modified-dates",
    "retain-patient-characteristics",
    "retain-device-identity",
    "retain-institution-identity",
    "retain-uids",
    "retain-safe-private",
]
"""Options of the Basic Application Level Confidentiality Profile (PS3.15 E.3)."""


class Deidentification(Settings):
    """A profile rules may ask for: PS3.15 Annex E, Basic Profile and options."""

    name: Name
    options: tuple[DeidentificationOption, ...] = ()
