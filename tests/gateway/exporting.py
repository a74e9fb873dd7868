"""Export of received originals to one destination, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from config.schema import Destination
from gateway.audit.log import AuditLog
from gateway.dicom.commitment_scu import CommitmentUser
from gateway.dicom.sender import Sender
from gateway.dicom.transcode import Transcoder
from gateway.stages.commit import Committer
from gateway.stages.export import Exporter
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index, utc_now
from gateway.store.rows import DeliveryPart
from gateway.vault.record import RecordPart
from tests.gateway.doubles import RecordsDouble
from tests.gateway.outside import destination, receive
from tests.gateway.stored import INDEX_KEY, a_store

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


class Exports:
    """Index, store, exporter and committer; what is owed are originals."""

    def __init__(self, directory: Path, port: int, **settings: object) -> None:
        self.index: Index = open_index(directory / "index.sqlite", INDEX_KEY)
        self.store: FileStore = a_store(directory / "store")
        self.audit = AuditLog(directory / "audit" / "audit.jsonl")
        self.sender = Sender(None, Transcoder())
        self.records = RecordsDouble()
        self.revision = 0
        self.at(port, **settings)

    def at(self, port: int, **settings: object) -> Destination:
        """Change the destination."""
        self.destination = destination(port, **({"originals": True} | settings))
        return self.destination

    def owe(self, *names: str) -> list[str]:
        """Receive files and plan them; their UIDs."""
        instances = [receive(self.store, self.index, name) for name in names]
        revision = self.index.close_series("1.2.3.4", "MODALITY", utc_now())
        assert revision is not None
        self.revision = revision.id
        self.index.set_revision(revision.id, "routed")
        ids = [instance.id for instance in instances]
        self.index.plan_deliveries(revision.id, "outside", False, ids)
        return [instance.sop_instance_uid for instance in instances]

    def records_of(self, uids: Sequence[str]) -> None:
        """Let every record be of these parts."""
        record = self.records.get(uids[0])
        parts = tuple(RecordPart(uid=uid) for uid in uids)
        self.records.get = lambda _uid: replace(record, parts=parts)  # type: ignore[method-assign]

    @property
    def exporter(self) -> Exporter:
        return Exporter(
            index=self.index,
            store=self.store,
            vault=self.records,
            audit=self.audit,
            destinations={"outside": self.destination},
            calling_ae="GATEWAY",
            send=self.sender.send,
        )

    def committer(self, linger_seconds: float = 2.0) -> Committer:
        user = CommitmentUser(calling_ae="GATEWAY", linger_seconds=linger_seconds)
        return Committer(
            index=self.index,
            audit=self.audit,
            destinations={"outside": self.destination},
            ask=user.ask,
        )

    def attempt(self) -> bool:
        return self.exporter.attempt(self.revision, "outside")

    def commit(self, linger_seconds: float = 2.0) -> bool:
        return self.committer(linger_seconds).attempt(self.revision, "outside")

    @property
    def states(self) -> list[str]:
        return [d.state for d in self.index.deliveries_of(self.revision)]

    @property
    def parts(self) -> list[DeliveryPart]:
        return [
            part
            for delivery in self.index.deliveries_of(self.revision)
            for part in self.index.parts_of(delivery.id)
        ]

    def close(self) -> None:
        with closing(self.index):
            self.sender.close()
