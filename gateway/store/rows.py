"""The rows of the index, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

JsonValue = Any


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What the index keeps of a data set, cut to the width of its columns.

    Text of the standard's own form: dates ``YYYYMMDD``, times ``HHMMSS.F``,
    person names with ``^`` and ``=``; empty where the data set has none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician_name: str = ""
    modality: str = ""
    series_number: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    instance_number: str = ""


@dataclass(frozen=True, kw_only=True)
class NewInstance(Attributes):
    """A received object whose bytes are durable, about to be indexed.

    Attributes
    ----------
    sha256, size_bytes
        Of the data set as received.
    path
        Relative to the store.
    received_at
        UTC, as ``timestamp`` of ``gateway.store.index`` writes it.
    """

    sha256: str
    size_bytes: int
    path: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: str


@dataclass(frozen=True, kw_only=True)
class Instance(NewInstance):
    """A received object.

    ``state``: ``received``, ``protected``, ``dropped`` or ``held``. ``gone_at``:
    when retention took its file, UTC; None while it is kept.
    """

    id: int
    revision_id: int | None
    state: str
    reason: str
    message: str
    gone_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Other bytes that came under a UID already stored, kept aside."""

    id: int
    sop_instance_uid: str
    sha256: str
    size_bytes: int
    path: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    peer_address: str
    received_at: str


@dataclass(frozen=True, kw_only=True)
class SeriesKey:
    """What is closed together: a series as one source sends it."""

    study_instance_uid: str
    series_instance_uid: str
    calling_ae: str


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One closed batch of a series.

    ``state``: ``complete``, ``routed``, ``delivered`` or ``held``, since
    ``changed_at``. Of jobs those with the smaller ``priority`` go first; ``run``
    counts how often it went through rules from the start, and ``enqueued`` is the
    latest of these that has its job.
    """

    id: int
    study_instance_uid: str
    series_instance_uid: str
    revision: int
    calling_ae: str
    closed_at: str
    state: str
    reason: str
    decision: JsonValue
    priority: int = 20
    run: int = 1
    enqueued: int = 0
    changed_at: str = ""


@dataclass(frozen=True, kw_only=True)
class NewProtected(Attributes):
    """A protected object whose file and sealed record are durable.

    Its attributes are those of the protected object, not of the original.

    Attributes
    ----------
    treatment
        Key of the treatment that made it; '' is the plain one.
    part
        Which of the objects made of one original it is, from 0.
    path, sha256
        Part 10 file, relative to the store, and its digest.
    report
        What the engine did, per frame, as JSON; of part 0 only.
    """

    instance_id: int
    treatment: str = ""
    part: int = 0
    transfer_syntax_uid: str
    path: str
    sha256: str
    report: JsonValue = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Protected(NewProtected):
    """A protected object; ``gone_at`` as of `Instance`."""

    id: int
    created_at: str
    gone_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One object owed to one destination.

    With ``protect`` all parts that ``treatment`` made of it are owed.
    ``state``: ``pending``, ``sent``, ``committed``, ``uncommitted``, ``refused`` or
    ``held``: the worst of its parts. ``status`` is the last DIMSE status,
    ``warned`` whether a part was stored with a remark, ``sent_at`` UTC.
    """

    id: int
    revision_id: int
    instance_id: int
    destination: str
    protect: bool
    treatment: str
    state: str
    status: int | None
    warned: bool
    attempts: int
    last_error: str
    sent_at: str | None


@dataclass(frozen=True, kw_only=True)
class Executor:
    """One run of a process of some machine of the site.

    ``state``: ``live``, ``stopped`` or ``lost``. ``beats`` goes up while it lives.
    """

    id: str
    machine: str
    kind: str
    slot: int
    pid: int
    device: str
    version: str
    state: str
    beats: int
    started_at: str
    beat_at: str


@dataclass(frozen=True, kw_only=True)
class DeliveryPart:
    """One object that is sent for a delivery.

    Attributes
    ----------
    state
        ``pending``, ``sent``, ``committed``, ``refused`` or ``held``.
    status, error
        Of the last attempt.
    address
        ``AE@host:port`` that took it, or was tried last.
    transfer_syntax_uid
        What it was sent in.
    commitment_id, asked, failures
        The last request for commitment, how many it was part of, and how often it
        was reported as not kept.
    """

    id: int
    delivery_id: int
    sop_instance_uid: str
    sop_class_uid: str
    state: str
    status: int | None
    error: str
    address: str
    transfer_syntax_uid: str
    sent_at: str | None
    commitment_id: int | None
    asked: int
    failures: int


@dataclass(frozen=True, kw_only=True)
class PartOutcome:
    """How the sending of one object ended, as it is recorded.

    ``state``: ``pending``, ``sent`` or ``refused``.
    """

    state: str
    status: int | None
    error: str
    address: str = ""
    transfer_syntax_uid: str = ""
    warned: bool = False


@dataclass(frozen=True, kw_only=True)
class Commitment:
    """What a destination was asked to commit to.

    ``state``: ``asking``, ``asked``, ``reported`` or ``failed``.
    """

    id: int
    transaction_uid: str
    revision_id: int
    destination: str
    part_ids: list[int]
    state: str
    asked_at: str
    deadline_at: str


@dataclass(frozen=True, kw_only=True)
class CommitmentRequest:
    """What a node asked this gateway to commit to.

    Attributes
    ----------
    objects
        Pairs of SOP class and SOP Instance UID.
    state
        ``waiting``, ``reported`` or ``given-up``.
    next_at
        When it is reported next, UTC.
    """

    id: int
    node: str
    calling_ae: str
    transaction_uid: str
    objects: list[list[str]]
    state: str
    attempts: int
    received_at: str
    next_at: str
    last_error: str
