"""Associations that this side requests, closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_context
from pynetdicom.transport import AddressInformation
from typing_extensions import override

from gateway.dicom.transport import GatewaySocket, RequestedSocket
from gateway.errors import ConfigurationError, HandshakeFailed
from gateway.tls.handshake import Requested
from gateway.tls.identity import TlsIdentity

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
    """A node to call.

    Attributes
    ----------
    ae_title, host, port
        Who it is and where it listens.
    tls
        How its certificate is known; None: called without TLS.
    """

    ae_title: str
    host: str
    port: int
    tls: Requested | None


class Called(Protocol):
    """The settings of a node that this side calls."""

    @property
    def ae_title(self) -> str:
        """Its AE title."""

    @property
    def host(self) -> str:
        """Where it is."""

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def plain(self) -> bool:
        """Whether it is called without TLS."""

    @property
    def tls_name(self) -> str | None:
        """Name its certificate must hold; None: the host."""

    @property
    def certificates(self) -> tuple[Path | str, ...]:
        """Its certificates; then names do not count."""


def peer_of(settings: Called, tls: TlsIdentity | None) -> Peer:
    """Return whom to call, and how: with TLS, unless the settings say without.

    Parameters
    ----------
    settings
        A destination.
    tls
        This side's identity; None: there is no ``[tls]`` table.

    Raises
    ------
    ConfigurationError
        It is to be called with TLS, and this side has no identity, or one of the
        destination's certificate files cannot be read.
    """
    if settings.plain:
        how = None
    elif tls is None:
        raise ConfigurationError(
            f"{settings.ae_title} is called with TLS only, and there is no [tls]"
            " table; see miad-gateway pki, or set plain = true on that destination"
        )
    else:
        how = tls.requested(settings)
    return Peer(
        ae_title=settings.ae_title, host=settings.host, port=settings.port, tls=how
    )


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

    Parameters
    ----------
    ae_title
        How it calls itself.
    timeouts
        How long it waits.
    """

    def __init__(self, ae_title: str, timeouts: Timeouts) -> None:
        super().__init__(ae_title)
        self.acse_timeout = timeouts.answer
        self.connection_timeout = timeouts.answer
        self.dimse_timeout = timeouts.answer
        self.network_timeout = timeouts.idle
        self._handshake_seconds = timeouts.answer
        self._opened: list[RequestedSocket] = []

    @override
    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: Any
    ) -> RequestedSocket:
        made = RequestedSocket(assoc, address, tls_args, self._handshake_seconds)
        self._opened.append(made)
        return made

    def close(self) -> None:
        """Close every socket that is still open."""
        for opened in self._opened:
            if opened.socket is not None:
                opened.socket.close()


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


def open_association(
    entity: Requestor,
    peer: Peer,
    contexts: Iterable[tuple[str, str]],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Association:
    """Request an association; the caller releases it and closes the entity.

    Parameters
    ----------
    entity, peer, contexts
        As for `requested`.
    roles
        Proposed ones (PS3.7 D.3.3.4).
    handlers
        Of pynetdicom's events.

    Raises
    ------
    OSError
        The peer's host has no address.
    """
    return entity.associate(
        peer.host,
        peer.port,
        contexts=[build_context(*pair) for pair in dict.fromkeys(contexts)],
        ae_title=peer.ae_title,
        tls_args=peer.tls,  # type: ignore[arg-type]  # handed to _create_socket
        ext_neg=list(roles),
        evt_handlers=list(handlers),
    )


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
    association = open_association(entity, peer, contexts)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        entity.close()


def tls_failure(association: Association) -> HandshakeFailed | None:
    """Return why TLS with the peer failed; None: it did not, or is not used."""
    connection = association.dul.socket
    return connection.failure if isinstance(connection, GatewaySocket) else None
