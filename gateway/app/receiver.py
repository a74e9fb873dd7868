"""receiver: storage SCP and recovery SCP; never loads torch."""

from __future__ import annotations

import gc
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from config.schema import Site
from gateway.app.openers import (
    open_access_of,
    open_audit_of,
    open_index_of,
    open_keys_of,
)
from gateway.app.places import Places
from gateway.app.process import (
    begin,
    check_tls,
    only_one,
    sealed_store,
    wait_for_stop,
    write_ports,
)
from gateway.app.records import records_of
from gateway.audit.process import recorded
from gateway.dicom.listener import start_receiver
from gateway.errors import GatewayError
from gateway.store.index import Index
from gateway.store.private import use_private_temporary

if TYPE_CHECKING:
    from gateway.sealing.master import Keys


def run_receiver(config: Path, lifeline: int | None = None) -> None:
    """Receive and give back until SIGTERM or SIGINT."""
    site, places = begin(config, lifeline)
    with only_one(places, "receiver"):
        use_private_temporary(places.temporary("receiver"))
        keys = open_keys_of(site)
        with closing(open_index_of(site, keys)) as index:
            _receive(site, places, index, keys)


def _receive(site: Site, places: Places, index: Index, keys: Keys) -> None:
    check_tls(site)
    store = sealed_store(site, places, index, keys)
    audit = open_audit_of(site, keys)
    records = records_of(site, store, keys)
    access = open_access_of(site, index, audit, keys)
    try:
        running = start_receiver(site, store, index, audit, records, access)
    except OSError as error:
        raise GatewayError(
            f"cannot listen on {_addresses(site)}: {error.strerror or error}"
        ) from error
    try:
        with recorded(audit, "receiver", site):
            gc.freeze()  # what is loaded by now stays: no collection looks at it
            ready = partial(write_ports, places.ports, asdict(running.ports))
            wait_for_stop(ready, access.tick)
            places.ports.unlink(missing_ok=True)
    finally:
        places.ports.unlink(missing_ok=True)
        running.stop()


def _addresses(site: Site) -> str:
    ends = (site.receiver, site.recovery)
    ports = [(end.host, end.port) for end in ends if site.tls is not None]
    ports += [(e.host, e.plain_port) for e in ends if e.plain_port is not None]
    return ", ".join(f"{host}:{port}" for host, port in ports)
