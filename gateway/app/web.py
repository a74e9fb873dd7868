"""web: console and DICOMweb over HTTPS; never loads torch."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from config.schema import Site
from gateway.app.executors import executor_of, shown
from gateway.app.openers import (
    open_access_of,
    open_audit_of,
    open_index_of,
    open_keys_of,
)
from gateway.app.places import Places
from gateway.app.process import (
    begin,
    only_one,
    sealed_store,
    wait_for_stop,
    write_ports,
)
from gateway.app.records import records_of
from gateway.audit.process import recorded
from gateway.store.index import Index
from gateway.store.private import use_private_temporary
from gateway.web.parts import WebParts
from gateway.web.server import start_web

if TYPE_CHECKING:
    from gateway.sealing.master import Keys


def run_web(config: Path) -> None:
    """Answer over HTTPS until SIGTERM or SIGINT.

    Raises
    ------
    ConfigurationError
        There is no ``[tls]`` table, or its files cannot be used.
    """
    site, places = begin(config)
    with only_one(places, "web"):
        use_private_temporary(places.temporary("web"))
        keys = open_keys_of(site)
        with (
            closing(open_index_of(site, keys)) as index,
            shown(site, index, executor_of(site, "web")),
        ):
            _answer(site, places, index, keys)


def _answer(site: Site, places: Places, index: Index, keys: Keys) -> None:
    store = sealed_store(site, places, index, keys)
    audit = open_audit_of(site, keys)
    access = open_access_of(site, index, audit, keys)
    parts = WebParts(
        store=store,
        index=index,
        audit=audit,
        records=records_of(site, store, keys),
        access=access,
    )
    running = start_web(site, parts)

    def tick() -> None:
        access.tick()
        running.tick()

    try:
        with recorded(audit, "web", site):
            ready = partial(write_ports, places.web_port, {"web": running.port})
            wait_for_stop(ready, tick)
            places.web_port.unlink(missing_ok=True)
    finally:
        places.web_port.unlink(missing_ok=True)
        running.stop()
