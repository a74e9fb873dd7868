"""Associations that this side requests, closed whatever happens."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.transport import AssociationSocket
from typing_extensions import override

MAX_CONTEXTS: Final = 128  # PS3.8 9.3.2.2: odd ids 1 to 255


class Encoded(Protocol):
    """An object whose SOP class and transfer syntax need a context."""

    @property
    def sop_class_uid(self) -> str:
        """Its SOP class."""

    @property
    def transfer_syntax_uid(self) -> str:
        """How it is encoded."""


_Encoded = TypeVar("_Encoded", bound=Encoded)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A node to call: its AE title and where it listens."""

    ae_title: str
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes
    ----------
    answer
        For the connection, the association and each response.
    idle
        Until an association without traffic is aborted; None: never.
    """

    answer: float
    idle: float | None


class Requestor(AE):
    """An application entity that closes the sockets pynetdicom forgets.

    A connection that is refused or times out leaves its socket to the garbage
    collector there.
    """

    def __init__(self, ae_title: str, timeouts: Timeouts) -> None:
        super().__init__(ae_title)
        self.acse_timeout = timeouts.answer
        self.connection_timeout = timeouts.answer
        self.dimse_timeout = timeouts.answer
        self.network_timeout = timeouts.idle
        self._opened: list[socket.socket] = []

    @override
    def _create_socket(self, *args: Any) -> AssociationSocket:
        made = super()._create_socket(*args)
        if made.socket is not None:
            self._opened.append(made.socket)
        return made

    def close(self) -> None:
        """Close every socket that is still open."""
        for opened in self._opened:
            opened.close()


def batches(objects: Sequence[_Encoded]) -> Iterator[list[_Encoded]]:
    """Cut a sequence where the presentation contexts of one association end.

    Yields
    ------
    list
        Objects in their order that need at most 128 contexts together.
    """
    batch: list[_Encoded] = []
    contexts: set[tuple[str, str]] = set()
    for item in objects:
        context = (item.sop_class_uid, item.transfer_syntax_uid)
        if context not in contexts and len(contexts) == MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts.add(context)
    if batch:
        yield batch


@contextmanager
def requested(
    entity: Requestor, peer: Peer, contexts: Iterable[tuple[str, str]]
) -> Iterator[Association]:
    """Request an association for a block, and release it after.

    Parameters
    ----------
    entity
        Who calls.
    peer
        Who is called.
    contexts
        Pairs of SOP class and transfer syntax, at most 128 different ones.

    Yields
    ------
    Association
        Established or not: ``is_established`` says.

    Raises
    ------
    OSError
        The peer's host has no address.
    """
    association = entity.associate(
        peer.host,
        peer.port,
        contexts=[build_context(*pair) for pair in dict.fromkeys(contexts)],
        ae_title=peer.ae_title,
        evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)],
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        entity.close()


def _send_at_once(event: evt.Event) -> None:
    """Switch Nagle's algorithm off: it costs 40 ms an image."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
