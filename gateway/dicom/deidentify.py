"""De-identification of objects on their way out (PS3.15 Annex E).

The Basic Application Level Confidentiality Profile with options. What cannot be
read, is not in the dictionary or is private goes; what the profile takes away is
looked for in all text that stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from gateway.dicom.deidentify_private import SafePrivate, declared_safe
from gateway.dicom.deidentify_profile import Profile
from gateway.dicom.deidentify_statement import state_deidentification
from gateway.dicom.deidentify_walk import DUMMIES, Walk, taken_away
from gateway.dicom.derive import DESCRIPTION, SERIES_MARK
from gateway.dicom.follow_references import FRAMES_OF_REFERENCE
from gateway.dicom.identifiers import UUID_ROOT
from gateway.dicom.lenient import lenient, text
from gateway.errors import Unprotectable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydicom.dataset import Dataset

    from config.schema import DeidentificationOption
    from gateway.dicom.identifiers import UidMapper

CAPTURES: Final = frozenset(
    (
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    )
)
LONGEST_SHIFT_DAYS: Final = 3650
PSEUDONYM_DIGITS: Final = 18
ANY: Final = "de-identified"
"""Purpose with which UIDs are mapped that are of no study and no frame."""


class Deidentifier:
    """Takes identity out of objects, the same way every time.

    Parameters
    ----------
    options
        Options of PS3.15 E.3 beside the Basic Profile.
    uids
        Maps UIDs, and gives pseudonyms and offsets of dates, by the site's secret.
    """

    def __init__(
        self, options: tuple[DeidentificationOption, ...], uids: UidMapper
    ) -> None:
        self._profile = Profile(options)
        self._uids = uids

    def apply(self, dataset: Dataset, *, own: Collection[str] = frozenset()) -> Dataset:
        """Make a de-identified data set of one that was made to leave.

        Parameters
        ----------
        dataset
            A protected image, or an object that follows one, with its study and
            frame of reference not yet mapped. It is not changed.
        own
            UIDs of other protected objects that it refers to, which stay; its own
            instance and series UID stay in any case.

        Returns
        -------
        Dataset
            A new data set. The pixel data are those of the old one.

        Raises
        ------
        Unprotectable
            ``not-deidentifiable``: it holds a document, which nothing here can
            look into.
        """
        if "EncapsulatedDocument" in dataset:
            raise Unprotectable(
                "not-deidentifiable", "an encapsulated document cannot be de-identified"
            )
        with lenient():
            result = self._walk(dataset, own).made_anew(dataset)
            self._settle(result)
            self._write_pseudonym(dataset, result)
            _restore_warnings(dataset, result)
            state_deidentification(dataset, result, self._profile)
        return result

    def _walk(self, dataset: Dataset, own: Collection[str]) -> Walk:
        capture = text(dataset, "SOPClassUID") in CAPTURES
        kept = "retain-safe-private" in self._profile
        return Walk(
            profile=self._profile,
            capture=capture,
            own={
                *own,
                text(dataset, "SOPInstanceUID"),
                text(dataset, "SeriesInstanceUID"),
            },
            map_uid=self._mapping(text(dataset, "StudyInstanceUID")),
            days=self._days(dataset),
            identifiers=taken_away(dataset, self._profile, capture=capture),
            private=declared_safe(dataset) if kept else SafePrivate({}),
        )

    def _mapping(self, study: str) -> Callable[[str, str], str]:
        def map_uid(keyword: str, uid: str) -> str:
            if "retain-uids" in self._profile:
                return uid
            if keyword == "StudyInstanceUID" or uid == study:
                return self._uids.map(uid, "study")
            frame = keyword in FRAMES_OF_REFERENCE
            return self._uids.map(uid, "frame of reference" if frame else ANY)

        return map_uid

    def _days(self, dataset: Dataset) -> int:
        """Days by which all dates of a patient are moved back: 1 to 3650."""
        return 1 + self._number(dataset, "dates") % LONGEST_SHIFT_DAYS

    def _number(self, dataset: Dataset, purpose: str) -> int:
        """Secret number of a patient; of a study where no patient is named."""
        patient = text(dataset, "PatientID") or text(dataset, "StudyInstanceUID")
        return int(self._uids.map(patient, purpose).removeprefix(UUID_ROOT))

    def _write_pseudonym(self, dataset: Dataset, result: Dataset) -> None:
        """Name the patient by a number, so that archives keep patients apart."""
        number = self._number(dataset, "patient") % 10**PSEUDONYM_DIGITS
        result.PatientID = result.PatientName = f"P{number:0{PSEUDONYM_DIGITS}d}"

    def _settle(self, result: Dataset) -> None:
        """Bring what is left in line with what was removed."""
        if "GraphicAnnotationSequence" not in result:
            result.pop("GraphicLayerSequence", None)
        if text(result, "SOPClassUID") in CAPTURES:
            _settle_capture(result)
        if "retain-safe-private" not in self._profile:
            result.pop("PrivateDataElementCharacteristicsSequence", None)


def _settle_capture(result: Dataset) -> None:
    if "SourceImageSequence" not in result:
        # Lists what is referred to elsewhere in the object (PS3.3 C.12.2).
        result.pop("ReferencedSeriesSequence", None)
    if "SharedFunctionalGroupsSequence" in result:
        for keyword in ("ContentDate", "ContentTime"):  # Type 1 (PS3.3 C.7.6.16)
            vr = dictionary_VR(keyword)
            setattr(result, keyword, text(result, keyword) or DUMMIES[vr])


def _restore_warnings(dataset: Dataset, result: Dataset) -> None:
    """Say again what the gateway itself wrote: marked, not for diagnosis."""
    if text(dataset, "DerivationDescription") == DESCRIPTION:
        result.DerivationDescription = DESCRIPTION
    if text(dataset, "SeriesDescription").endswith(SERIES_MARK):
        words = text(result, "SeriesDescription")
        for part in ("MIAD", "MARK"):
            words = words.removesuffix(part).strip()
        result.SeriesDescription = f"{words} {SERIES_MARK}".strip()
