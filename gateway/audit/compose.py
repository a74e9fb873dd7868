"""The auditor of a site, put together."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
from datetime import UTC, datetime
from functools import partial
from typing import Final

from config.schema import Collector, Site, Tls
from gateway.audit.auditor import Auditor, Checkpointer, Rhythm, Translator
from gateway.audit.checkpoints import SEED_LENGTH, CheckpointSigner
from gateway.audit.collector import CollectorLost
from gateway.audit.cursor import Cursor
from gateway.audit.forwarder import Forwarder
from gateway.audit.log import AuditLog
from gateway.audit.mapping import Source
from gateway.audit.sealer import KEY_LENGTH, AesFieldSealer
from gateway.audit.syslog import Header
from gateway.errors import ConfigurationError, HandshakeFailed
from gateway.sealing.providers import read_secret
from gateway.sealing.secrets import SecretStore
from gateway.tls.handshake import secure_requested
from gateway.tls.identity import TlsIdentity

SIGNER: Final = "audit-signer"
APP_NAME: Final = "miad-gateway"


def build_auditor(site: Site, audit: AuditLog, store: SecretStore) -> Auditor:
    """Put the auditor of a site together.

    Raises
    ------
    ConfigurationError
        A secret does not open, or TLS cannot be used.
    """
    settings = site.audit
    checkpointer = Checkpointer(
        audit,
        Cursor(audit.path.with_name("checkpoint.json")),
        open_signer(store),
        site.name,
        Rhythm(
            lines=settings.checkpoint_lines,
            seconds=settings.checkpoint_seconds,
            segment_bytes=settings.segment_bytes,
        ),
        lambda: datetime.now(UTC),
    )
    if settings.collector is None:
        return Auditor(checkpointer)
    if site.tls is None:
        raise ConfigurationError("[audit.collector] needs a [tls] table")
    identity = _identity(site.tls, site)
    forwarder = Forwarder(
        audit,
        Cursor(audit.path.with_name("forwarded.json")),
        partial(connect_to, identity, settings.collector),
        _translator(site, settings.collector, audit, store),
        timeout_seconds=settings.collector.timeout_seconds,
    )
    return Auditor(checkpointer, forwarder)


def open_signer(store: SecretStore) -> CheckpointSigner:
    """Return the key that signs checkpoints; made on first use."""
    seed = store.get_or_make(
        SIGNER, lambda: secrets.token_bytes(SEED_LENGTH), CheckpointSigner
    )
    return CheckpointSigner(seed)


def connect_to(identity: TlsIdentity, collector: Collector) -> ssl.SSLSocket:
    """Connect to a collector over TLS, with the gateway's certificate.

    Raises
    ------
    OSError
        It cannot be reached, or is not the one that is meant.
    """
    seconds = collector.timeout_seconds
    connection = socket.create_connection((collector.host, collector.port), seconds)
    try:
        return secure_requested(connection, identity.requested(collector), seconds)
    except (HandshakeFailed, ConfigurationError) as error:
        connection.close()
        raise CollectorLost(str(error)) from error


def _identity(tls: Tls, site: Site) -> TlsIdentity:
    return TlsIdentity(tls, partial(read_secret, base_directory=site.data_directory))


def _translator(
    site: Site, collector: Collector, audit: AuditLog, store: SecretStore
) -> Translator:
    source = Source(
        name=site.name,
        ae_titles=(site.receiver.ae_title, site.recovery.ae_title),
        trail=audit.path.absolute().as_uri(),
    )
    header = Header(
        hostname=socket.gethostname(),
        app_name=APP_NAME,
        process_id=str(os.getpid()),
        message_id=collector.message_id,
    )
    sealer = AesFieldSealer(store.get("audit", KEY_LENGTH))
    return Translator(source, header, sealer)
