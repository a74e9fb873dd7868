"""Messages of the Storage Commitment Push Model (PS3.4 J.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from gateway.dicom import command
from gateway.dicom.contexts import STORAGE_COMMITMENT
from gateway.dicom.elements import seems_implicit
from gateway.dicom.lenient import lenient, text, value
from gateway.dicom.status import CommitmentStatus, FailureReason
from gateway.dicom.structure import check_structure
from gateway.errors import CommitmentRefused, InvalidObject
from gateway.store.commitments import Report
from gateway.store.part10 import check_uid

if TYPE_CHECKING:
    from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT

WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST: Final = 1
"""Action type of a request."""
ALL_KEPT, SOME_FAILED = 1, 2
"""Event types of reports."""
DEEPEST: Final = 8

Pair = tuple[str, str]
Command = list[tuple[int, bytes]]


def encode_request(transaction_uid: str, objects: Sequence[Pair], syntax: UID) -> bytes:
    """Encode what an N-ACTION asks for (PS3.4 Table J.3-1)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = [_reference(pair) for pair in objects]
    return _encoded(dataset, syntax)


def encode_report(report: Report, syntax: UID) -> bytes:
    """Encode what an N-EVENT-REPORT says (PS3.4 Table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    if report.kept:
        dataset.ReferencedSOPSequence = [_reference(pair) for pair in report.kept]
    if report.failed:
        failed = []
        for pair, reason in report.failed.items():
            item = _reference(pair)
            item.FailureReason = int(reason)
            failed.append(item)
        dataset.FailedSOPSequence = failed
    return _encoded(dataset, syntax)


def decode_request(octets: bytes, syntax: UID) -> tuple[str, list[Pair]]:
    """Decode an N-ACTION's data set: its transaction, and objects without repeats.

    Raises
    ------
    CommitmentRefused
        It is not one; ``status`` is what to answer.
    """
    dataset = _decoded(octets, syntax)
    pairs = list(_references(dataset, "ReferencedSOPSequence"))
    if not pairs:
        raise CommitmentRefused(
            CommitmentStatus.MISSING_ATTRIBUTE, "no Referenced SOP Sequence"
        )
    return _transaction(dataset), pairs


def decode_report(octets: bytes, syntax: UID) -> Report:
    """Decode an N-EVENT-REPORT's data set.

    Raises
    ------
    CommitmentRefused
        It is not one.
    """
    dataset = _decoded(octets, syntax)
    kept = _references(dataset, "ReferencedSOPSequence")
    failed = _references(dataset, "FailedSOPSequence")
    return Report(
        transaction_uid=_transaction(dataset),
        # What is named as both is not kept.
        kept=[pair for pair in kept if pair not in failed],
        failed={pair: _reason(item) for pair, item in failed.items()},
    )


def action_request(message_id: int) -> Command:
    """Return the command of a request (PS3.7 10.3.5)."""
    return [
        (command.REQUESTED_SOP_CLASS_UID, command.ui(STORAGE_COMMITMENT)),
        (command.COMMAND_FIELD, command.us(command.N_ACTION_RQ)),
        (command.MESSAGE_ID, command.us(message_id)),
        (command.COMMAND_DATA_SET_TYPE, command.us(command.DATA_SET_PRESENT)),
        (command.REQUESTED_SOP_INSTANCE_UID, command.ui(WELL_KNOWN_INSTANCE)),
        (command.ACTION_TYPE_ID, command.us(REQUEST)),
    ]


def event_report(message_id: int, report: Report) -> Command:
    """Return the command of a report (PS3.7 10.3.1)."""
    kind = SOME_FAILED if report.failed else ALL_KEPT
    return [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(STORAGE_COMMITMENT)),
        (command.COMMAND_FIELD, command.us(command.N_EVENT_REPORT_RQ)),
        (command.MESSAGE_ID, command.us(message_id)),
        (command.COMMAND_DATA_SET_TYPE, command.us(command.DATA_SET_PRESENT)),
        (command.AFFECTED_SOP_INSTANCE_UID, command.ui(WELL_KNOWN_INSTANCE)),
        (command.EVENT_TYPE_ID, command.us(kind)),
    ]


def response(
    request: N_ACTION | N_EVENT_REPORT, field: int, status: int, comment: str = ""
) -> Command:
    """Return the command that answers a request."""
    elements = [
        (command.AFFECTED_SOP_CLASS_UID, command.ui(STORAGE_COMMITMENT)),
        (command.COMMAND_FIELD, command.us(field)),
        (
            command.MESSAGE_ID_BEING_RESPONDED_TO,
            command.us(int(request.MessageID or 0)),
        ),
        (command.COMMAND_DATA_SET_TYPE, command.us(command.NO_DATA_SET)),
        (command.STATUS, command.us(status)),
        (command.AFFECTED_SOP_INSTANCE_UID, command.ui(WELL_KNOWN_INSTANCE)),
    ]
    if comment:
        elements.append((command.ERROR_COMMENT, command.text(comment)))
    return elements


def octets_of(information: BytesIO | None) -> bytes:
    """Return the data set of a message; empty where it has none."""
    return information.getvalue() if information is not None else b""


def _reference(pair: Pair) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = pair
    return item


def _encoded(dataset: Dataset, syntax: UID) -> bytes:
    stream = BytesIO()
    out = DicomFileLike(stream)
    out.is_implicit_VR, out.is_little_endian = syntax.is_implicit_VR, True
    write_dataset(out, dataset)
    return stream.getvalue()


def _decoded(octets: bytes, syntax: UID) -> Dataset:
    implicit = bool(syntax.is_implicit_VR)
    try:
        stream = BytesIO(octets)
        seems = seems_implicit(stream, implicit)
        check_structure(octets, implicit=seems, little=True, max_depth=DEEPEST)
        with lenient():
            return read_dataset(stream, implicit, True)
    except InvalidObject as error:
        raise CommitmentRefused(
            CommitmentStatus.PROCESSING_FAILURE, str(error)
        ) from error
    except Exception as error:
        raise CommitmentRefused(
            CommitmentStatus.PROCESSING_FAILURE, "the data set cannot be read"
        ) from error


def _transaction(dataset: Dataset) -> str:
    if "TransactionUID" not in dataset:
        raise CommitmentRefused(
            CommitmentStatus.MISSING_ATTRIBUTE, "no Transaction UID"
        )
    return _uid(dataset, "TransactionUID")


def _references(dataset: Dataset, keyword: str) -> Mapping[Pair, Dataset]:
    """Return the items of a sequence by what they reference, each once."""
    with lenient():
        found: Any = value(dataset, keyword)
    if found is None:
        return {}
    if not isinstance(found, DicomSequence):
        raise CommitmentRefused(
            CommitmentStatus.INVALID_ATTRIBUTE_VALUE, f"{keyword} is no sequence"
        )
    return {
        (
            _uid(item, "ReferencedSOPClassUID"),
            _uid(item, "ReferencedSOPInstanceUID"),
        ): item
        for item in found
    }


def _uid(dataset: Dataset, keyword: str) -> str:
    with lenient():
        found = text(dataset, keyword)
    if not found:
        raise CommitmentRefused(
            CommitmentStatus.MISSING_ATTRIBUTE_VALUE, f"{keyword} is missing"
        )
    try:
        return check_uid(found, keyword)
    except InvalidObject as error:
        raise CommitmentRefused(
            CommitmentStatus.INVALID_ATTRIBUTE_VALUE, str(error)
        ) from error


def _reason(item: Dataset) -> int:
    with lenient():
        found = value(item, "FailureReason")
    return found if isinstance(found, int) else FailureReason.PROCESSING_FAILURE
