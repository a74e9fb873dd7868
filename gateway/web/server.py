"""The HTTPS server: uvicorn behind the doorman, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import structlog
import uvicorn

from config.schema import Site
from gateway.audit.log import AuditLog
from gateway.audit.refusals import RefusalLog
from gateway.dicom.connections import ConnectionGate
from gateway.errors import ConfigurationError, GatewayError
from gateway.sealing.providers import read_secret
from gateway.tls.identity import TlsIdentity
from gateway.web.application import build_application
from gateway.web.doorman import Door, Doorman
from gateway.web.parts import Watch, WebParts
from gateway.web.visitors import Registry

LOG = structlog.get_logger(component="web")

LONGEST_HEAD_BYTES: Final = 1 << 15
"""Request line and headers."""
KEEP_ALIVE_SECONDS: Final = 30
STOP_SECONDS: Final = 10
BACKLOG: Final = 256


class RunningWeb:
    """A server that listens; `stop` ends it.

    Attributes
    ----------
    port
        Where it listens.
    """

    def __init__(
        self, server: uvicorn.Server, listening: socket.socket, refusals: RefusalLog
    ) -> None:
        self._server = server
        self._socket = listening
        self._refusals = refusals
        self.port: int = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, let requests finish, then end."""
        self._server.should_exit = True
        self._thread.join()
        self._refusals.flush(now=True)

    def tick(self) -> None:
        """Record counted refusals that are due; called now and then."""
        self._refusals.flush()

    def _serve(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._socket.close()


def start_web(site: Site, parts: WebParts) -> RunningWeb:
    """Listen for HTTPS.

    Parameters
    ----------
    site
        The settings; port 0 takes any free port.
    parts
        What is shown.

    Returns
    -------
    RunningWeb
        Listening when this returns.

    Raises
    ------
    ConfigurationError
        There is no ``[tls]`` table, or its files cannot be used.
    GatewayError
        The address cannot be bound.
    """
    if site.tls is None:
        raise ConfigurationError(
            "web.enabled needs a [tls] table: console and DICOMweb are HTTPS only; "
            "miad-gateway pki makes certificates"
        )
    identity = TlsIdentity(
        site.tls,
        partial(read_secret, base_directory=site.data_directory),
        report=_reporter(parts.audit),
    )
    registry = Registry(parts.access, identity)
    refusals = RefusalLog(parts.audit)
    door = Door(
        gate=ConnectionGate(site.limits, refusals),
        identity=identity,
        visitors=registry,
        refusals=refusals,
        limits=site.limits,
    )
    watch = Watch(registry=registry, identity=identity, refusals=refusals)
    config = uvicorn.Config(
        build_application(site, parts, watch),
        # uvicorn calls it with what it gives each of its protocols.
        http=cast("Any", partial(Doorman, door)),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",  # its texts could hold a query, that is a name
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=site.web.max_connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=LONGEST_HEAD_BYTES,
    )
    return RunningWeb(uvicorn.Server(config), _listening(site), refusals)


def _listening(site: Site) -> socket.socket:
    host, port = site.web.host, site.web.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise GatewayError(
            f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error


def _reporter(audit: AuditLog) -> Callable[[str], None]:
    """Return what records changes of the certificate files."""

    def report(fault: str) -> None:
        audit.note("tls", "failure" if fault else "success", error=fault)

    return report
