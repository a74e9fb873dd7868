"""One data set walked from element to element, and made anew as the profile says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dicomanonymizer.simpledicomanonymizer import replace_element
from highdicom.sr import CodedConcept
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from gateway.dicom.deidentify_text import Identifiers, name_parts, shifted
from gateway.dicom.lenient import text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydicom.tag import BaseTag

    from gateway.dicom.deidentify_private import SafePrivate
    from gateway.dicom.deidentify_profile import Action, Profile

FILE_META: Final = 0x0002
OVERLAYS: Final = 0x6000
REPEATING: Final = 0xFF00
STANDARD_UIDS: Final = "1.2.840.10008."
"""Root of the UIDs that the standard itself defines (PS3.6 A)."""
NO_INSTANCES: Final = frozenset(
    (
        "SOPClassUID",
        "CodingSchemeUID",
        "ContextUID",
        "MappingResourceUID",
        "ContextGroupExtensionCreatorUID",
    )
)
"""UIDs of definitions, not of anything that belongs to a patient."""
TEXT_VRS: Final = frozenset(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
DUMMIES: Final = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
"""The library's date has a year below 1000, which validators refuse."""
NOBODY: Final = "ANONYMIZED"
"""The library's dummy for text."""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How one data set is made anew.

    Attributes
    ----------
    profile
        What is done to which attribute.
    capture
        Whether it is a Secondary Capture.
    own
        UIDs that are the gateway's own already.
    map_uid
        From keyword and UID to the UID that stands for it.
    days
        By which dates are moved back.
    identifiers
        What was taken away.
    private
        Which private attributes are known to be safe.
    """

    profile: Profile
    capture: bool
    own: Collection[str]
    map_uid: Callable[[str, str], str]
    days: int
    identifiers: Identifiers
    private: SafePrivate

    def made_anew(self, source: Dataset) -> Dataset:
        """Make a data set or an item of a sequence anew."""
        target = Dataset()
        for tag in sorted(source.keys()):
            element = self._element(source, tag)
            if element is not None:
                target[tag] = element
        return target

    def _element(self, source: Dataset, tag: BaseTag) -> DataElement | None:
        element = _readable(source, tag)
        if element is None:
            return None
        if tag.is_private:
            return self._private(source, element)
        if not _known(tag) or element.VR == "UN":
            return None
        action = self.profile.action(tag, element.VR, capture=self.capture)
        if action == "remove":
            return None
        if isinstance(element.value, Sequence):
            return self._sequence(element, action)
        return self._value(element, action)

    def _private(self, source: Dataset, element: DataElement) -> DataElement | None:
        safe = self.private.holds(source, element.tag)
        if not safe or element.VR in ("SQ", "UN", "UI"):
            return None
        return self._unless_telling(element)

    def _sequence(self, element: DataElement, action: Action) -> DataElement | None:
        if action == "empty" and not self._kept_links(element):
            return DataElement(element.tag, "SQ", Sequence())
        if action == "dummy" and element.keyword != "VerifyingObserverSequence":
            dummies = DUMMY_ITEMS.get(element.keyword)
            return dummies and DataElement(element.tag, "SQ", Sequence(dummies()))
        if action == "link" and self.capture and not self._kept_links(element):
            return None
        items = [self.made_anew(item) for item in element.value]
        return DataElement(element.tag, "SQ", Sequence(items))

    def _kept_links(self, element: DataElement) -> bool:
        """Whether a sequence refers to objects of the gateway's own."""
        linked = [text(item, "ReferencedSOPInstanceUID") for item in element.value]
        return bool(linked) and all(uid in self.own for uid in linked)

    def _value(self, element: DataElement, action: Action) -> DataElement | None:
        if action == "keep" or element.is_empty:
            return self._unless_telling(element)
        if action == "map":
            return self._with_each(element, self._mapped(element.keyword))
        if action in ("clean", "shift"):
            return self._changed(element, action)
        if action == "empty":
            return DataElement(element.tag, element.VR, "")
        return _dummy(element, self._mapped(element.keyword))

    def _changed(self, element: DataElement, action: Action) -> DataElement | None:
        """Clean or move each value; treat it as without the option if none is left."""
        vr = element.VR
        if action == "shift":
            values = [shifted(vr, each, self.days) for each in _texts(element)]
        else:
            values = [self.identifiers.clean(each) for each in _texts(element)]
        left = [each for each in values if each]
        if len(left) == len(values) or (left and action == "clean"):
            return DataElement(element.tag, vr, left if len(left) > 1 else left[0])
        strict = self.profile.strict(element.tag, capture=self.capture)
        return None if strict == "remove" else self._value(element, strict)

    def _unless_telling(self, element: DataElement) -> DataElement:
        """Keep an element, unless what was taken away elsewhere stands in it."""
        telling = element.VR in TEXT_VRS and any(
            self.identifiers.stand_in(each) for each in _texts(element)
        )
        if telling:
            return DataElement(element.tag, element.VR, NOBODY)
        return DataElement(element.tag, element.VR, element.value)

    def _mapped(self, keyword: str) -> Callable[[str], str]:
        def mapped(uid: str) -> str:
            defined = keyword in NO_INSTANCES or uid.startswith(STANDARD_UIDS)
            return uid if defined or uid in self.own else self.map_uid(keyword, uid)

        return mapped

    def _with_each(
        self, element: DataElement, change: Callable[[str], str]
    ) -> DataElement:
        values = [change(each) for each in _texts(element)]
        found = values if len(values) > 1 else values[0]
        return DataElement(element.tag, element.VR, found)


