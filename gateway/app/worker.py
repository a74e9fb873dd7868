"""worker: completion, routing, protection, export."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dbos import DBOS

from config.schema import Site
from gateway import log
from gateway.app.executors import executor_of, shown
from gateway.app.keeping import keeper_of
from gateway.app.openers import (
    open_audit_of,
    open_fence_of,
    open_index_of,
    open_keys_of,
    open_secrets_of,
    open_tls_of,
    open_vault_of,
    server_of_site,
)
from gateway.app.places import Places
from gateway.app.process import begin, leave, only_one, sealed_store
from gateway.audit.process import recorded
from gateway.dicom.commitment_scu import CommitmentUser
from gateway.dicom.parse import Bounds
from gateway.dicom.sender import Sender
from gateway.dicom.transcode import Transcoder
from gateway.route.completion import idle_times
from gateway.route.rules import compile_router
from gateway.stages.attempts import Attempts
from gateway.stages.commit import Committer
from gateway.stages.export import Exporter
from gateway.stages.flow import Flow
from gateway.stages.gate import Gate
from gateway.stages.heartbeat import Heartbeat
from gateway.stages.hours import schedules_of
from gateway.stages.jobs_base import check_jobs
from gateway.stages.orders import Timing
from gateway.stages.protectors import device_of
from gateway.stages.queues import declare_queues, jobs_config, listen
from gateway.stages.recipes import build_protection
from gateway.stages.rescue import Rescue
from gateway.stages.sweep import Sweep
from gateway.stages.workflows import Jobs
from gateway.store.files import FileStore
from gateway.store.index import Index, utc_now
from gateway.store.private import use_private_temporary
from gateway.store.work import Work
from gateway.supervise import on_stop_signal

if TYPE_CHECKING:
    from dbos import DBOSConfig

    from gateway.sealing.master import Keys


def run_worker(config: Path, slot: int = 0) -> None:
    """Work until SIGTERM or SIGINT, then hand back what is under way.

    The process ends without waiting for parked steps: their jobs are durable,
    and any other worker takes them up at once.

    Parameters
    ----------
    config
        The site's file.
    slot
        Which of the workers of this machine it is.
    """
    site, places = begin(config)
    name = f"worker-{slot}"
    with only_one(places, name):
        use_private_temporary(places.temporary(name))
        keys = open_keys_of(site)
        audit = open_audit_of(site, keys)
        with closing(open_index_of(site, keys, patient=True)) as index:
            _limit_threads(site.worker.cpu_threads)
            with recorded(audit, "worker", site):
                _work(_on_device(site, slot), places, index, keys, slot)
            leave()


def _work(site: Site, places: Places, index: Index, keys: Keys, slot: int) -> None:
    device = site.protection.device
    executor = executor_of(site, "worker", slot, device)
    destinations = {d.name: d for d in site.destinations}
    gate = Gate(open_fence_of(site))
    work = Work(index.database)
    stop = threading.Event()
    with shown(site, index, executor) as heartbeat:
        DBOS(config=_jobs_config(site, places, executor.id))
        listen(device, destinations)
        store = sealed_store(site, places, index, keys, patient=True)
        sender = Sender(open_tls_of(site), Transcoder(Bounds.of(site.limits)))
        hands = Hands(gate, heartbeat, sender)
        jobs = build_jobs(site, index, store, keys, hands)
        DBOS.launch()
        declare_queues(destinations)
        rescue = Rescue(
            work,
            executor.id,
            silent_seconds=site.worker.silent_seconds,
            keep=timedelta(days=site.jobs.keep_days),
            now=utc_now,
        )
        rescue.give_up_older()
        sweep = Sweep(
            index=index,
            work=work,
            jobs=jobs,
            idle=idle_times(site),
            clock=utc_now,
            rescue=rescue,
        )
        log.get_logger("worker").info("working", executor=executor.id, device=device)
        if slot == 0:  # once on a machine is enough
            # Beside the sweep: trying recoveries may take long, closing must not.
            keeper = keeper_of(site, index, store, keys)
            threading.Thread(target=keeper.run, args=(stop,), daemon=True).start()
        with on_stop_signal(stop.set):
            sweep.run(stop, site.completion.poll_seconds)
        closed = gate.close(site.worker.stop_seconds)
        sender.close()
        if not closed:
            log.get_logger("worker").warning("handed-back-unfinished")
        work.forget_attempts_of(executor.id)


class Hands(NamedTuple):
    """What every step of this process goes through, and who it is."""

    gate: Gate
    heartbeat: Heartbeat
    sender: Sender


def build_jobs(
    site: Site, index: Index, store: FileStore, keys: Keys, hands: Hands
) -> Jobs:
    """Put the steps of a site together, behind the job queue."""
    vault = open_vault_of(site, keys, patient=True)
    work = Work(index.database)
    check = hands.heartbeat.check
    protection = build_protection(
        site, open_secrets_of(site, keys), index, store, vault
    )
    flow = Flow(
        index=index,
        store=store,
        router=compile_router(site),
        protection=replace(protection, check=check),
        attempts=Attempts(work, hands.heartbeat.id),
        bounds=Bounds.of(site.limits),
    )
    exporter = Exporter(
        index=index,
        store=store,
        vault=vault,
        audit=open_audit_of(site, keys),
        destinations={d.name: d for d in site.destinations},
        calling_ae=site.receiver.ae_title,
        send=hands.sender.send,
    )
    timing = Timing(schedules=schedules_of(site), check=check, space=store.space)
    committer = Committer(
        index=index,
        audit=exporter.audit,
        destinations=exporter.destinations,
        ask=CommitmentUser(calling_ae=exporter.calling_ae, tls=hands.sender.tls).ask,
    )
    return Jobs(flow, exporter, hands.gate, work, timing, committer)


def _jobs_config(site: Site, places: Places, executor: str) -> DBOSConfig:
    """Say where the job queue is: in a file, or on the server of the index."""
    server = server_of_site(site)
    if server is None:
        check_jobs(places.jobs)
        return jobs_config(f"sqlite:///{places.jobs}", executor)
    url = server.url.render_as_string(hide_password=False)
    return jobs_config(url, executor, server.jobs_schema)


def _on_device(site: Site, slot: int) -> Site:
    """Say on which device this worker protects: GPUs are shared out in turn."""
    device = site.protection.device
    if device == "auto":
        device = device_of(slot)
    protection = site.protection.model_copy(update={"device": device})
    return site.model_copy(update={"protection": protection})


def _limit_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
