"""Protects one received object: pixels, engine, derived object, key record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydicom.uid import ExplicitVRLittleEndian

from engine.errors import InvalidFrame, NoFeasiblePlacement
from gateway.dicom.derive import Target, derive, encode_part10
from gateway.dicom.derived_pixels import plan_parts
from gateway.dicom.lenient import text
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import Reading, read_source
from gateway.dicom.restore import pixel_digest, restore
from gateway.errors import RecoveryRefused, Unprotectable
from gateway.vault.container import decode_record, encode_record
from gateway.vault.layout import pack
from gateway.vault.record import (
    KeyCustody,
    KeyRecord,
    Kind,
    PixelCustody,
    WholeCustody,
    mark_of,
    planes_of,
)
from gateway.vault.shell import take_shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from engine.search.trace import Trace
    from engine.types import Frame, FrameKey
    from gateway.dicom.derived_pixels import Part
    from gateway.dicom.identifiers import UidMapper
    from gateway.dicom.pixels import Source
    from gateway.vault.record import Custody

    Progress = Callable[[str, int, int], None]
    """Called with ``frame``, its number and how many there are, before each;
    in between with the engine's stage, the steps done and their bound."""

WhenNotFooled = Literal["send", "hold"]


class Report(Protocol):
    """What the engine says of one frame."""

    @property
    def success(self) -> bool:
        """Whether the models' opinion changed on the final pixels."""

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""


class MarkedFrame(Protocol):
    """A protected frame: what is sent, its key, and how it came about."""

    @property
    def stored(self) -> NDArray[np.int32]:
        """Stored values, shape and range of the original."""

    @property
    def key(self) -> FrameKey:
        """What gives the original back."""

    @property
    def report(self) -> Report:
        """What was achieved."""

    @property
    def trace(self) -> Trace | None:
        """How the place of the mark was searched, where one was."""


