"""The other nodes of the demo: a modality, an outside node, and who retrieves.

They stand for other vendors' software and see of the gateway what comes over
the network; the tests put DCMTK and Orthanc in the same places.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove,
)

from gateway.dicom.parse import data_set_offset
from gateway.dicom.rawstore import OutboundObject, store_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from pynetdicom.events import Event
    from pynetdicom.transport import ThreadedAssociationServer

    from gateway.demo.cases import Case
    from gateway.demo.identities import Credentials

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One object that arrived by C-STORE.

    Attributes
    ----------
    data_set
        The bytes of the data set as they came over the network.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    data_set: bytes
    part10: bytes


class StorageNode:
    """A storage SCP on loopback that keeps what it gets, in order.

    Parameters
    ----------
    ae_title, port
        What it is called; 0: any free port.
    tls
        Its credentials; None: without TLS.
    """

    def __init__(
        self, ae_title: str, port: int = 0, tls: Credentials | None = None
    ) -> None:
        self._tls = tls
        self.ae_title = ae_title
        self.arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self._ae = AE(ae_title=ae_title)
        self._ae.maximum_pdu_size = 0
        syntaxes = _all_syntaxes()
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(context.abstract_syntax or "", syntaxes)
        self._port = port
        self._server: ThreadedAssociationServer | None = None

    def __enter__(self) -> Self:
        self._server = self._ae.start_server(
            (LOOPBACK, self._port),
            block=False,
            ssl_context=self._tls.called() if self._tls else None,
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
            self.hang_up()
            self._server = None

    def hang_up(self) -> None:
        """Abort the associations that are open: a peer may keep them for long."""
        assert self._server is not None
        for association in self._server.active_associations:
            association.abort()

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            return self._port
        return int(self._server.server_address[1])

    def _on_store(self, event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        encoded = request.DataSet
        assert encoded is not None
        arrival = Arrival(
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            sop_class_uid=str(request.AffectedSOPClassUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            data_set=encoded.getvalue(),
            part10=event.encoded_dataset(),
        )
        with self._lock:
            self.arrivals.append(arrival)
        return 0x0000


def _all_syntaxes() -> list[str]:
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    return [str(uid) for uid in ALL_TRANSFER_SYNTAXES]


def send_cases(
    cases: Sequence[Case],
    *,
    calling_ae: str,
    called_ae: str,
    port: int,
    tls: Credentials | None = None,
) -> list[int]:
    """Send objects as a modality would, their encoded bytes untouched.

    Returns
    -------
    list[int]
        The C-STORE status of each, in order (0x0000 is Success).

    Raises
    ------
    ConnectionError
        When the association is refused.
    """
    ae = AE(ae_title=calling_ae)
    wanted = sorted({(c.sop_class_uid, c.transfer_syntax_uid) for c in cases})
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in wanted]
    assoc = ae.associate(
        LOOPBACK,
        port,
        contexts=contexts,
        ae_title=called_ae,
        tls_args=tls.calling() if tls else None,
    )
    if not assoc.is_established:
        raise ConnectionError(f"{called_ae} refused the association of {calling_ae}")
    try:
        return [
            store_bytes(
                assoc,
                OutboundObject(
                    sop_class_uid=case.sop_class_uid,
                    sop_instance_uid=case.sop_instance_uid,
                    transfer_syntax_uid=case.transfer_syntax_uid,
                    data=data_set_of(case.part10),
                ),
                message_id=number % 65535 + 1,
            ).status
            for number, case in enumerate(cases)
        ]
    finally:
        assoc.release()


def data_set_of(part10: bytes) -> bytes:
    """Bytes of the data set behind the file meta information (PS3.10 7.1)."""
    return part10[data_set_offset(part10)[0] :]


def move_study(
    study_instance_uid: str,
    *,
    calling_ae: str,
    called_ae: str,
    port: int,
    destination: str,
    tls: Credentials | None = None,
) -> int | None:
    """Ask for the originals of a study by C-MOVE (PS3.4 C.4.2).

    Returns
    -------
    int | None
        The final status, or None when the association was refused.
    """
    ae = AE(ae_title=calling_ae)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    assoc = ae.associate(
        LOOPBACK,
        port,
        ae_title=called_ae,
        tls_args=tls.calling() if tls else None,
    )
    if not assoc.is_established:
        return None
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    final: int | None = None
    try:
        for status, _ in assoc.send_c_move(
            identifier, destination, StudyRootQueryRetrieveInformationModelMove
        ):
            final = int(status.Status) if "Status" in status else None
    finally:
        assoc.release()
    return final


def write_arrivals(arrivals: Sequence[Arrival], directory: Path) -> list[Path]:
    """Write each arrival as a Part 10 file named by its SOP Instance UID."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for arrival in arrivals:
        path = directory / f"{arrival.sop_instance_uid}.dcm"
        path.write_bytes(arrival.part10)
        paths.append(path)
    return paths
