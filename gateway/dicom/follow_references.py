"""References to originals, rewritten to the protected objects that stand for them.

Whatever holds a Referenced SOP Instance UID is a reference (PS3.3 10.8), in
whichever sequence it stands: evidence, content items, presentation states,
derivation images, contours. Series and study UIDs around one are those of its
target (PS3.3 C.17.2.1), so they are rewritten with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

from gateway.dicom.lenient import numbers, text, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataelem import DataElement

NORMALIZED: Final = "1.2.840.10008.3.1.2."
"""Root of the classes that manage patients, visits, studies and procedures."""

FRAMES_OF_REFERENCE: Final = frozenset(
    (
        "FrameOfReferenceUID",
        "ReferencedFrameOfReferenceUID",
        "RelatedFrameOfReferenceUID",
        "SourceFrameOfReferenceUID",
        "VolumeFrameOfReferenceUID",
        "EquipmentFrameOfReferenceUID",
    )
)
SEARCHED_VRS: Final = frozenset(("LO", "LT", "SH", "ST", "UC", "UR", "UT"))
"""Text in which UIDs of originals are looked for."""
SEQUENCE: Final = frozenset(("SQ",))
MENTIONING: Final = SEARCHED_VRS | {"UI"}
UID_IN_TEXT: Final = re.compile(r"\d+(?:\.\d+){2,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterpart:
    """The protected object that stands for an original."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