def taken_away(source: Dataset, profile: Profile, *, capture: bool) -> Identifiers:
    """Collect the values that the profile takes out of a data set."""
    values: list[str] = []
    names: list[str] = []
    for element in _all_elements(source):
        if not profile.listed(element.tag) or profile.is_descriptor(element.tag):
            continue
        action = profile.action(element.tag, element.VR, capture=capture)
        if action in ("keep", "clean"):
            continue
        if element.VR == "PN":
            names += [part for each in _texts(element) for part in name_parts(each)]
        elif element.VR in ("DA", "DT"):
            values += [each[:8] for each in _texts(element)]
        elif element.VR in TEXT_VRS or element.VR == "UI":
            values += _texts(element)
    return Identifiers([*values, *names])


def _all_elements(source: Dataset) -> Iterator[DataElement]:
    for tag in source.keys():  # noqa: SIM118 - iterating converts and can raise
        element = _readable(source, tag)
        if element is None:
            continue
        yield element
        if isinstance(element.value, Sequence):
            for item in element.value:
                yield from _all_elements(item)


def _readable(source: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        element = source[tag]
        str(element.value) if element.VR in TEXT_VRS else element.value
    except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
        return None
    return element


def _known(tag: BaseTag) -> bool:
    if tag.group <= FILE_META or tag.group & REPEATING == OVERLAYS:
        return False
    return bool(keyword_for_tag(tag))


def _texts(element: DataElement) -> list[str]:
    found = element.value
    values = list(found) if isinstance(found, MultiValue | list) else [found]
    return [str(each) for each in values if each is not None]


def _dummy(element: DataElement, mapped: Callable[[str], str]) -> DataElement | None:
    tag, vr = element.tag, element.VR
    if vr == "UI":
        return DataElement(tag, vr, mapped(str(element.value)))
    if vr in DUMMIES:
        return DataElement(tag, vr, DUMMIES[vr])
    made = DataElement(tag, vr, element.value)
    try:
        replace_element(made)
    except NotImplementedError:
        return None
    return made


def _nothing_said() -> list[Dataset]:
    """Content of a document whose own is taken away (PS3.3 C.17.3)."""
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence = [CodedConcept.from_code(codes.DCM.Comment)]
    item.TextValue = NOBODY
    return [item]


def _nobody() -> list[Dataset]:
    return [CodedConcept(NOBODY, "99MIAD", NOBODY)]


DUMMY_ITEMS: Final[dict[str, Callable[[], list[Any]]]] = {
    "ContentSequence": _nothing_said,
    "PersonIdentificationCodeSequence": _nobody,
}
"""Items in place of others; sequences not named here go as a whole."""
