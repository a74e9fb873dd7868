"""What the profile does to each attribute (PS3.15 Table E.1-1), with its options.

The table of the Basic Application Level Confidentiality Profile is that of
dicom-anonymizer, generated from the standard with each of its releases. What the
options do instead is written here, for the library leaves them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import tag_for_keyword

from gateway.dicom.deidentify_options import (
    BEYOND_THE_TABLE,
    CLEANED_CHARACTERISTICS,
    CLEANED_CONTENT,
    CLEANED_DESCRIPTORS,
    NEEDED,
    NO_DATES,
    RETAINED_CHARACTERISTICS,
    RETAINED_DEVICE,
    RETAINED_INSTITUTION,
    RETAINED_REFERENCES,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.schema import DeidentificationOption

EDITION: Final = "dicomfields_2026c"
"""The library's table of the DICOM edition 2026c."""

CATEGORIES: Final = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
"""Action codes of PS3.15 Table E.1-1a by the library's names."""

Action = Literal["keep", "clean", "shift", "map", "link", "empty", "dummy", "remove"]
"""``link``: a sequence of references to instances; ``shift``: by whole days."""

STRONGEST: Final[dict[str, Action]] = {
    "D": "dummy",
    "Z": "empty",
    "X": "remove",
    "U": "map",
    "Z/D": "dummy",
    "X/Z": "empty",
    "X/D": "dummy",
    "X/Z/D": "dummy",
    "X/Z/U*": "link",
}
"""Keeps every IOD conformant, at the price of dummies where nothing is needed."""

IN_CAPTURES: Final[dict[str, Action]] = STRONGEST | {
    "Z/D": "empty",
    "X/Z": "remove",
    "X/D": "remove",
    "X/Z/D": "remove",
}
"""Secondary Capture requires a value of none of these, and Type 2 only of Z/D."""

DATES: Final = frozenset(("DA", "DT", "TM"))


class Profile:
    """The Basic Profile with options.

    Parameters
    ----------
    options
        Options of PS3.15 E.3.
    """

    def __init__(self, options: Iterable[DeidentificationOption]) -> None:
        self.options = frozenset(options)
        self._codes, self._ranges = _table()
        self._kept = self._retained()
        self._cleaned = self._to_clean()

    def __contains__(self, option: DeidentificationOption) -> bool:
        """Whether an option is chosen."""
        return option in self.options

    def listed(self, tag: int) -> bool:
        """Whether the profile says anything about an attribute."""
        return self._code(tag) is not None

    def is_descriptor(self, tag: int) -> bool:
        """Whether an attribute describes, rather than identifies."""
        return tag in DESCRIPTORS

    def action(self, tag: int, vr: str, *, capture: bool) -> Action:
        """Decide what is done to an attribute.

        Parameters
        ----------
        tag, vr
            The attribute, of a public group and known to the dictionary.
        capture
            Whether the object is a Secondary Capture.
        """
        code = self._code(tag)
        dated = self._dated(tag, vr)
        if dated is not None:
            return dated
        if tag in self._kept or (code == "U" and "retain-uids" in self):
            return "keep"
        if tag in self._cleaned:
            return "clean"
        if code is None and tag not in NEEDED_TAGS:
            return _unlisted(tag, vr, capture=capture)
        return self.strict(tag, capture=capture)

    def strict(self, tag: int, *, capture: bool) -> Action:
        """Decide as the Basic Profile does, without options."""
        if tag in NEEDED_TAGS and not capture:
            return NEEDED_TAGS[tag]
        code = self._code(tag) or "X/D"
        return (IN_CAPTURES if capture else STRONGEST)[code]

    def _code(self, tag: int) -> str | None:
        found = self._codes.get(tag)
        if found is None and any(tag & mask == base for base, mask in self._ranges):
            return "X"
        return found

    def _dated(self, tag: int, vr: str) -> Action | None:
        """Act as the options of E.3.6 say, if one is chosen."""
        zone = tag == TIMEZONE
        if (vr not in DATES and not zone) or tag in NOT_LONGITUDINAL:
            return None
        if "retain-longitudinal-modified-dates" in self:
            return "shift"
        return "keep" if "retain-longitudinal-full-dates" in self else None

    def _retained(self) -> frozenset[int]:
        groups: dict[DeidentificationOption, frozenset[int]] = {
            "retain-device-identity": DEVICE,
            "retain-institution-identity": INSTITUTION,
            "retain-patient-characteristics": CHARACTERISTICS,
            "retain-uids": REFERENCES,
        }
        return frozenset().union(
            *(tags for option, tags in groups.items() if option in self)
        )

    def _to_clean(self) -> frozenset[int]:
        groups: dict[DeidentificationOption, frozenset[int]] = {
            "clean-descriptors": DESCRIPTORS,
            "clean-structured-content": CONTENT,
            "retain-patient-characteristics": SOFT_CHARACTERISTICS,
        }
        return frozenset().union(
            *(tags for option, tags in groups.items() if option in self)
        )


def _unlisted(tag: int, vr: str, *, capture: bool) -> Action:
    """Act on what the table does not name, but whose kind identifies."""
    if vr in DATES:
        return "remove" if capture else "dummy"
    if vr == "UR":
        return "keep" if tag == SCHEME_URL else "remove"
    kinds: dict[str, Action] = {"PN": "empty", "UI": "map"}
    return kinds.get(vr, "keep")


def _tags(keywords: Iterable[str]) -> frozenset[int]:
    return frozenset(
        tag for each in keywords if (tag := tag_for_keyword(each)) is not None
    )


def _table() -> tuple[dict[int, str], tuple[tuple[int, int], ...]]:
    """Codes by tag, and the repeating groups, all of which are removed.

    A repeating group is (group, element, mask of group, mask of element).
    """
    codes = dict.fromkeys(_tags(BEYOND_THE_TABLE), "X")
    ranges = []
    categories = dicom_anonymization_database_selector(EDITION)
    for name, code in CATEGORIES.items():
        for group, element, *masks in categories[name]:
            if masks:
                mask = masks[0] << 16 | masks[1]
                ranges.append(((group << 16 | element) & mask, mask))
            else:
                codes[group << 16 | element] = code
    return codes, tuple(ranges)


SCHEME_URL: Final = tag_for_keyword("CodingSchemeURL")
TIMEZONE: Final = tag_for_keyword("TimezoneOffsetFromUTC")
NOT_LONGITUDINAL: Final = _tags(NO_DATES)
DEVICE: Final = _tags(RETAINED_DEVICE)
INSTITUTION: Final = _tags(RETAINED_INSTITUTION)
CHARACTERISTICS: Final = _tags(RETAINED_CHARACTERISTICS)
SOFT_CHARACTERISTICS: Final = _tags(CLEANED_CHARACTERISTICS)
REFERENCES: Final = _tags(RETAINED_REFERENCES)
DESCRIPTORS: Final = _tags(CLEANED_DESCRIPTORS)
CONTENT: Final = _tags(CLEANED_CONTENT)
NEEDED_TAGS: Final[dict[int, Action]] = {
    tag: action for action, keywords in NEEDED.items() for tag in _tags(keywords)
}
