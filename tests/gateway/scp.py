"""A receiver on loopback, and peers that send and compare exact bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from ssl import SSLContext
from typing import Any

from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from config.schema import Site
from gateway.access.access import Access
from gateway.access.ledger import Books
from gateway.app.openers import open_index_of, open_keys_of, open_store_of
from gateway.audit.log import AuditLog
from gateway.audit.sealer import AesFieldSealer
from gateway.dicom.listener import Records, Running, start_receiver
from gateway.dicom.rawstore import OutboundObject, store_bytes
from gateway.dicom.requestor import Requestor, Timeouts
from gateway.dicom.restore import restorer as vault_restorer
from gateway.errors import RecordMissing
from gateway.stages.export import verified_part
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.part10 import read_head
from gateway.store.rows import Instance, NewProtected, Protected
from gateway.vault.vault import Vault
from tests.gateway.doubles import RecordsDouble

MODALITY = "MODALITY"
WORKSTATION = "WORKSTATION"
ARCHIVE = "ARCHIVE"
LOOPBACK = ["127.0.0.1/32"]
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
GRANTS_KEY = b"g" * 32
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def example(name: str) -> OutboundObject:
    """A real file of pydicom, its data set bytes exactly as in the file."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), f"{name} is not in pydicom or pydicom-data"
    return from_file(Path(path))


def from_file(path: Path) -> OutboundObject:
    with path.open("rb") as stream:
        meta = read_head(stream)
        data = stream.read()
    return OutboundObject(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        data=data,
    )


def encoded(dataset: Dataset, transfer_syntax: str = EXPLICIT) -> OutboundObject:
    """An object made in a test, encoded once."""
    syntax = UID(transfer_syntax)
    stream = BytesIO()
    from pydicom.filebase import DicomFileLike
    from pydicom.filewriter import write_dataset

    target = DicomFileLike(stream)
    target.is_implicit_VR = syntax.is_implicit_VR
    target.is_little_endian = syntax.is_little_endian
    write_dataset(target, dataset)
    return OutboundObject(
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=transfer_syntax,
        data=stream.getvalue(),
    )


def small(uid: str = "1.2.3.4", **attributes: object) -> Dataset:
    """A small object that only has to be identified."""
    dataset = Dataset()
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = uid
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.1"
    dataset.PatientID = "P1"
    dataset.Modality = "CT"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


AUDIT_KEY = bytes(range(32))
"""Opens what names patients in the trail."""


@dataclass
class Restorer:
    """Stands in for the vault: hands back bytes that a test put there."""

    originals: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    takes: Callable[[], object] = lambda: None

    def __call__(self, instance: Instance, protected: Protected) -> bytes:
        assert protected.instance_id == instance.id
        self.asked.append(protected.sop_instance_uid)
        self.takes()
        try:
            return self.originals[protected.sop_instance_uid]
        except KeyError:
            raise RecordMissing("no record") from None


@dataclass
class Gateway:
    """A listening receiver and what it writes to."""

    site: Site
    store: FileStore
    index: Index
    audit: AuditLog
    restorer: Restorer
    access: Access
    running: Running

    @property
    def port(self) -> int:
        return self.running.ports.plain_receiver or 0

    @property
    def recovery_port(self) -> int:
        return self.running.ports.plain_recovery or 0

    def audited(self, action: str, outcome: str) -> list[dict[str, Any]]:
        entries = self.audit.entries()
        return [e for e in entries if (e["action"], e["outcome"]) == (action, outcome)]

    def protect(self, instance: Instance, data: bytes | None) -> str:
        """Index a protected object; ``data`` is what restoring it returns."""
        uid = f"2.25.{instance.id}1"
        self.index.add_protected(
            NewProtected(
                instance_id=instance.id,
                sop_instance_uid=uid,
                series_instance_uid=f"2.25.{instance.id}2",
                study_instance_uid="2.25.3",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
                transfer_syntax_uid=EXPLICIT,
                path="protected/none.dcm",
                sha256="0" * 64,
            )
        )
        if data is not None:
            self.restorer.originals[uid] = data
        return uid


def site(directory: Path, **sections: Any) -> Site:
    """Settings without TLS; WORKSTATION may have every original sent to itself."""
    plain: dict[str, object] = {"plain_port": 0}
    default = {
        "data_directory": directory,
        "nodes": [node(MODALITY, "store"), node(WORKSTATION, "recover")],
        "grants": [grant(WORKSTATION)],
    }
    return Site.model_validate(
        default
        | sections
        | {
            "receiver": plain | sections.get("receiver", {}),
            "recovery": plain | sections.get("recovery", {}),
        }
    )


