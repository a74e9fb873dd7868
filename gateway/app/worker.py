"""worker: completion, routing, protection, export."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dbos import DBOS

from config.schema import Site
from gateway import log
from gateway.app.keeping import keeper_of
from gateway.app.openers import (
    open_audit_of,
    open_index_of,
    open_keys_of,
    open_secrets_of,
    open_tls_of,
    open_vault_of,
)
from gateway.app.places import Places
from gateway.app.process import begin, only_one, sealed_store
from gateway.audit.process import recorded
from gateway.dicom.parse import Bounds
from gateway.dicom.sender import send_objects
from gateway.route.completion import idle_times
from gateway.route.rules import compile_router
from gateway.stages.attempts import Attempts
from gateway.stages.export import Exporter
from gateway.stages.flow import Flow
from gateway.stages.gate import Gate
from gateway.stages.jobs_base import check_jobs
from gateway.stages.recipes import build_protection
from gateway.stages.sweep import Sweep
from gateway.stages.workflows import Jobs, declare_queues, jobs_config
from gateway.store.fence import Fence
from gateway.store.files import FileStore
from gateway.store.index import Index, utc_now
from gateway.store.private import use_private_temporary
from gateway.supervise import on_stop_signal

if TYPE_CHECKING:
    from gateway.sealing.master import Keys


def run_worker(config: Path, lifeline: int | None = None) -> None:
    """Work until SIGTERM or SIGINT, then hand back what is under way.

    The process ends without waiting for parked steps: their jobs are durable
    and are taken up again at the next start.
    """
    site, places = begin(config, lifeline)
    with only_one(places, "worker"):
        use_private_temporary(places.temporary("worker"))
        keys = open_keys_of(site)
        audit = open_audit_of(site, keys)
        with closing(open_index_of(site, keys)) as index:
            _limit_threads(site.worker.cpu_threads)
            with recorded(audit, "worker", site):
                _work(site, places, index, keys)
            _leave()


def _work(site: Site, places: Places, index: Index, keys: Keys) -> None:

    gate = Gate(Fence(places.fence))
    check_jobs(places.jobs)
    DBOS(config=jobs_config(f"sqlite:///{places.jobs}", application_version()))
    store = sealed_store(site, places, index, keys)
    jobs = build_jobs(site, index, store, keys, gate)
    DBOS.launch()
    declare_queues()
    keeper = keeper_of(site, index, store, keys)
    sweep = Sweep(index=index, jobs=jobs, idle=idle_times(site), clock=utc_now)
    stop = threading.Event()
    log.get_logger("worker").info("working")
    # Beside the sweep: trying recoveries may take long, closing series must not.
    threading.Thread(target=keeper.run, args=(stop,), daemon=True).start()
    with on_stop_signal(stop.set):
        sweep.run(stop, site.completion.poll_seconds)
    if not gate.close(site.worker.stop_seconds):
        log.get_logger("worker").warning("handed-back-unfinished")
    Attempts(places.attempts).forget()


def build_jobs(
    site: Site, index: Index, store: FileStore, keys: Keys, gate: Gate
) -> Jobs:
    """Put the steps of a site together, behind the job queue."""
    places = Places(site.data_directory)
    vault = open_vault_of(site, keys)
    flow = Flow(
        index=index,
        store=store,
        router=compile_router(site),
        protection=build_protection(
            site, open_secrets_of(site, keys), index, store, vault
        ),
        attempts=Attempts(places.attempts),
        bounds=Bounds.of(site.limits),
    )
    exporter = Exporter(
        index=index,
        store=store,
        vault=vault,
        audit=open_audit_of(site, keys),
        destinations={d.name: d for d in site.destinations},
        calling_ae=site.receiver.ae_title,
        send=partial(send_objects, tls=open_tls_of(site)),
    )
    return Jobs(flow, exporter, gate, space=store.space)


def application_version() -> str:
    """Return the version jobs are recorded under: the major one.

    A job begun by one release is finished by the next, as long as workflows
    keep their steps; one that changes them raises the major version.
    """
    return version("miad-gateway").split(".", 1)[0]


def _limit_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _leave() -> None:
    """End now: threads of parked steps would keep the interpreter alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
