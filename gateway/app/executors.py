"""A run of a process, as the other processes of the site see it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from config.schema import Site
from gateway.stages.heartbeat import Heartbeat
from gateway.store.clock import timestamp, utc_now
from gateway.store.index import Index
from gateway.store.rows import Executor
from gateway.store.work import LIVE, Work


def executor_of(site: Site, kind: str, slot: int = 0, device: str = "") -> Executor:
    """Return what is shown of this process: its place, and this run of it."""
    started = timestamp(utc_now())
    return Executor(
        id=f"{site.machine.name}/{kind}-{slot}/{secrets.token_hex(4)}",
        machine=site.machine.name,
        kind=kind,
        slot=slot,
        pid=os.getpid(),
        device=device,
        version=version("miad-gateway"),
        state=LIVE,
        beats=0,
        started_at=started,
        beat_at=started,
    )


@contextmanager
def shown(site: Site, index: Index, executor: Executor) -> Iterator[Heartbeat]:
    """Show this process while the block lasts; whoever comes in holds its lock."""
    heartbeat = Heartbeat(Work(index.database), executor, site.worker.silent_seconds)
    heartbeat.start()
    try:
        yield heartbeat
    finally:
        heartbeat.stop()
