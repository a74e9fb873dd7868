"""The TLS handshake of a connection asyncio has accepted, and why it failed.

`asyncio` closes a connection at the first fault of a handshake, before OpenSSL's
alert has left: the peer never learns that its certificate has ended. Here the
alert is sent first.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from typing_extensions import override

from gateway.errors import HandshakeFailed
from gateway.tls.certificates import PeerCertificate
from gateway.tls.handshake import failure_of

LINGER_SECONDS: Final = 0.5
"""How long a peer has to read the alert."""

GOODBYE_SECONDS: Final = 1.0
"""How long a peer has to say goodbye as well (RFC 8446 6.1)."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The certificate a peer has proven to hold: who that is, and all of it."""

    peer: PeerCertificate
    certificate: x509.Certificate


class Attempt:
    """One handshake under way.

    Parameters
    ----------
    on_failure
        Called once, at the first fault.
    """

    def __init__(self, on_failure: Callable[[], object]) -> None:
        self.failure: ssl.SSLError | None = None
        self._on_failure = on_failure

    def fail(self, error: ssl.SSLError) -> None:
        """Keep the first fault."""
        if self.failure is None:
            self.failure = error
            self._on_failure()


# asyncio makes the SSL object of a connection in a callback of its own, in the
# context of the task that asked for it: that is how the object finds its attempt.
_ATTEMPT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


class TellingObject(ssl.SSLObject):
    """TLS in memory that lets the alert out before it gives up."""

    _attempt: Attempt | None = None

    @override
    def do_handshake(self) -> None:
        """Go on with the handshake; after a fault only its alert goes out."""
        attempt = self._attempt = self._attempt or _ATTEMPT.get()
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if attempt is None:
                raise
            attempt.fail(error)
            # What OpenSSL has written is sent, and the connection ended after.
            raise ssl.SSLWantReadError("the alert goes out") from error


async def secure(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    seconds: float,
) -> tuple[asyncio.Transport, Shown]:
    """Do the handshake as the server.

    Parameters
    ----------
    transport
        As accepted, not read from yet; closed if the handshake fails.
    protocol
        Is given what comes, maybe before this returns.
    context
        Asks for a certificate and verifies it.
    seconds
        For the whole handshake.

    Returns
    -------
    tuple
        The transport of what is encrypted, and what the peer has shown.

    Raises
    ------
    HandshakeFailed
        With the reason by name.
    """
    loop = asyncio.get_running_loop()
    attempt = Attempt(lambda: loop.call_later(LINGER_SECONDS, transport.abort))
    _ATTEMPT.set(attempt)  # of this task only
    context.sslobject_class = TellingObject
    try:
        secured = await loop.start_tls(
            transport,
            protocol,
            context,
            server_side=True,
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )
    except ConnectionAbortedError as error:  # what asyncio says at the deadline
        raise failure_of(attempt.failure or TimeoutError("too slow")) from error
    except OSError as error:
        raise failure_of(attempt.failure or error) from error
    if attempt.failure is not None:
        raise failure_of(attempt.failure) from attempt.failure
    if secured is None:
        raise HandshakeFailed("peer-left", "the peer left during the handshake")
    try:
        return secured, _shown_on(secured)
    except HandshakeFailed:
        secured.abort()
        raise


def _shown_on(secured: asyncio.Transport) -> Shown:
    shown = secured.get_extra_info("ssl_object")
    der = shown.getpeercert(binary_form=True) if shown is not None else None
    if der is None:
        raise HandshakeFailed("no-certificate", "the peer showed no certificate")
    try:
        return Shown(
            peer=PeerCertificate.from_der(der),
            certificate=x509.load_der_x509_certificate(der),
        )
    except ValueError as error:
        raise HandshakeFailed("certificate-not-valid", str(error)) from error
