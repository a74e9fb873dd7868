"""A storage node that writes what it gets to disk, whatever its class."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import ThreadedAssociationServer

from gateway.demo.nodes import LOOPBACK
from gateway.dicom.contexts import storage_classes, transfer_syntaxes
from gateway.store.part10 import FileMeta, encode_head


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """One object that came by C-STORE.

    Attributes
    ----------
    path
        Part 10 file: a head of this node's own and the data set as it came.
    head_octets
        Length of that head.
    """

    sop_instance_uid: str
    transfer_syntax_uid: str
    path: Path
    head_octets: int

    def data_set(self) -> bytes:
        """Read the data set as it came over the network."""
        return self.path.read_bytes()[self.head_octets :]

    def sha256(self) -> str:
        """Digest of the data set."""
        return hashlib.sha256(self.data_set()).hexdigest()


class DiskNode:
    """A storage SCP on loopback that keeps what it gets in a folder.

    Every storage class and transfer syntax is taken, the retired and private
    ones too: originals come back in whatever they were sent in.

    Parameters
    ----------
    ae_title
        Its AE title.
    directory
        Where the files go, named by SOP Instance UID.
    """

    def __init__(self, ae_title: str, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._arrived: list[Arrived] = []
        self._server: ThreadedAssociationServer | None = None
        self._ae = AE(ae_title=ae_title)
        self._ae.maximum_pdu_size = 0
        syntaxes = transfer_syntaxes()
        for sop_class in storage_classes():
            self._ae.add_supported_context(sop_class, syntaxes)
            # pynetdicom aborts where it knows no service for a class it accepted.
            if uid_to_service_class(sop_class) is not StorageServiceClass:
                keyword = f"Storage{sop_class.replace('.', '_')}"
                register_uid(sop_class, keyword, StorageServiceClass)

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._server = self._ae.start_server(
            (LOOPBACK, 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._on_store)],
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def arrived(self) -> Sequence[Arrived]:
        """What came so far, in order; an object that came twice is there twice."""
        with self._lock:
            return tuple(self._arrived)

    def _on_store(self, event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        encoded = request.DataSet
        assert encoded is not None
        uid = str(request.AffectedSOPInstanceUID)
        syntax = str(event.context.transfer_syntax)
        head = encode_head(
            FileMeta(
                sop_class_uid=str(request.AffectedSOPClassUID),
                sop_instance_uid=uid,
                transfer_syntax_uid=syntax,
            )
        )
        path = self._directory / f"{uid}.dcm"
        path.write_bytes(head + encoded.getvalue())
        with self._lock:
            self._arrived.append(
                Arrived(
                    sop_instance_uid=uid,
                    transfer_syntax_uid=syntax,
                    path=path,
                    head_octets=len(head),
                )
            )
        return 0x0000
