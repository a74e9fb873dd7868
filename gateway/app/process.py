"""What all processes of a gateway share: their start, their locks, their stop."""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from config.schema import Site
from gateway import log
from gateway.app.places import Places
from gateway.errors import GatewayError
from gateway.sealing.process import harden_process
from gateway.store.durable import write_durably
from gateway.store.private import close_to_others
from gateway.supervise import on_stop_signal

if TYPE_CHECKING:
    from gateway.sealing.master import Keys
    from gateway.store.files import FileStore
    from gateway.store.index import Index

# What only the working processes need is loaded by them: their parents stay small.

LOG = log.get_logger("process")

TICK_SECONDS: Final = 30.0
LONGEST_STOP_SECONDS: Final = 12.0
"""Shorter than a supervisor waits before it kills."""


def begin(config: Path) -> tuple[Site, Places]:
    """Load the settings."""
    from gateway.route.rules import load_checked

    return begin_with(load_checked, config)


def begin_with(load: Callable[[Path], Site], config: Path) -> tuple[Site, Places]:
    """Do the same with what only loads the settings."""
    harden_process()
    site = load(config)
    log.configure(site.log.level, site.log.format)
    close_to_others(site.data_directory)
    return site, Places(site.data_directory)


def sealed_store(
    site: Site, places: Places, index: Index, keys: Keys, *, patient: bool = False
) -> FileStore:
    """Open the store; whoever starts first seals what an earlier build left clear.

    What a killed process of this machine left among what comes in goes, too. A store
    that several machines share is tried first: it has to keep its word.
    """
    from gateway.app.openers import open_objects_of, open_store_of
    from gateway.store.convert import seal_clear_files

    shared = open_objects_of(site, patient=patient)
    if shared is not None:
        shared.check_conditions()
    store = open_store_of(site, keys, patient=patient)
    with only_one(places, "store"):
        seal_clear_files(store, index)
    if left := store.clear_incoming():
        log.get_logger("store").info("incoming-cleared", files=left)
    return store


def check_tls(site: Site) -> None:
    """Refuse settings with which nothing would listen, or nobody be let in."""
    from gateway.sealing.providers import Environment, read_secret
    from gateway.tls.check import check_tls

    # A copy: the processes that are started after this need the passphrase too.
    environment = Environment(dict(os.environ))

    def read(source: str) -> bytes:
        return read_secret(source, site.data_directory, environment)

    check_tls(site, read, datetime.now(UTC))


def wait_for_stop(ready: Callable[[], None], tick: Callable[[], None]) -> None:
    """Say that all is ready, and wait for SIGTERM or SIGINT; see the time pass.

    ``tick`` has a thread of its own: a stop does not wait for what it waits for.

    From the signal on the process lives `LONGEST_STOP_SECONDS` at most: what it has
    acknowledged is durable, and its peers send the rest again.
    """
    stop = threading.Event()
    with on_stop_signal(stop.set):
        ready()
        threading.Thread(
            target=_keep_time, args=(tick, stop), name="clock", daemon=True
        ).start()
        stop.wait()
    end = threading.Timer(LONGEST_STOP_SECONDS, _cut_short)
    end.daemon = True
    end.start()


def _keep_time(tick: Callable[[], None], stop: threading.Event) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    while not stop.wait(TICK_SECONDS):
        try:
            tick()
        except (GatewayError, SQLAlchemyError) as error:
            LOG.error(  # noqa: TRY400 - a traceback may quote
                "clock-not-kept", error=log.described(error)
            )


def _cut_short() -> None:
    """End now, and leave in the log what every thread was at."""
    LOG.warning("stop-cut-short", after=LONGEST_STOP_SECONDS)
    faulthandler.dump_traceback(all_threads=True)
    leave()


def leave() -> None:
    """End now: threads that are left would keep the interpreter alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def only_one(places: Places, process: str) -> Iterator[BinaryIO]:
    """Wait until no other process of the kind works in this data directory.

    After a kill -9 of its supervisor, a child of before may still be ending;
    two workers on one queue would do the same work twice.
    """
    path = places.lock(process)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.get_logger(process).warning("waiting-for-other", lock=str(path))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def write_ports(path: Path, ports: dict[str, int | None]) -> None:
    """Say where a process listens."""
    write_durably(path, json.dumps(ports | {"pid": os.getpid()}).encode())