class FrameProtector(Protocol):
    """Protects frames; the engine's ``Protector`` is one."""

    def protect(self, frame: Frame, *, seed: bytes, progress: Progress) -> MarkedFrame:
        """Protect one frame; ``seed`` tells it from all others."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """Received octets.

    Attributes
    ----------
    data
        A data set, or a whole Part 10 file.
    kind
        Which of the two.
    transfer_syntax_uid
        Of the data set; a file says it itself.
    name
        File name, without folders; empty for data sets.
    """

    data: bytes = field(repr=False)
    kind: Kind
    transfer_syntax_uid: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class ProtectedObject:
    """A protected object whose original was rebuilt from it before it was returned.

    Attributes
    ----------
    part10
        The derived object as a complete file.
    record
        Its key record, not yet sealed.
    sop_class_uid, sop_instance_uid, series_instance_uid, study_instance_uid
        Of the derived object.
    transfer_syntax_uid
        Of the derived object.
    reports
        What the engine says of each frame.
    traces
        How the mark of each frame was searched; None where it was not.
    record_bytes
        Octets of the record.
    """

    part10: bytes = field(repr=False)
    record: KeyRecord
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    reports: tuple[Report, ...] = field(repr=False)
    traces: tuple[Trace | None, ...] = field(repr=False)
    record_bytes: int

    @property
    def report(self) -> dict[str, Any]:
        """What was done, for JSON."""
        return {
            "custody": self.record.custody_name,
            "record_bytes": self.record_bytes,
            "frames": [report.as_dict() for report in self.reports],
        }


def protect_object(
    original: Original,
    *,
    protector: FrameProtector,
    uids: UidMapper,
    max_frames: int,
    when_not_fooled: WhenNotFooled = "send",
    progress: Progress | None = None,
) -> ProtectedObject:
    """Protect a received object and prove that it comes back.

    The record is encoded, read again, and the whole of the received octets
    rebuilt from the protected object and compared, before anything is returned.
    The caller stores the record first (`Vault.put`), the object second.

    Parameters
    ----------
    original
        What was received.
    protector
        Marks the frames.
    uids
        Maps UIDs; the new SOP Instance UID stands for the original's and for
        its octets (and file name), so that other octets under the same UID are
        another object.
    max_frames
        Most frames an object may have.
    when_not_fooled
        ``hold``: an object one of whose frames did not change the models'
        opinion is refused.
    progress
        Told of every step.

    Raises
    ------
    Unprotectable
        With the reason; nothing was made.
    RecoveryRefused
        The original did not come back: nothing may be sent.
    """
    offset, syntax = _data_set(original)
    reading = Reading(max_frames=max_frames, split_frames="never")
    source = read_source(original.data[offset:], syntax, reading=reading)
    marked = _mark_frames(source, protector, progress or _silent)
    _check_fooled(marked, when_not_fooled)
    (part,) = plan_parts(source, reading.split_frames)
    derived = derive(
        source,
        part,
        pack([frame.stored for frame in marked], part.layout),
        target=Target(sop_instance_uid=_new_uid(original, source, uids)),
        uids=uids,
        when=datetime.now(UTC),
    )
    part10 = encode_part10(derived)
    record, size = _verified_record(
        original, _candidates(original, source, derived, part, marked), part10
    )
    return ProtectedObject(
        part10=part10,
        record=record,
        sop_class_uid=str(derived.SOPClassUID),
        sop_instance_uid=str(derived.SOPInstanceUID),
        series_instance_uid=str(derived.SeriesInstanceUID),
        study_instance_uid=str(derived.StudyInstanceUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        reports=tuple(frame.report for frame in marked),
        traces=tuple(frame.trace for frame in marked),
        record_bytes=size,
    )


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


def _data_set(original: Original) -> tuple[int, str]:
    """Offset of the data set in the received octets, and its syntax."""
    if original.kind == "file":
        return data_set_offset(original.data)
    return 0, original.transfer_syntax_uid


def _mark_frames(
    source: Source, protector: FrameProtector, progress: Progress
) -> list[MarkedFrame]:
    uid = text(source.dataset, "SOPInstanceUID")
    marked = []
    for index, frame in enumerate(source.frames()):
        progress("frame", index + 1, source.count)
        try:
            seed = f"{uid} {index}".encode()
            marked.append(protector.protect(frame, seed=seed, progress=progress))
        except NoFeasiblePlacement as error:
            raise Unprotectable(
                "no-placement", f"frame {index + 1}: {error}"
            ) from error
        except InvalidFrame as error:
            raise Unprotectable(
                "unsupported-pixels", f"frame {index + 1}: {error}"
            ) from error
    return marked


def _new_uid(original: Original, source: Source, uids: UidMapper) -> str:
    digest = hashlib.sha256(original.data).hexdigest()
    purpose = " ".join(filter(None, ("instance", digest, original.name)))
    return uids.map(text(source.dataset, "SOPInstanceUID"), purpose)


def _check_fooled(marked: Sequence[MarkedFrame], when: WhenNotFooled) -> None:
    missed = sum(not frame.report.success for frame in marked)
    if missed and when == "hold":
        raise Unprotectable(
            "not-fooled",
            f"the best mark left the models' opinion as it was in {missed} of "
            f"{len(marked)} frames; protection.when_not_fooled is hold",
        )


def _candidates(
    original: Original,
    source: Source,
    derived: Dataset,
    part: Part,
    marked: Sequence[MarkedFrame],
) -> Iterator[KeyRecord]:
    """Yield records of the same object, one for each way to keep the original."""
    offset, _ = _data_set(original)
    for custody in _custodies(original, source, marked, offset):
        yield KeyRecord(
            protected_uid=str(derived.SOPInstanceUID),
            original_uid=text(source.dataset, "SOPInstanceUID"),
            sop_class_uid=text(source.dataset, "SOPClassUID"),
            transfer_syntax_uid=source.transfer_syntax_uid,
            kind=original.kind,
            original_name=original.name,
            original_sha256=hashlib.sha256(original.data).hexdigest(),
            original_size=len(original.data),
            protected_layout=part.layout,
            protected_sha256=pixel_digest(
                [frame.stored for frame in marked], part.layout
            ),
            marks=tuple(mark_of(frame.key) for frame in marked),
            custody=custody,
        )


def _custodies(
    original: Original, source: Source, marked: Sequence[MarkedFrame], offset: int
) -> Iterator[Custody]:
    if source.native is not None:
        bounds = (offset + source.native.start, offset + source.native.end)
        stored = tuple(frame.stored for frame in source.frames())
        shell = take_shell(original.data, bounds, source.native.layout, stored)
        yield KeyCustody(
            shell=shell, planes=tuple(planes_of(frame.key) for frame in marked)
        )
        yield PixelCustody(shell=shell, frames=stored)
    yield WholeCustody(received=original.data)


def _verified_record(
    original: Original, candidates: Iterator[KeyRecord], part10: bytes
) -> tuple[KeyRecord, int]:
    """Smallest record from whose octets the received octets come back."""
    encoded = [encode_record(record) for record in candidates]
    uid = decode_record(encoded[0]).protected_uid
    for octets in sorted(encoded, key=len):
        record = decode_record(octets)
        try:
            if restore(part10, record) == original.data:
                return record, len(octets)
        except RecoveryRefused:
            continue
    raise RecoveryRefused(
        f"the original of {uid} does not come back from any record: nothing may be sent"
    )
