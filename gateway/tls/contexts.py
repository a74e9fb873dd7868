"""TLS as PS3.15 B.12 and B.13 and BCP 195 (RFC 8996, RFC 9325) want it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from config.schema import Tls
from gateway.errors import ConfigurationError
from gateway.tls.handshake import TlsSocket
from gateway.tls.material import Material

SUITES: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES128-CCM8",
)
"""The ten suites for TLS 1.2 that PS3.15 B.13 asks of a server, the best first, by
OpenSSL's names. Those with the short tag (CCM_8) come last: this side chooses."""

# 112 bits at least: RSA and DH of 2048, EC of 224, no SHA-1 (RFC 9325 4.2, 4.3).
SECURITY_LEVEL: Final = "@SECLEVEL=2"

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """The contexts made of one set of files.

    Attributes
    ----------
    server
        Asks every peer for a certificate and verifies it.
    client
        Verifies the peer's chain and its name (RFC 9525: alternative names only).
    pinning
        Verifies nothing: for peers of which the very certificate is known, and
        compared by `gateway.tls.handshake.secure_requested`.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    pinning: ssl.SSLContext


def make_contexts(material: Material, passphrase: bytes | None) -> Contexts:
    """Make the contexts of a ``[tls]`` table.

    Raises
    ------
    ConfigurationError
        OpenSSL does not take one of the files.
    """
    settings = material.settings
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, settings, passphrase)
        server.verify_mode = ssl.CERT_REQUIRED
        server.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        # No session outlives what its certificate was verified against.
        server.num_tickets = 0
        _trust(server, settings)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, settings, passphrase)
        client.hostname_checks_common_name = False
        _trust(client, settings)
        pinning = _context(ssl.PROTOCOL_TLS_CLIENT, settings, passphrase)
        pinning.check_hostname = False
        pinning.verify_mode = ssl.CERT_NONE
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"[tls]: OpenSSL: {error}") from error
    return Contexts(server=server, client=client, pinning=pinning)


def _context(protocol: int, settings: Tls, passphrase: bytes | None) -> ssl.SSLContext:
    """Make a context without trust, with the gateway's own certificate."""
    context = ssl.SSLContext(protocol)
    context.sslsocket_class = TlsSocket
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.set_ciphers(":".join(SUITES) + SECURITY_LEVEL)
    context.options |= (
        ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    )
    # Without a passphrase an encrypted key is an error, never a prompt.
    context.load_cert_chain(
        settings.certificate, settings.key, password=passphrase or b""
    )
    return context


def _trust(context: ssl.SSLContext, settings: Tls) -> None:
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for path in settings.authorities:
        context.load_verify_locations(cafile=path)
    for path in settings.revocation_lists:
        context.load_verify_locations(cafile=path)
    if settings.revocation_lists:
        # Of every certificate in the chain; without a current list: refused.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
