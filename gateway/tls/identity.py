"""The gateway's TLS identity, taken up anew when its files change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from config.schema import Tls
from gateway.errors import ConfigurationError
from gateway.tls.certificates import fingerprint_of
from gateway.tls.contexts import Contexts, make_contexts
from gateway.tls.handshake import Requested
from gateway.tls.material import (
    Material,
    ReadSecret,
    material_mistakes,
    passphrase_of,
    read_material,
)

LOG = structlog.get_logger(component="tls")

LOOK_SECONDS: Final = 1.0

Stamp = tuple[int, int, int, int] | None
Report = Callable[[str], None]
"""Told of a change of the files: empty, or what is wrong with them."""


class Expected(Protocol):
    """The settings of a peer that this side calls."""

    @property
    def host(self) -> str:
        """Where it is."""

    @property
    def tls_name(self) -> str | None:
        """Name its certificate must hold; None: the host."""

    @property
    def certificates(self) -> tuple[Path | str, ...]:
        """Its certificates; then names do not count."""


@dataclass(frozen=True)
class _Loaded:
    stamps: tuple[Stamp, ...]
    material: Material
    contexts: Contexts
    until: datetime | None


class TlsIdentity:
    """Contexts for new connections, always of the files as they are now.

    Files are looked at when a connection is made, at most once a second. Files
    that cannot be used leave the contexts as they were; that is reported once for
    each change. Connections that exist live on.

    Parameters
    ----------
    settings
        The ``[tls]`` table.
    read_secret
        Returns the secret behind a ``KeySource``, for the key's passphrase.
    report
        Told of every change after the first load.
    clock
        Returns the present, aware.
    monotonic
        Seconds, for how often to look.

    Raises
    ------
    ConfigurationError
        The files cannot be used; one line for each mistake.
    """

    def __init__(
        self,
        settings: Tls,
        read_secret: ReadSecret,
        *,
        report: Report = lambda _fault: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._read_secret = read_secret
        self._report = report
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._looked = monotonic()
        self._tried = _stamps(settings)
        self._loaded = self._load(self._tried)

    @property
    def material(self) -> Material:
        """The files in use."""
        return self._current().material

    @property
    def contexts(self) -> Contexts:
        """The contexts for a new connection."""
        return self._current().contexts

    def now(self) -> datetime:
        """Return the present, aware."""
        return self._clock()

    def requested(self, peer: Expected) -> Requested:
        """Return how to connect to a peer of the settings.

        Raises
        ------
        ConfigurationError
            A certificate file of the peer cannot be read.
        """
        loaded = self._current()
        pins = frozenset(fingerprint_of(one) for one in peer.certificates)
        contexts = loaded.contexts
        return Requested(
            context=contexts.pinning if pins else contexts.client,
            server_name=peer.tls_name or peer.host,
            pins=pins,
            revoked=loaded.material.revoked,
            clock=self._clock,
        )

    def _current(self) -> _Loaded:
        with self._lock:
            if self._monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = self._monotonic()
                self._look()
            return self._loaded

    def _look(self) -> None:
        """Take up changed files; also when a list ends, to forget sessions."""
        stamps = _stamps(self._settings)
        until = self._loaded.until
        if stamps == self._tried and (until is None or self._clock() < until):
            return
        changed = stamps != self._tried
        self._tried = stamps
        try:
            self._loaded = self._load(stamps)
        except ConfigurationError as error:
            if changed:
                LOG.warning("tls files not taken up", error=str(error))
                self._report(str(error))
            return
        if changed:
            LOG.info("tls files taken up")
            self._report("")

    def _load(self, stamps: tuple[Stamp, ...]) -> _Loaded:
        material = read_material(self._settings)
        now = self._clock()
        mistakes = list(material_mistakes(material, self._read_secret, now))
        if mistakes:
            raise ConfigurationError("\n".join(mistakes))
        passphrase = passphrase_of(self._settings, self._read_secret)
        contexts = make_contexts(material, passphrase)
        ends = [e.end for e in material.endings() if e.end > now]
        return _Loaded(stamps, material, contexts, min(ends, default=None))


def _stamps(settings: Tls) -> tuple[Stamp, ...]:
    paths: Sequence[Path] = (
        settings.certificate,
        settings.key,
        *settings.authorities,
        *settings.revocation_lists,
    )
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode
