"""receiver: storage SCP and recovery SCP; never loads torch."""

from __future__ import annotations

import gc
import socket
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
from gateway.app.receivers import not_bound
from gateway.app.records import records_of
from gateway.app.sharing import Sharing
from gateway.audit.process import recorded
from gateway.dicom.counts import SharedCounts
from gateway.dicom.listener import Parts, Share, listen
from gateway.store.index import Index
from gateway.store.private import use_private_temporary

if TYPE_CHECKING:
    from gateway.sealing.master import Keys


def run_receiver(config: Path, sharing: Sharing | None = None) -> None:
    """Receive and give back until SIGTERM or SIGINT, in this process.

    Parameters
    ----------
    config
        The site's file.
    sharing
        What it has in common with other receiving processes; None: it is alone.
    """
    site, places = begin(config)
    if sharing is not None:
        _open_and_receive(site, places, sharing)
        return
    with only_one(places, "receiver"):
        _open_and_receive(site, places, None)


def _open_and_receive(site: Site, places: Places, sharing: Sharing | None) -> None:
    name = "receiver" if sharing is None else f"receiver-{sharing.number}"
    use_private_temporary(places.temporary(name))
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index:
        _receive(site, places, index, keys, sharing)


def _receive(
    site: Site, places: Places, index: Index, keys: Keys, sharing: Sharing | None
) -> None:
    check_tls(site)
    store = sealed_store(site, places, index, keys)
    audit = open_audit_of(site, keys)
    records = records_of(site, store, keys)
    access = open_access_of(site, index, audit, keys)
    parts = Parts(store=store, index=index, audit=audit, records=records, access=access)
    try:
        running = listen(site, parts, _share_of(sharing))
    except OSError as error:
        raise not_bound(site, error) from error
    gc.freeze()  # what is loaded by now stays: no collection looks at it
    try:
        if sharing is not None:
            # One process keeps the clock; the parent keeps trail and ports.
            tick = access.tick if sharing.number == 0 else _nothing
            wait_for_stop(sharing.tell_ready, tick)
            return
        with recorded(audit, "receiver", site):
            ready = partial(write_ports, places.ports, asdict(running.ports))
            wait_for_stop(ready, access.tick)
            places.ports.unlink(missing_ok=True)
    finally:
        if sharing is None:
            places.ports.unlink(missing_ok=True)
        running.stop()


def _share_of(sharing: Sharing | None) -> Share:
    if sharing is None:
        return Share()
    return Share(
        number=sharing.number,
        counts=SharedCounts(sharing.counts, sharing.number),
        sockets={n: socket.socket(fileno=fd) for n, fd in sharing.sockets.items()},
    )


def _nothing() -> None:
    """Leave it to another process."""
