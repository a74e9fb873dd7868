"""Objects without pictures that follow protected images out of the house.

Reports, key objects, presentation states, segmentations, plans ... leave with a
UID of their own and with every reference to an original rewritten to the
protected object that stands for it, or they do not leave.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID

from gateway.dicom.derive import valid_uid
from gateway.dicom.follow_classes import OWN_PIXELS, may_pass
from gateway.dicom.follow_copy import PIXEL_DATA, copied
from gateway.dicom.follow_references import (
    Counterpart,
    Identity,
    References,
    Resolve,
    referenced_uids,
)
from gateway.dicom.lenient import lenient, number, text
from gateway.dicom.parse import NATIVE, parse_object
from gateway.errors import Unprotectable, UnresolvedReferences

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

    from gateway.dicom.identifiers import UidMapper

__all__ = ["Counterpart", "Resolve", "Target", "follow", "may_pass", "referenced_uids"]

WORDS: Final = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
"""Octets of the words whose order differs between byte orders (PS3.5 7.3)."""


class Target(Protocol):
    """Which object is made, as for protected images (`gateway.dicom.derive`)."""

    @property
    def sop_instance_uid(self) -> str:
        """UID of the new object."""

    @property
    def series_purpose(self) -> str:
        """Purpose with which the series UID is mapped."""

    @property
    def map_study(self) -> bool:
        """Whether study and frames of reference are mapped too."""


def follow(
    data_set: bytes,
    transfer_syntax_uid: str,
    *,
    resolve: Resolve,
    target: Target,
    uids: UidMapper,
) -> Dataset:
    """Make the object that leaves in place of one without pictures.

    Parameters
    ----------
    data_set
        As received, without file meta information.
    transfer_syntax_uid
        How it is encoded.
    resolve
        What stands for an original, by its SOP Instance UID.
    target
        UID, series and study of the new object.
    uids
        Maps series, and study and frames of reference if asked.

    Returns
    -------
    Dataset
        A new data set without file meta information, to be encoded explicit VR
        little endian.

    Raises
    ------
    Unprotectable
        ``unsupported-object``: objects of its class do not leave;
        ``unreadable``, ``unknown-transfer-syntax`` or ``undecodable``: it cannot
        be read.
    UnresolvedReferences
        It refers to an original that nothing stands for.
    """
    source = _read(data_set, transfer_syntax_uid)
    syntax = UID(transfer_syntax_uid)
    with lenient():
        sop_class = text(source, "SOPClassUID")
        if sop_class in OWN_PIXELS:
            source = _native(source, syntax)
        result = _resolved(copied(source, sop_class), syntax)
        if not syntax.is_little_endian:
            _turn_words(result)
        references = _references(resolve, target, uids)
        references.rewrite(result)
        _write_identity(source, result, target, uids)
    if references.unresolved:
        raise UnresolvedReferences(
            f"{text(source, 'SOPInstanceUID')} refers to {len(references.unresolved)} "
            "objects that have no protected counterpart"
        )
    return result


def _read(data_set: bytes, transfer_syntax_uid: str) -> Dataset:
    """Read the whole data set, if its class may leave."""
    parsed = parse_object(data_set, transfer_syntax_uid)
    sop_class = text(parsed.dataset, "SOPClassUID")
    if not may_pass(sop_class):
        raise Unprotectable(
            "unsupported-object", f"objects of class {sop_class!r} do not leave"
        )
    syntax = UID(transfer_syntax_uid)
    try:
        with lenient():
            return read_dataset(
                BytesIO(parsed.body[:]), syntax.is_implicit_VR, syntax.is_little_endian
            )
    except Exception as error:
        raise Unprotectable(
            "unreadable", f"data set cannot be read: {type(error).__name__}"
        ) from error


def _native(source: Dataset, syntax: UID) -> Dataset:
    """Bring label maps and dose grids to native form, little endian."""
    if syntax not in NATIVE and PIXEL_DATA in source:
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = syntax
        try:
            source.decompress(generate_instance_uid=False)
        except Exception as error:
            raise Unprotectable(
                "undecodable", f"pixel data in {syntax.name}: {type(error).__name__}"
            ) from error
    return source


def _resolved(result: Dataset, syntax: UID) -> Dataset:
    """Settle value representations that depend on other attributes."""
    try:
        return correct_ambiguous_vr(result, syntax.is_little_endian)
    except AttributeError as error:
        raise Unprotectable(
            "unreadable", "an attribute depends on a missing one"
        ) from error


def _turn_words(result: Dataset) -> None:
    """Bring binary values from big to little endian; numbers already are."""
    for element in result.iterall():
        octets = element.value
        width = WORDS.get(element.VR, 1)
        if element.tag == PIXEL_DATA:
            width = max(width, int(number(result, "BitsAllocated") or 8) // 8)
        if width > 1 and isinstance(octets, bytes) and len(octets) % width == 0:
            element.value = np.frombuffer(octets, f"u{width}").byteswap().tobytes()


def _references(resolve: Resolve, target: Target, uids: UidMapper) -> References:
    def study_or_frame(purpose: str) -> Callable[[str], str]:
        if target.map_study:
            return lambda uid: uids.map(uid, purpose)
        return lambda uid: uid

    identity = Identity(
        study=study_or_frame("study"),
        series=lambda uid: uids.map(uid, target.series_purpose),
        frame_of_reference=study_or_frame("frame of reference"),
    )
    return References(resolve=resolve, identity=identity)


def _write_identity(
    source: Dataset, result: Dataset, target: Target, uids: UidMapper
) -> None:
    study = valid_uid(source, "StudyInstanceUID", uids)
    result.SOPInstanceUID = target.sop_instance_uid
    result.StudyInstanceUID = uids.map(study, "study") if target.map_study else study
    series = text(source, "SeriesInstanceUID")
    result.SeriesInstanceUID = uids.map(series, target.series_purpose)