def node(
    title: str, *roles: str, moves: Sequence[str] = (), **more: object
) -> dict[str, object]:
    """A node without TLS, on loopback, named as its AE title in lower case."""
    plain = {"plain": True, "addresses": LOOPBACK, "move_destinations": moves}
    own = {"name": title.lower(), "ae_titles": [title], "roles": roles}
    return {**own, **plain, **more}


def grant(title: str, *moves: str, when: str = "true") -> dict[str, object]:
    """A grant of originals to the node of an AE title."""
    own = {"name": title.lower(), "nodes": [title.lower()]}
    return {**own, "when": when, "move_destinations": moves}


def move_place(title: str, port: int) -> dict[str, object]:
    """A move destination without TLS, on loopback."""
    return {"ae_title": title, "host": "127.0.0.1", "port": port, "plain": True}


@contextmanager
def gateway(
    settings: Site,
    vault: RecordsDouble | Vault | None = None,
    grants_key: bytes | None = None,
) -> Iterator[Gateway]:
    """Listen; with a vault, originals come from it and not from the test."""
    keys = open_keys_of(settings)
    store = open_store_of(settings, keys)
    index = open_index_of(settings, keys)
    audit = AuditLog(
        settings.data_directory / "audit" / "audit.jsonl",
        sealer=AesFieldSealer(AUDIT_KEY),
    )
    restorer = Restorer()
    opened = vault or RecordsDouble()
    records = Records(
        restore=vault_restorer(store, vault) if isinstance(vault, Vault) else restorer,
        verify=lambda row: verified_part(row, store, opened),
    )
    access = access_of(settings, index, audit, grants_key or GRANTS_KEY)
    running = start_receiver(settings, store, index, audit, records, access)
    try:
        yield Gateway(settings, store, index, audit, restorer, access, running)
    finally:
        running.stop()
        index.close()


def access_of(
    settings: Site,
    index: Index,
    audit: AuditLog,
    key: bytes = GRANTS_KEY,
    **clocks: Any,
) -> Access:
    """Grants under a key of the test, or of a site that is served afterwards."""
    anchor = settings.data_directory / "access" / "anchor.json"
    books = Books(index.database, key, anchor)
    return Access(site=settings, index=index, books=books, audit=audit, **clocks)


@contextmanager
def associated(
    port: int,
    contexts: Sequence[tuple[str, str | tuple[str, ...]]],
    calling: str = MODALITY,
    called: str = "MIAD-GATEWAY",
    **options: Any,
) -> Iterator[Association]:
    entity = Requestor(calling, Timeouts(answer=20, idle=None))
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=[
            build_context(uid, syntaxes if isinstance(syntaxes, str) else [*syntaxes])
            for uid, syntaxes in dict.fromkeys(contexts)
        ],
        ae_title=called,
        **options,
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        entity.close()


def send(port: int, *objects: OutboundObject, **options: Any) -> list[int]:
    """Send objects in one association; the statuses that came back."""
    contexts = [(o.sop_class_uid, o.transfer_syntax_uid) for o in objects]
    with associated(port, contexts, **options) as association:
        assert association.is_established
        return [
            store_bytes(association, item, message_id=number).status
            for number, item in enumerate(objects, 1)
        ]


@dataclass
class Arrival:
    """What a storage SCP was sent."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes
    originator: str | None
    calling_ae: str


class Archive:
    """A storage SCP (pynetdicom) that keeps bytes as they arrive."""

    def __init__(self, answer: Callable[[str], int] = lambda _uid: 0) -> None:
        self.arrivals: list[Arrival] = []
        self.port = 0
        self.associations = 0
        self.leaves_at = ""
        self.patience: float | None = 60.0
        self._answer = answer

    @contextmanager
    def listening(
        self,
        contexts: Sequence[tuple[str, str]],
        ssl_context: SSLContext | None = None,
    ) -> Iterator[None]:
        entity = AE(ARCHIVE)
        entity.maximum_pdu_size = 0
        entity.network_timeout = self.patience
        syntaxes: dict[str, list[str]] = {}
        for sop_class, syntax in contexts:
            syntaxes.setdefault(sop_class, []).append(syntax)
        for sop_class, offered in syntaxes.items():
            entity.add_supported_context(sop_class, offered)
        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            ssl_context=ssl_context,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_ACCEPTED, self._accepted),
            ],
        )
        assert server is not None
        self.port = server.server_address[1]
        try:
            yield
        finally:
            server.shutdown()

    def _accepted(self, _event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        if uid == self.leaves_at:
            event.assoc.abort()
            return 0xA700
        self.arrivals.append(
            Arrival(
                uid,
                str(event.context.transfer_syntax),
                request.DataSet.getvalue(),
                request.MoveOriginatorApplicationEntityTitle,
                event.assoc.requestor.ae_title,
            )
        )
        return self._answer(uid)


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    out = compressor.compress(data) + compressor.flush()
    return out + b"\0" * (len(out) % 2)
