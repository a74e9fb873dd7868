"""Peers that ask for storage commitment and report on it, truly or not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import build_role

from gateway.dicom.contexts import STORAGE_COMMITMENT
from tests.gateway.scp import EXPLICIT, MODALITY

WELL_KNOWN = "1.2.840.10008.1.20.1.1"

Pair = tuple[str, str]


def references(pairs: Sequence[Pair], reason: int | None = None) -> list[Dataset]:
    items = []
    for sop_class, uid in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        if reason is not None:
            item.FailureReason = reason
        items.append(item)
    return items


def request(transaction: str, *pairs: Pair) -> Dataset:
    dataset = Dataset()
    dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence = references(pairs)
    return dataset


def report(
    transaction: str, kept: Sequence[Pair] = (), failed: Sequence[Pair] = ()
) -> Dataset:
    dataset = Dataset()
    dataset.TransactionUID = transaction
    if kept:
        dataset.ReferencedSOPSequence = references(kept)
    if failed:
        dataset.FailedSOPSequence = references(failed, 0x0112)
    return dataset


def pairs_of(asked: Dataset) -> list[Pair]:
    return [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for item in asked.ReferencedSOPSequence
    ]


@dataclass
class Reports:
    """What reports a modality was sent, and when they come."""

    heard: list[tuple[int, Dataset]] = field(default_factory=list)
    status: int = 0
    changed: threading.Event = field(default_factory=threading.Event)

    def take(self, event: Event) -> tuple[int, None]:
        if self.status == 0:
            kind = event.request.EventTypeID
            self.heard.append((kind, event.event_information))
            self.changed.set()
        return self.status, None

    @contextmanager
    def listening(self, title: str = MODALITY) -> Iterator[int]:
        """Take reports on new associations; the port."""
        entity = AE(title)
        entity.add_supported_context(
            STORAGE_COMMITMENT, EXPLICIT, scu_role=True, scp_role=True
        )
        handlers = [(evt.EVT_N_EVENT_REPORT, self.take)]
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=handlers
        )
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@contextmanager
def commitment_to(
    port: int,
    calling: str = MODALITY,
    *,
    reports: Reports | None = None,
    provider: bool = False,
) -> Iterator[Association]:
    """An association for commitment with the receiver."""
    entity = AE(calling)
    entity.add_requested_context(STORAGE_COMMITMENT, EXPLICIT)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    roles = [build_role(STORAGE_COMMITMENT, scp_role=True)] if provider else None
    handlers = [] if reports is None else [(evt.EVT_N_EVENT_REPORT, reports.take)]
    association = entity.associate(
        "127.0.0.1",
        port,
        ae_title="MIAD-GATEWAY",
        ext_neg=roles,
        evt_handlers=handlers,
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def ask(
    association: Association,
    dataset: Dataset | None,
    *,
    action: int = 1,
    instance: str = WELL_KNOWN,
) -> int:
    """Ask for commitment; the status of the answer."""
    status, _ = association.send_n_action(dataset, action, STORAGE_COMMITMENT, instance)
    return int(status.Status) if status else -1


def tell(
    association: Association,
    dataset: Dataset | None,
    *,
    event: int = 1,
    instance: str = WELL_KNOWN,
) -> int:
    """Report; the status of the answer."""
    status, _ = association.send_n_event_report(
        dataset, event, STORAGE_COMMITMENT, instance
    )
    return int(status.Status) if status else -1


@dataclass
class Archive:
    """A destination that takes objects and requests for commitment.

    ``on_action`` is told of a request and its association, and returns a status.
    """

    on_action: Callable[[Event], int] = lambda _event: 0
    answer: Callable[[str], int] = lambda _uid: 0
    arrivals: list[str] = field(default_factory=list)
    asked: list[Dataset] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def listening(
        self, classes: Sequence[str], *, commits: bool = True
    ) -> Iterator[None]:
        entity = AE("OUTSIDE")
        for uid in classes:
            entity.add_supported_context(uid, EXPLICIT)
        if commits:
            entity.add_supported_context(STORAGE_COMMITMENT, EXPLICIT)
        server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._action),
            ],
        )
        self.port = server.server_address[1]
        try:
            yield
        finally:
            server.shutdown()

    def _store(self, event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.arrivals.append(uid)
        return self.answer(uid)

    def _action(self, event: Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return self.on_action(event), None
