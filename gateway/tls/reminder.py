"""Reminders of what will end: at the start and every day, in the log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import structlog

from config.schema import Site
from gateway.errors import ConfigurationError
from gateway.tls.material import (
    PinnedEnding,
    material_warnings,
    pinned_endings,
    read_material,
)

LOG = structlog.get_logger(component="tls")

DAY_SECONDS: Final = 86_400.0


def tls_warnings(site: Site, now: datetime) -> Iterator[str]:
    """Yield which certificates and revocation lists end soon, or have ended.

    Raises
    ------
    ConfigurationError
        A certificate or a revocation list cannot be read.
    """
    if site.tls is None:
        return
    yield from material_warnings(read_material(site.tls), now)
    for ending in site_endings(site):
        sentence = ending.warning(now, site.tls.warn_days)
        if sentence is not None:
            yield sentence


def site_endings(site: Site) -> Iterator[PinnedEnding]:
    """Yield the ends of all certificates that are pinned by file.

    Raises
    ------
    ConfigurationError
        One of the files cannot be read.
    """
    for node in site.nodes:
        yield from pinned_endings(f"node {node.name!r}", node.certificates)
        if node.commitment is not None:
            yield from pinned_endings(
                f"node {node.name!r}", node.commitment.certificates
            )
    for person in site.people:
        yield from pinned_endings(f"person {person.name!r}", person.certificates)
    for destination in site.destinations:
        name = f"destination {destination.name!r}"
        for address in destination.called:
            yield from pinned_endings(name, address.certificates)
    for place in site.recovery.destinations:
        name = f"move destination {place.ae_title!r}"
        yield from pinned_endings(name, place.certificates)
    if site.audit.collector is not None:
        yield from pinned_endings(
            "the audit collector", site.audit.collector.certificates
        )


class Reminder:
    """Logs `tls_warnings` at the start and every day after.

    Parameters
    ----------
    site
        The settings; the files they name are read each time.
    clock
        Returns the present, aware.
    every_seconds
        Between two reminders.
    """

    def __init__(
        self,
        site: Site,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        every_seconds: float = DAY_SECONDS,
    ) -> None:
        self._site = site
        self._clock = clock
        self._every = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="TlsReminder", daemon=True
        )

    def start(self) -> None:
        """Remind now, and go on in a thread."""
        self._remind()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            self._remind()

    def _remind(self) -> None:
        try:
            for sentence in tls_warnings(self._site, self._clock()):
                LOG.warning("tls reminder", warning=sentence)
        except ConfigurationError as error:
            LOG.warning("tls reminder", warning=str(error))
