"""Objects without pictures that leave with their references rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.dicom.derive import encode_part10
from gateway.dicom.follow import follow
from gateway.dicom.lenient import text
from gateway.dicom.parse import parse_object
from gateway.dicom.restore import check_restores
from gateway.errors import Unprotectable
from gateway.stages.protect import Part, ProtectedObject
from gateway.vault.container import encoded_record
from gateway.vault.record import KeyRecord, RecordPart, WholeCustody

if TYPE_CHECKING:
    from gateway.dicom.follow import Counterpart, Resolve
    from gateway.dicom.identifiers import UidMapper
    from gateway.stages.draft import Original
    from gateway.stages.recipe import Recipe


LARGEST: Final = 128 << 20
"""Octets of an object without a picture that may pass."""


def follower_of(
    original: Original, *, recipe: Recipe, resolve: Resolve, uids: UidMapper
) -> ProtectedObject:
    """Make what leaves in the place of an object without a picture.

    Its record holds the received octets: it comes back like any other.

    Parameters
    ----------
    original
        What was received.
    recipe
        How it is finished.
    resolve
        Gives the protected objects that stand for an original.
    uids
        Maps UIDs.

    Raises
    ------
    Unprotectable
        It is none that may pass, or refers to what is not protected.
    RecoveryRefused
        The original did not come back: nothing may be sent.
    """
    if len(original.data) > LARGEST:
        raise Unprotectable(
            "too-large",
            f"an object without a picture of {len(original.data)} octets; {LARGEST} "
            "are the limit: it is rewritten as a whole, in memory",
        )
    offset, syntax = original.data_set()
    data_set = original.data[offset:]
    found = parse_object(data_set, syntax).dataset
    uid = text(found, "SOPInstanceUID")
    key = recipe.treatment.key
    purpose = " ".join(filter(None, ("instance", original.sha256, original.name, key)))
    target = recipe.target(uids.map(uid, purpose))
    own: set[str] = set()

    def known(original_uid: str) -> tuple[Counterpart, ...]:
        found = resolve(original_uid)
        for one in found:
            own.update((one.sop_instance_uid, one.series_instance_uid))
            own.add(one.study_instance_uid)
        return found

    followed = follow(data_set, syntax, resolve=known, target=target, uids=uids)
    dataset = recipe.finished(followed, own)
    record = KeyRecord(
        parts=(RecordPart(uid=target.sop_instance_uid),),
        original_uid=uid,
        sop_class_uid=text(found, "SOPClassUID"),
        transfer_syntax_uid=syntax,
        kind=original.kind,
        original_name=original.name,
        original_sha256=original.sha256,
        original_size=len(original.data),
        marks=(),
        custody=WholeCustody(received=original.data),
    )
    octets = encoded_record(record)
    (enclosed,) = recipe.enclosed([dataset], octets, found)
    part = Part(
        octets=encode_part10(enclosed),
        sop_class_uid=str(enclosed.SOPClassUID),
        sop_instance_uid=str(enclosed.SOPInstanceUID),
        series_instance_uid=str(enclosed.SeriesInstanceUID),
        study_instance_uid=str(enclosed.StudyInstanceUID),
    )
    check_restores(lambda _: part.octets, record)
    return ProtectedObject(
        parts=(part,),
        treatment=key,
        record=record,
        reports=(),
        traces=(),
        record_bytes=len(octets),
    )