Resolve: TypeAlias = Callable[[str], tuple[Counterpart, ...]]
"""From the SOP Instance UID of an original to what stands for it.

One protected object, or one for each frame in order where frames became objects
of their own; none where there is none.
"""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How UIDs of study, series and frame of reference are written.

    Each gives the UID that stands for one of a source.
    """

    study: Callable[[str], str]
    series: Callable[[str], str]
    frame_of_reference: Callable[[str], str]


@dataclass
class References:
    """Rewrites the references of one data set, in place.

    Attributes
    ----------
    resolve, identity
        What stands for originals, and for their studies and series.
    unresolved
        UIDs of originals that nothing stands for.
    """

    resolve: Resolve
    identity: Identity
    unresolved: set[str] = field(default_factory=set)
    _new: dict[str, str] = field(default_factory=dict)
    _placed: dict[str, Counterpart] = field(default_factory=dict)

    def rewrite(self, dataset: Dataset) -> None:
        """Rewrite everything below the root, then UIDs in any other place."""
        self._rewrite_below(dataset)
        for each in _all_below(dataset):
            for element in _elements(each, MENTIONING):
                self._rewrite_mention(element)

    def _rewrite_below(self, dataset: Dataset) -> None:
        for element in _elements(dataset, SEQUENCE):
            first: list[Dataset] = []
            further: list[Dataset] = []
            for item in element.value:
                head, *rest = self._rewritten(item)
                first.append(head)
                # Content items are referred to by their place (PS3.3 C.17.3.2.5):
                # what is added goes behind them.
                (further if "ValueType" in item else first).extend(rest)
            element.value = Sequence(first + further)

    def _rewritten(self, item: Dataset) -> list[Dataset]:
        """Items that take the place of one."""
        self._rewrite_below(item)
        if value(item, "ReferencedSOPInstanceUID") is not None:
            return self._retargeted(item)
        if "ValueType" in item:
            return _one_reference_each(item)
        parts = self._by_series(item) if "SeriesInstanceUID" in item else [item]
        for part in parts:
            self._place(part)
        return parts

    def _retargeted(self, item: Dataset) -> list[Dataset]:
        original = text(item, "ReferencedSOPInstanceUID")
        targets = self.resolve(original)
        if not targets:
            self._keep_or_count(item, original)
            self._place(item)
            return [item]
        if len(targets) == 1:
            self._new[original] = targets[0].sop_instance_uid
        chosen = _frames_chosen(item, targets)
        result = [item, *(deepcopy(item) for _ in chosen[1:])]
        for each, target in zip(result, chosen, strict=True):
            each.ReferencedSOPClassUID = target.sop_class_uid
            each.ReferencedSOPInstanceUID = target.sop_instance_uid
            if len(targets) > 1:
                each.pop("ReferencedFrameNumber", None)
            self._placed[target.sop_instance_uid] = target
            self._place(each)
        return result

    def _keep_or_count(self, item: Dataset, original: str) -> None:
        """Count it, unless it is to a procedure: that names no stored object."""
        if not text(item, "ReferencedSOPClassUID").startswith(NORMALIZED):
            self.unresolved.add(original)
            return
        item.ReferencedSOPInstanceUID = self.identity.study(original)

    def _by_series(self, item: Dataset) -> list[Dataset]:
        """One item for each series that what is below it now belongs to."""
        found = sorted({each.series_instance_uid for each in self._targets(item)})
        if len(found) < 2:
            return [item]
        return [self._only(item, series) for series in found]

    def _only(self, item: Dataset, series: str) -> Dataset:
        part = deepcopy(item)
        for element in _elements(part, SEQUENCE):
            element.value = Sequence(
                each
                for each in element.value
                if {t.series_instance_uid for t in self._targets(each)} <= {series}
            )
        return part

    def _place(self, item: Dataset) -> None:
        """Series and study of an item are those of what it refers to."""
        series, study = text(item, "SeriesInstanceUID"), text(item, "StudyInstanceUID")
        if not (series or study):
            return
        target = next(self._targets(item), None)
        if series:
            to = target.series_instance_uid if target else self.identity.series(series)
            item.SeriesInstanceUID = self._new[series] = to
        if study:
            to = target.study_instance_uid if target else self.identity.study(study)
            item.StudyInstanceUID = self._new[study] = to

    def _targets(self, item: Dataset) -> Iterator[Counterpart]:
        for dataset in _all_below(item):
            target = self._placed.get(text(dataset, "ReferencedSOPInstanceUID"))
            if target is not None:
                yield target

    def _rewrite_mention(self, element: DataElement) -> None:
        """Rewrite a UID that stands outside of references."""
        if element.keyword in FRAMES_OF_REFERENCE:
            element.value = _each(element.value, self.identity.frame_of_reference)
        elif element.keyword == "UID":  # a content item's value (PS3.3 C.18.5)
            element.value = _each(element.value, self._mentioned)
        elif element.VR == "UI":
            element.value = _each(element.value, lambda uid: self._new.get(uid, uid))
        elif element.VR in SEARCHED_VRS:
            element.value = _each(element.value, self._searched)

    def _mentioned(self, uid: str) -> str:
        if uid in self._new:
            return self._new[uid]
        targets = self.resolve(uid)
        if len(targets) > 1:
            self.unresolved.add(uid)
        return targets[0].sop_instance_uid if targets else uid

    def _searched(self, words: str) -> str:
        return UID_IN_TEXT.sub(lambda found: self._new.get(found[0], found[0]), words)


def _frames_chosen(
    item: Dataset, targets: tuple[Counterpart, ...]
) -> list[Counterpart]:
    """Choose by frame number, where frames became objects of their own."""
    frames = [int(number) for number in numbers(item, "ReferencedFrameNumber")]
    if len(targets) == 1:
        return [targets[0]]
    chosen = [targets[n - 1] for n in frames if 1 <= n <= len(targets)]
    return chosen or list(targets)


def _one_reference_each(item: Dataset) -> list[Dataset]:
    """Split a content item: an image item refers to one image (PS3.3 C.18.4)."""
    references = item.get("ReferencedSOPSequence") or []
    if len(references) < 2:
        return [item]
    parts = []
    for reference in references:
        part = deepcopy(item)
        part.ReferencedSOPSequence = [reference]
        parts.append(part)
    return parts


def _all_below(item: Dataset) -> Iterator[Dataset]:
    yield item
    for element in _elements(item, SEQUENCE):
        for below in element.value:
            yield from _all_below(below)


def _elements(item: Dataset, vrs: frozenset[str]) -> Iterator[DataElement]:
    """Elements of some value representations; others are not even converted."""
    for tag in sorted(item.keys()):
        if item.get_item(tag).VR in vrs:
            yield item[tag]


def _each(found: object, change: Callable[[str], str]) -> object:
    if isinstance(found, MultiValue | list):
        return [change(str(each)) for each in found]
    return change(str(found)) if found else found


def referenced_uids(dataset: Dataset) -> frozenset[str]:
    """SOP instance and series UIDs that a rewritten data set refers to.

    They are those of protected objects, and have no need to be mapped again.
    """
    found: set[str] = set()
    for item in _all_below(dataset):
        reference = text(item, "ReferencedSOPInstanceUID")
        managed = text(item, "ReferencedSOPClassUID").startswith(NORMALIZED)
        if reference and not managed:
            found.add(reference)
        if item is not dataset:
            found.add(text(item, "SeriesInstanceUID"))
    found.discard("")
    return frozenset(UID(each) for each in found)
