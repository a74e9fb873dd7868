"""Sending encoded DIMSE messages in PDVs (PS3.8 E), with back-pressure."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from gateway.dicom.command import encode_command
from gateway.errors import AssociationLost

# A peer that sets no limit still gets pieces: one PDU of a whole object would
# be held in memory several times over at both ends.
LARGEST_PDU_BYTES = 131_072
PDV_OVERHEAD_BYTES = 6
PDUS_WAITING = 8
POLL_SECONDS = 0.0005
COMMAND_LAST = b"\x03"
DATA = b"\x00"
DATA_LAST = b"\x02"


def send_message(
    association: Association,
    context_id: int,
    elements: Iterable[tuple[int, bytes]],
    data_set: BinaryIO | bytes = b"",
) -> None:
    """Send one message, its data set as it is.

    Parameters
    ----------
    association
        Established, of either side.
    context_id
        Of an accepted presentation context.
    elements
        The command set, as ``encode_command`` takes it.
    data_set
        Encoded; a stream is read from where it stands. Empty: none is sent.

    Raises
    ------
    AssociationLost
        The association ended meanwhile.
    """
    stream = io.BytesIO(data_set) if isinstance(data_set, bytes) else data_set
    _send(association, context_id, COMMAND_LAST + encode_command(elements))
    for fragment in _fragments(stream, _fragment_bytes(association)):
        _send(association, context_id, fragment)


def _send(association: Association, context_id: int, fragment: bytes) -> None:
    """Queue one PDV, waiting while the connection is behind."""
    provider = association.dul
    while provider.to_provider_queue.qsize() >= PDUS_WAITING:
        if not provider.is_alive() or association.acse.is_aborted():
            raise AssociationLost("The association ended while sending")
        time.sleep(POLL_SECONDS)
    primitive = P_DATA()
    primitive.presentation_data_value_list.append((context_id, fragment))
    provider.send_pdu(primitive)


def _fragment_bytes(association: Association) -> int:
    limit = association.dimse.maximum_pdu_size or LARGEST_PDU_BYTES
    size = min(limit, LARGEST_PDU_BYTES) - PDV_OVERHEAD_BYTES
    return max(size - size % 2, 2)


def _fragments(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield message fragments with their control header (PS3.8 E.2)."""
    fragment = stream.read(size)
    while fragment:
        following = stream.read(size)
        yield (DATA if following else DATA_LAST) + fragment
        fragment = following
