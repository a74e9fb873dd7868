"""The modality that sends files and the node that asks for originals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from benchmarks.corpus.find import FoundFile
from gateway.demo.nodes import LOOPBACK
from gateway.demo.site import GATEWAY, MODALITY, RECOVERY, WORKSTATION
from gateway.dicom.contexts import STUDY_ROOT_MOVE
from gateway.dicom.rawstore import OutboundObject, store_bytes
from gateway.dicom.requestor import Peer, Requestor, Timeouts, batches, requested
from gateway.errors import NoPresentationContext

TIMEOUTS: Final = Timeouts(answer=600.0, idle=None)
NO_CONTEXT: Final = -1
"""Stands for a status where the gateway accepts no presentation context."""


def send_files(files: Sequence[FoundFile], port: int) -> list[int]:
    """Send data sets octet for octet as they lie in the files.

    Parameters
    ----------
    files
        Sorted by study, each with SOP class, instance UID and transfer syntax.
    port
        Of the gateway's receiver.

    Returns
    -------
    list of int
        The C-STORE status of each, or `NO_CONTEXT`.
    """
    statuses: list[int] = []
    for _, study in groupby(files, lambda one: one.facts.study_instance_uid):
        for batch in batches([_outbound(file) for file in study]):
            statuses += _send_batch(batch, port)
    return statuses


def _outbound(file: FoundFile) -> OutboundObject:
    return OutboundObject(
        sop_class_uid=file.facts.sop_class_uid,
        sop_instance_uid=file.facts.sop_instance_uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        data=file.data_set(),
    )


def _send_batch(batch: Sequence[OutboundObject], port: int) -> list[int]:
    entity = Requestor(MODALITY, TIMEOUTS)
    peer = Peer(ae_title=GATEWAY, host=LOOPBACK, port=port, tls=None)
    contexts = [(one.sop_class_uid, one.transfer_syntax_uid) for one in batch]
    with requested(entity, peer, contexts) as association:
        if not association.is_established:
            return [NO_CONTEXT] * len(batch)
        statuses = []
        for number, one in enumerate(batch, start=1):
            try:
                status = store_bytes(association, one, message_id=number).status
            except NoPresentationContext:
                status = NO_CONTEXT
            statuses.append(status)
        return statuses


def retrieve_study(study_instance_uid: str, port: int) -> int | None:
    """Have the originals of a study sent to the authorised node (PS3.4 C.4.2).

    Returns
    -------
    int or None
        The final status; None where the association was refused or ended.
    """
    entity = Requestor(WORKSTATION, TIMEOUTS)
    peer = Peer(ae_title=RECOVERY, host=LOOPBACK, port=port, tls=None)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    final: int | None = None
    contexts = [(STUDY_ROOT_MOVE, str(ExplicitVRLittleEndian))]
    with requested(entity, peer, contexts) as association:
        if association.is_established:
            for status, _ in association.send_c_move(
                identifier, WORKSTATION, STUDY_ROOT_MOVE
            ):
                final = int(status.Status) if "Status" in status else None
    return final
