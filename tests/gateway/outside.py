"""A node outside that answers as a test tells it, and received objects."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from ssl import SSLContext

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.events import Event

from config.schema import Destination
from gateway.demo.nodes import data_set_of
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.sender import Results, Sender
from gateway.store.files import FileStore
from gateway.store.index import Index, timestamp, utc_now
from gateway.store.part10 import FileMeta
from gateway.store.rows import Instance, NewInstance
from gateway.tls.identity import TlsIdentity

SUCCESS = 0x0000
FILES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "image_dfl.dcm")


def always_success(_uid: str) -> int:
    return SUCCESS


def send_objects(
    place: Destination,
    objects: Sequence[OutboundObject],
    calling_ae: str,
    tls: TlsIdentity | None = None,
) -> Results:
    """Send as a worker does, over associations that end with the last object."""
    with closing(Sender(tls)) as sender:
        yield from sender.send(place, objects, calling_ae)


@dataclass
class Outside:
    """A storage SCP; ``status_of`` answers each SOP Instance UID."""

    port: int = 0
    status_of: Callable[[str], int] = always_success
    arrivals: list[tuple[str, bytes]] = field(default_factory=list)
    associations: int = 0

    @property
    def kept(self) -> list[str]:
        return [uid for uid, _ in self.arrivals]

    @contextmanager
    def listening(
        self, classes: tuple[str, ...], ssl_context: SSLContext | None = None
    ) -> Iterator[None]:
        """Listen while the block lasts; the port stays the same afterwards."""
        ae = AE(ae_title="OUTSIDE")
        for uid in classes:
            ae.add_supported_context(uid, list(ALL_TRANSFER_SYNTAXES))
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_ACCEPTED, self._on_accepted),
        ]
        server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=ssl_context,
            evt_handlers=handlers,
        )
        self.port = server.socket.getsockname()[1]
        try:
            yield
        finally:
            server.shutdown()

    def _on_accepted(self, _event: Event) -> None:
        self.associations += 1

    def _on_store(self, event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.status_of(uid)
        if status == SUCCESS:
            self.arrivals.append((uid, event.request.DataSet.getvalue()))
        return status


def destination(port: int, **settings: object) -> Destination:
    values: dict[str, object] = {
        "name": "outside",
        "ae_title": "OUTSIDE",
        "host": "127.0.0.1",
        "port": port,
        "plain": True,
        "timeout_seconds": 10.0,
        "retry_first_seconds": 0.1,
        "retry_cap_seconds": 0.4,
    }
    return Destination.model_validate(values | settings)


def unused_port() -> int:
    """A port that nobody listens on, for a destination that is down."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def receive(
    store: FileStore, index: Index, name: str = "CT_small.dcm", **changed: str
) -> Instance:
    """Put a real object into store and index, as the receiver would."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return receive_file(store, index, Path(path).read_bytes(), **changed)


def receive_file(
    store: FileStore, index: Index, part10: bytes, **changed: str
) -> Instance:
    """Put the data set of a file into store and index."""
    dataset = dcmread(BytesIO(part10), stop_before_pixels=True)
    data_set = data_set_of(part10)
    meta = FileMeta(
        sop_class_uid=changed.get("sop_class_uid", str(dataset.SOPClassUID)),
        sop_instance_uid=changed.get("sop_instance_uid", str(dataset.SOPInstanceUID)),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
    )
    stored = store.write_original(data_set, meta)
    new = NewInstance(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        study_instance_uid="1.2.3",
        series_instance_uid=changed.get("series_instance_uid", "1.2.3.4"),
        modality=str(dataset.Modality),
        sha256=hashlib.sha256(data_set).hexdigest(),
        size_bytes=len(data_set),
        path=stored.path,
        calling_ae="MODALITY",
        called_ae="GATEWAY",
        peer_address="127.0.0.1",
        received_at=timestamp(utc_now()),
    )
    assert index.add_instance(new) == "stored"
    instance = index.instance(meta.sop_instance_uid)
    assert instance is not None
    return instance
